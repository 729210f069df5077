"""Levels whose steps are small at clean data and at pure noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_auto.angles import AngleGrid


@dc.component
class Crash(AngleGrid):
    """u equally spaced, sin(phi) = sin(pi u / 2)^2, phi = arctan(sigma / (alpha scale)).

    Near clean data phi falls like u^2 (as in grid `quadratic`), in between faster than in `cosine`. The levels of CRASH, which
    PNDM's improved sampler took over: at 5 to 10 steps the best of the fixed grids on mixtures, with `exp-adams` of v or flow.
    """

    source: ClassVar[str] = "Rouard and Hadjeres 2021, arXiv 2106.07431; Crowson 2021 (v-diffusion)"

    def place(self, phi: Tensor) -> Tensor:
        """u = (2 / pi) arcsin(sin(phi)^(1/2))."""
        return phi.sin().clamp(0, 1).sqrt().asin() * (2 / torch.pi)

    def angle(self, place: Tensor) -> Tensor:
        """arcsin(sin(pi u / 2)^2)."""
        return ((place * torch.pi / 2).sin() ** 2).asin()

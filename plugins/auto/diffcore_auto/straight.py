"""The levels of the straight path at equal steps of its time."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_auto.angles import AngleGrid


@dc.component
class Straight(AngleGrid):
    """u = sigma / (alpha scale + sigma) equally spaced: sigma / alpha = scale u / (1 - u).

    These are the levels that the straight path alpha = 1 - u, sigma = u has at equally spaced u (with `scale`: at those of grid
    `shifted` with shift = scale), for any affine process.
    """

    source: ClassVar[str] = "Liu et al. 2022, arXiv 2209.03003; Lipman et al. 2022, arXiv 2210.02747; Esser et al. 2024 (scale)"

    def place(self, phi: Tensor) -> Tensor:
        """u."""
        return phi.sin() / (phi.sin() + phi.cos())

    def angle(self, place: Tensor) -> Tensor:
        """arctan(u / (1 - u))."""
        return torch.atan2(place, 1 - place)

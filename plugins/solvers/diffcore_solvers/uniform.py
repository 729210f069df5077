"""Equal steps in t."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_solvers.levels import EndedGrid


@dc.component
class Uniform(EndedGrid):
    """t_i = start + (i / N) (end - start), i = 0 .. N; straight to t = 0 unless `end` is t_min."""

    source: ClassVar[str] = "Ho et al. 2020, arXiv 2006.11239"
    items: ClassVar[tuple[str, ...]] = ("9.13", "R26")

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """The N + 1 times."""
        return torch.linspace(start, self.last(process), steps + 1, dtype=torch.float64)

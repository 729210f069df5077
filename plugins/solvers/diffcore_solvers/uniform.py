"""Equal steps in t."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_solvers.levels import EndedGrid


@dc.component
class Uniform(EndedGrid):
    """t_i = start + (i / N) (end - start), i = 0 .. N; straight to t = 0 unless `end` is t_min.

    With so many steps that a time would lie below min_time, N - 1 steps to min_time and one from there.
    """

    source: ClassVar[str] = "Ho et al. 2020, arXiv 2006.11239"
    items: ClassVar[tuple[str, ...]] = ("9.13", "R26")

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """The N + 1 times."""
        return process.times_down(
            steps, lambda n, end: torch.linspace(start, end, n + 1, dtype=torch.float64), self.last(process)
        )

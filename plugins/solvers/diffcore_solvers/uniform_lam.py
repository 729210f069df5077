"""Equal steps in lam = log(alpha / sigma)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_solvers.levels import EndedGrid, times_of_levels


@dc.component
class UniformLam(EndedGrid):
    """lam = log(alpha / sigma) equally spaced from the start to the process's min_time, then one jump to t = 0; N steps in all.

    lam is cut to [lam_min, lam_max]; where these are not named, to [-5, 5] at an end where the process is unbounded
    (|lam| > 9.2: pure noise at T, or clean data at min_time). A start beyond lam_min is the first time, and the equal steps
    begin at the second. With `end: t_min` the last time is min_time.
    """

    source: ClassVar[str] = "Lu et al. 2022, arXiv 2206.00927, section 4"
    items: ClassVar[tuple[str, ...]] = ("9.13", "R26")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    lam_min: float | None = dc.param(default=None, ge=-50, le=50, doc="smallest log(alpha / sigma) of the equal steps")
    lam_max: float | None = dc.param(default=None, ge=-50, le=50, doc="largest log(alpha / sigma) of the equal steps")

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """The N + 1 times."""
        ends, bounds = (start, self.last(process)), (self.lam_min, self.lam_max)
        return times_of_levels(process, steps, ends, bounds, _line)


def _line(low: float, high: float, count: int) -> Tensor:
    return torch.linspace(low, high, count, dtype=torch.float64)

"""The noise levels of EDM."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_solvers.levels import CLEANEST, NOISIEST, EndedGrid, times_of_levels


@dc.component
class Karras(EndedGrid):
    """(sigma / alpha)^(1/rho) equally spaced from sigma_max to sigma_min, then one jump to t = 0; N steps in all.

    Where no bound is named, the process's own levels at T and at min_time are used, cut to sigma / alpha in [9.1e-4, 403].
    A start noisier than sigma_max is the first time, and the spacing begins at the second.
    """

    source: ClassVar[str] = "Karras et al. 2022, arXiv 2206.00364, equation 5"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    rho: float = dc.field(default=7.0, gt=0, doc="exponent: 1 is uniform in sigma / alpha, larger is denser near the data")
    sigma_min: float | None = dc.field(default=None, gt=0, doc="smallest sigma / alpha before the jump to 0")
    sigma_max: float | None = dc.field(default=None, gt=0, doc="largest sigma / alpha after the start")

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """The N + 1 times."""
        low = NOISIEST if self.sigma_max is None else -math.log(self.sigma_max)
        high = CLEANEST if self.sigma_min is None else -math.log(self.sigma_min)
        return times_of_levels(process, steps, (start, self.last(process)), (low, high), self._curve)

    def _curve(self, low: float, high: float, count: int) -> Tensor:
        roots = torch.linspace(math.exp(-low / self.rho), math.exp(-high / self.rho), count, dtype=torch.float64)
        return -self.rho * roots.log()

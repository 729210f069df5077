"""The noise levels of EDM."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_solvers.levels import EndedGrid, times_of_levels


@dc.component
class Karras(EndedGrid):
    """(sigma / alpha)^(1/rho) equally spaced from sigma_max to sigma_min, then one jump to t = 0; N steps in all.

    A bound that is not named is the process's own level at T or at min_time, or 148 and 1/148 where the process is unbounded
    there (a ratio above 1e4: pure noise at T, or clean data at min_time). A start noisier than sigma_max is the first time,
    and the spacing begins at the second. With `end: t_min` the last time is min_time.
    """

    source: ClassVar[str] = "Karras et al. 2022, arXiv 2206.00364, equation 5"
    items: ClassVar[tuple[str, ...]] = ("9.13", "R26")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    rho: float = dc.param(
        default=7.0, gt=0, le=1000, doc="exponent: 1 is uniform in sigma / alpha, larger is denser near the data"
    )
    sigma_min: float | None = dc.param(default=None, gt=0, le=1e6, doc="smallest sigma / alpha before the jump to 0")
    sigma_max: float | None = dc.param(default=None, gt=0, le=1e6, doc="largest sigma / alpha after the start")

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """The N + 1 times."""
        bounds = _lam(self.sigma_max), _lam(self.sigma_min)
        return times_of_levels(process, steps, (start, self.last(process)), bounds, self._curve)

    def _curve(self, low: float, high: float, count: int) -> Tensor:
        roots = torch.linspace(math.exp(-low / self.rho), math.exp(-high / self.rho), count, dtype=torch.float64)
        return -self.rho * roots.log()


def _lam(ratio: float | None) -> float | None:
    return None if ratio is None else -math.log(ratio)

"""Geometric noise levels: as a grid for sampling, as a law for training."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

WIDEST = math.log(100.0)
"""The |lam| at which a ladder begins or ends where the process has no bound of its own: a ratio of 100."""


def ladder(process: Any, count: int, start: float) -> Tensor:
    """`count` falling times from `start` to min_time whose sigma / alpha are in geometric progression, float64.

    Raises `SpecError` where `start` is no later than the last level.
    """
    ends = process.coeffs(torch.tensor([start, process.min_time], dtype=torch.float64)).lam.tolist()
    low, high = (lam if math.isfinite(lam) else math.copysign(WIDEST, lam) for lam in ends)
    if not low < high:
        raise dc.SpecError(f"a ladder falls from its start to min_time = {process.min_time:.4g}; no room from t = {start:.4g}")
    times = process.t_of_lam(torch.linspace(low, high, count, dtype=torch.float64))
    times[0] = start
    return times


@dc.component
class Ladder(dc.Grid):
    """N levels sigma / alpha in geometric progression from the start to min_time, then clean data: N + 1 times.

    The ends are those of the process; 100 or 1 / 100 stands in where it has none (sigma = 0 at min_time, alpha = 0 at T).
    Raises `SpecError` where the start is at or below the last level.
    """

    source: ClassVar[str] = "Song and Ermon 2019, arXiv 1907.05600"
    items: ClassVar[tuple[str, ...]] = ("3.15",)
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """The N + 1 times, float64."""
        times = ladder(process, steps, start)
        if float(times[-1]) <= 0:  # the last level of the process is its data
            return ladder(process, steps + 1, start).clamp_min(0.0)
        return torch.cat([times, torch.zeros(1, dtype=torch.float64)])


@dc.component
class LadderLaw(dc.TimeLaw):
    """One of L times with equal probability, their levels sigma / alpha in geometric progression from T to min_time.

    With the denoising loss of eps (weight sigma^2 on the score) this is the objective of NCSN. Needs an affine process.
    """

    source: ClassVar[str] = "Song and Ermon 2019, arXiv 1907.05600"
    items: ClassVar[tuple[str, ...]] = ("3.14",)

    levels: int = dc.param(default=10, ge=2, le=65_536, doc="number of noise levels L")

    def __call__(self, process: dc.Process, draw: dc.Draw) -> Tensor:
        """Times, float64 (B,)."""
        times = ladder(process, self.levels, process.T).clamp(process.min_time, process.T)
        return times.to(draw.device)[draw.integers(self.levels)]

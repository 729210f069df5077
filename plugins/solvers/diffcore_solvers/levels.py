"""What the time grids share: where a grid ends, and times from levels of lam = log(alpha / sigma)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

import diffcore as dc
from diffcore_solvers.steps import time_of

NOISIEST, CLEANEST = -6.0, 7.0
"""The range of lam between which nodes are spread where the process itself goes further (sigma / alpha = 403 and 9.1e-4)."""


@dc.component
class EndedGrid(dc.Grid):
    """A grid with a choice of its last time."""

    end: Literal["zero", "t_min"] = dc.field(
        default="zero", doc="last time: zero (clean data), or the process's min_time, the smallest a network is evaluated at"
    )

    def last(self, process: dc.Process) -> float:
        """The last time of the grid."""
        return 0.0 if self.end == "zero" else process.min_time


def lam_at(process: dc.Process, t: float) -> float:
    """log(alpha / sigma) at time t; infinite where sigma = 0 or alpha = 0."""
    return float(process.coeffs(torch.tensor(t, dtype=torch.float64)).lam)


def times_of_levels(
    process: dc.Process, steps: int, ends: tuple[float, float], bounds: tuple[float, float], curve: Callable[..., Tensor]
) -> Tensor:
    """`steps + 1` times from ends[0] to ends[1], the ones between at the levels `curve(low, high, n)` of lam.

    low and high are lam at ends[0] and at min_time, cut to `bounds`. An end beyond its cut level is a node of its own, so the
    first or last step is then a jump.
    Raises `SpecError` where no room is left between the two levels.
    """
    first, last = lam_at(process, ends[0]), lam_at(process, ends[1])
    low, high = max(first, bounds[0]), min(lam_at(process, process.min_time), bounds[1])
    count = steps + 1 - (first < low) - (last > high)
    if count > 1 and not low < high:
        raise dc.SpecError(
            f"no room for {count} times between lam = {low:.4g} (at the start t = {ends[0]:.4g}) and lam = {high:.4g}; "
            f"start at a larger time, or set the grid's bounds further apart"
        )
    inner = time_of(process, curve(low, high, count))
    head = [ends[0]] if first < low else []
    tail = [ends[1]] if last > high else []
    nodes = torch.cat([torch.tensor(head, dtype=torch.float64), inner, torch.tensor(tail, dtype=torch.float64)])
    nodes[0], nodes[-1] = ends
    return nodes

"""What the time grids share: where a grid ends, and times from levels of lam = log(alpha / sigma)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

import diffcore as dc

UNBOUNDED = 9.2
"""Beyond this |lam| (a ratio of 1e-4 between signal and noise) a process counts as reaching pure noise, or clean data."""
STAND_IN = 5.0
"""The |lam| at which equal steps then begin, or end: about where the linear VP process does."""


@dc.component
class EndedGrid(dc.Grid):
    """A grid with a choice of its last time."""

    end: Literal["zero", "t_min"] = dc.param(
        default="zero", doc="last time: zero (clean data), or the process's min_time, the smallest a network is evaluated at"
    )

    def last(self, process: dc.Process) -> float:
        """The last time of the grid."""
        return 0.0 if self.end == "zero" else process.min_time


def times_of_levels(
    process: dc.Process,
    steps: int,
    ends: tuple[float, float],
    bounds: tuple[float | None, float | None],
    curve: Callable[[float, float, int], Tensor],
) -> Tensor:
    """`steps + 1` times from ends[0] to ends[1], the ones between at the levels `curve(low, high, n)` of lam.

    low and high are lam at ends[0] and at min_time, cut to `bounds`; without a bound they are cut to -5 and 5 only where the
    process is unbounded there. An end beyond its cut level is a node of its own: the first or last step is then a jump.
    Raises `SpecError` where no room is left between the two levels.
    """
    first, last = dc.lam_at(process, ends[0]), dc.lam_at(process, ends[1])
    low, high = -_cut(-first, bounds[0], -1), _cut(dc.lam_at(process, process.min_time), bounds[1], 1)
    count = steps + 1 - (first < low) - (last > high)
    if count > 1 and not low < high:
        raise dc.SpecError(
            f"no room for {count} times between lam = {low:.4g} (at the start t = {ends[0]:.4g}) and lam = {high:.4g}; "
            f"start at a larger time, or set the grid's bounds further apart"
        )
    inner = process.t_of_lam(curve(low, high, count))
    head = [ends[0]] if first < low else []
    tail = [ends[1]] if last > high else []
    nodes = torch.cat([torch.tensor(head, dtype=torch.float64), inner, torch.tensor(tail, dtype=torch.float64)])
    nodes[0], nodes[-1] = ends
    return nodes


def _cut(level: float, bound: float | None, sign: int) -> float:
    """A level no larger than its bound, or than the stand-in for an unbounded one. sign -1: both are negated."""
    if bound is not None:
        return min(level, sign * bound)
    return level if level <= UNBOUNDED else STAND_IN

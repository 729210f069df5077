"""Restart sampling: an ODE run that jumps back to noise, several times, within chosen intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_sde_solvers.stochastic_heun import StochasticHeun

JUMP = 0x4A


@dc.component
class Interval:
    """An interval of rho = sigma / alpha that is run through again and again."""

    low: float = dc.param(gt=0, doc="rho from where it jumps: the nearest node of the grid is taken")
    high: float = dc.param(gt=0, doc="rho to which it jumps, at most that of pure noise")
    repeats: int = dc.param(default=1, ge=0, doc="how often (K of the paper)")
    steps: int = dc.param(default=4, ge=1, doc="ODE steps of one way down, of equal length in log rho")

    def __attrs_post_init__(self) -> None:
        """An interval goes up."""
        if not self.low < self.high:
            raise dc.SpecError(f"a restart interval needs low < high; got low = {self.low}, high = {self.high}")


@dc.component
class Restart(dc.Program):
    """The ODE solver `of` along the grid. On reaching the node of an interval's `low` (time l), `repeats` times:

        x_h = (alpha_h / alpha_l) x_l + sqrt(sigma_h^2 - (alpha_h sigma_l / alpha_l)^2) z,      h the time of `high`
        x_l = ODE(x_h, h -> l) in `steps` steps.

    The jump carries p_l to p_h exactly, so with exact ODE steps the marginals stay exact and those of the samples have the order
    of `of`. What is wrong with x_l shrinks at every repeat: on data N(m, c^2) an error of the mean by the factor
    (alpha_h / alpha_l) sqrt(V_l / V_h), V = alpha^2 c^2 + sigma^2. Unlike an SDE it pays no step error for its noise.

    Frames are those of the grid, the one at l after its last repeat. An interval whose `high` is not above any node but clean
    data does nothing. Eager runs with one time per step only.

    Raises `SpecError` for a solver that has a grid or a loop of its own or draws noise, and for per-sample grids.
    """

    source: ClassVar[str] = "Xu et al. 2023, arXiv 2306.14878, algorithm 1"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    of: dc.Stepper = dc.param(factory=lambda: StochasticHeun(eta=0.0), doc="deterministic solver; its `steps` are not used")
    intervals: tuple[Interval, ...] = dc.param(
        factory=lambda: (Interval(low=0.06, high=0.3, repeats=2),), doc="where to restart; those of one node in this order"
    )

    def __attrs_post_init__(self) -> None:
        """Refuse a solver that cannot be run on this solver's grid."""
        dc.check_within(self.of, "restart")

    def frames(self, field: dc.Field, x: dc.State, grid: Tensor, draw: dc.Draw) -> Iterator[dc.Frame]:
        """The frames of the grid, restarts included in the step that reaches their node."""
        if grid.ndim > 1:
            raise dc.SpecError("restart runs grids of one time per step; run per-sample times with the solver itself")
        self._check(field.process, grid)
        stops, times = self._stops(field.process, grid), grid.tolist()
        yield dc.Frame(0, times[0], x)
        for first, last in pairwise(sorted({0, *stops, len(grid) - 1})):
            for node, moved in enumerate(self.of.moves(field, x, grid[first : last + 1], draw), first + 1):
                x = self._restarted(field, moved.x, grid[node], stops[node], draw) if node in stops else moved.x
                yield dc.Frame(node, times[node], x)

    def _check(self, process: dc.Process, grid: Tensor) -> None:
        self.of.check_process(process)
        if self.of.plan(process, grid).stochastic:
            raise dc.SpecError(f"solver {type(self.of).__name__} draws noise; restart needs a deterministic one")

    def _stops(self, process: dc.Process, grid: Tensor) -> dict[int, list[tuple[int, Interval]]]:
        """Node -> the intervals that start there, with their numbers."""
        _, s = dc.centred_pairs(process, grid)
        found: dict[int, list[tuple[int, Interval]]] = {}
        for number, interval in enumerate(self.intervals):
            gap = (s.lam + math.log(interval.low)).abs()
            gap = torch.where(s.sigma < interval.high * s.alpha, gap, torch.inf)
            if interval.repeats and bool(gap.isfinite().any()):
                found.setdefault(int(gap.argmin()) + 1, []).append((number, interval))
        return found

    def _restarted(self, field: dc.Field, x: dc.State, low: Tensor, todo: Any, draw: dc.Draw) -> dc.State:
        process = field.process
        for number, interval in todo:
            times = _way_down(process, float(low), interval)
            top, bottom = (process.coeffs(v) for v in (times[0], times[-1]))
            keep = float(top.alpha / bottom.alpha)
            push = float((top.sigma**2 - (keep * bottom.sigma) ** 2).clamp_min(0.0) ** 0.5)
            for k in range(interval.repeats):
                z = process.noise.like(x, draw.fold(JUMP, number, k))
                *_, (x, *_) = self.of.moves(field, dc.lincomb((keep, x), (push, z)), times, draw)
        return x


def _way_down(process: dc.Process, low: float, interval: Interval) -> Tensor:
    """Times of equal steps in lam from the top of an interval to a node."""
    start, end = (float(process.coeffs(torch.tensor(t, dtype=torch.float64)).lam) for t in (process.T, low))
    levels = torch.linspace(max(-math.log(interval.high), start), end, interval.steps + 1, dtype=torch.float64)
    times = process.t_of_lam(levels)
    times[-1] = low
    return times

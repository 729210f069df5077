"""The noise of a solver as increments of one Brownian path per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_sde_solvers.path import Path
from diffcore_sde_solvers.stochastic_heun import StochasticHeun


@dc.component
class Brownian(dc.Program):
    """The solver `of` with z = (B(q_s) - B(q_t)) / sqrt(q_s - q_t), where every sample has one Brownian path B(q) on the clock

        q = (alpha / sigma)^(2 power).

    B is a function of (seed, sample id) alone, not of the batch, the grid or the number of steps: twice as many steps refine the
    same path, and the samples of one seed converge as the steps do (strong convergence). In law nothing changes: increments of
    disjoint steps are independent, and each z is standard normal.

    In the clock with power = eta the reverse SDE of noise rate eta is dy = x* dp + dB(q) (see `stochastic-heun`): q is the
    signal-to-noise ratio for eta = 1, 0 at pure noise. Solvers of other variables converge to the same path, at strong order 1.
    A solver that draws several noises a step gives them by a method `on_path(path, lam_t, lam_s)`; others are refused.
    A step whose end is infinite on the clock has noise of its own. Eager runs with one time per step only.

    Raises `SpecError` for a solver with a grid or a loop of its own or with noises of unknown kind, and for per-sample grids;
    `NumericsError` for a step so short that it lies within one leaf of the tree.
    """

    source: ClassVar[str] = "Jelincic, Foster and Kidger 2024, arXiv 2405.06464; clock: Montanari 2023, arXiv 2305.10690"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    expected_failures: ClassVar[Mapping[str, str]] = {
        "draws_differ": "a node of the tree is drawn again whenever a time below it is asked for: it is the same path"
    }

    of: dc.Stepper = dc.param(factory=StochasticHeun, doc="solver whose noise it is; its own `steps` are not used")
    power: float | None = dc.param(
        default=None, ge=-10, le=10, doc="power of the clock; default: what the solver's `clock` or `eta` says, or 1"
    )
    depth: int = dc.param(default=10, ge=1, le=40, doc="levels of the tree: 2^depth leaves for every factor 2 of q")

    def __attrs_post_init__(self) -> None:
        """Refuse a solver that cannot be run step by step on this solver's grid, or asks for noise that no path has."""
        dc.check_within(self.of, "brownian")
        name = type(self.of).__name__
        if type(self.of).draws is not dc.Stepper.draws and not hasattr(self.of, "on_path"):
            raise dc.SpecError(f"solver {name} draws several noises a step and does not say (`on_path`) what they are of a path")

    @property
    def exponent(self) -> float:
        """The power of the clock."""
        named = getattr(self.of, "clock", getattr(self.of, "eta", 1.0)) if self.power is None else self.power
        return float(named) or 1.0

    def frames(self, field: dc.Field, x: dc.State, grid: Tensor, draw: dc.Draw) -> Iterator[dc.Frame]:
        """The start, and the state after every step of the solver with its noise read off the path."""
        if grid.ndim > 1:
            raise dc.SpecError("brownian runs grids of one time per step; run per-sample times with the solver itself")
        self.of.check_process(field.process)
        process, times = field.process, grid.tolist()
        plan, levels = self.of.plan(process, grid), process.coeffs(grid).lam.tolist()
        path, moved = Path(draw, x, self.exponent, self.depth, process.noise), dc.Moved(x, self.of.init(x))
        yield dc.Frame(0, times[0], x)
        for i, (row, (a, b)) in enumerate(zip(plan.rows(field, x), pairwise(levels), strict=True)):
            z = self._noise(path, a, b, lambda i=i: self.of.draws(process, x, draw.at(i + 1))) if plan.draws[i] else None
            moved = self.of.step(field, moved.x, row, moved.carry, z)
            yield dc.Frame(i + 1, times[i + 1], moved.x)

    def _noise(self, path: Path, lam: float, end: float, fresh: Callable[[], dc.State]) -> dc.State:
        if torch.inf in (path.clock(lam), path.clock(end)):
            return fresh()
        if not hasattr(self.of, "on_path"):
            return path.increment(lam, end)[0]
        return self.of.on_path(path, lam, end)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

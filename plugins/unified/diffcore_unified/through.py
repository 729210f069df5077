"""Any solver, run on the schedule of another process than the network was trained for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

import diffcore as dc
from diffcore_unified.transform import Moved, point
from diffcore_unified.transformed import Transformed, scale


@dc.component
class Through(dc.Program):
    """Carry the start x_A(t) to x_B = c x_A on the schedule B = `to`, run `solver` there, and carry every state back.

    The trained process A, its guidance and its start stay as they are; times are A's outside and B's within. Where both are
    solved exactly the samples are the same. They are bit-close at any number of steps for solvers that depend on lam alone
    (ddim, dpmpp-2m, ancestral, gamma-sde), and differ by the error of `solver` in t for others (euler, heun, rk4): so this
    is VP sampled by flow matching, by trig flow, or by EDM.

    `steps` counts; leave `steps` of the inner solver out, and name the time grid, which is one of B, in the inner solver.
    A start at pure noise where B has none is B's start of the same noise. Runs in eager mode.

    Raises `SpecError` for a grid beside the inner solver's, for steps within it, and for inner solvers of flow maps.
    """

    source: ClassVar[str] = "Lai et al. 2025, arXiv 2510.21890, chapter 6"
    items: ClassVar[tuple[str, ...]] = ("6.11", "6.12")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    example: ClassVar[Mapping[str, Any]] = {"to": {"type": "kinetic"}, "solver": {"type": "gamma-sde"}}
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"solver": {"type": "gamma-sde", "gamma": 0.0}},)

    to: dc.Process = dc.param(doc="the process on whose schedule the solver runs")
    solver: dc.Solver = dc.param(doc="the solver that runs there, with its grid")

    def __attrs_post_init__(self) -> None:
        inner = type(self.solver).__name__
        if self.grid is not None:
            raise dc.SpecError(f"'grid' of Through: name the grid within 'solver'; it is one of {type(self.to).__name__}")
        if self.solver.steps not in (self.steps, _default_steps(self.solver)):
            raise dc.SpecError(f"'steps' of {inner} within Through: give the number of steps to 'through' itself")
        if "flow_map" in self.solver.requires:
            raise dc.SpecError(f"'solver' of Through: {inner} jumps by a flow map, which belongs to one schedule")

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the inner solver."""
        return self.solver.needs

    @property
    def both_ways(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the inner solver."""
        return self.solver.both_ways

    def nodes(self, process: dc.Process, steps: int | None = None, start: float | None = None) -> Tensor:
        """The inner solver's grid on B, as times of A."""
        there = Transformed(of=process, to=self.to)
        first = process.T if start is None else start
        inside = self.solver.nodes(there, self.steps if steps is None else steps, float(_inner(there, first)))
        grid = there.clock(inside)
        grid[0] = first
        return grid

    def frames(self, field: dc.Field, x: dc.State, grid: Tensor, draw: dc.Draw) -> Iterator[dc.Frame]:
        """The frames of the inner solver, with A's states and times."""
        there = Transformed(of=field.process, to=self.to)
        times = _inner(there, grid)
        moved = dc.Field(Moved(field.denoiser, there), cond=field.cond)
        known = _ways_back(there, times, grid)
        for frame in self.solver.frames(moved, _start(there, x, grid[0], times[0]), times, draw):
            tau, factor = known[frame.t] if frame.t in known else _way_back(there, frame)
            yield frame._replace(t=tau, x=dc.lincomb((factor, frame.x)))


def _ways_back(there: Transformed, times: Tensor, grid: Tensor) -> dict[float, tuple[float, float]]:
    """A's time and 1 / c at every node of a run with one time per step."""
    if times.ndim > 1:
        return {}
    at = there.coeffs(times)
    factors = 1 / scale(at, there.twin(at))
    return dict(zip(times.tolist(), zip(grid.tolist(), factors.tolist(), strict=True), strict=True))


def _way_back(there: Transformed, frame: dc.Frame) -> tuple[Any, Any]:
    """The same at any other time: of a solver that chooses its own steps, or per entry."""
    tau = there.clock(torch.as_tensor(frame.t, dtype=torch.float64))
    at = point(there, frame.t, frame.x)
    return tau if tau.ndim else float(tau), 1 / scale(at, there.twin(at))


def _inner(there: Transformed, tau: Any) -> Tensor:
    return there.time_of(torch.as_tensor(tau, dtype=torch.float64))


def _start(there: Transformed, x: dc.State, tau: Tensor, t: Tensor) -> dc.State:
    """c x: by the ratio of the noise levels, which also carries pure noise to the noisiest level that B has."""
    c = there.coeffs(t).sigma / there.of.coeffs(tau).sigma
    return dc.lincomb((c.to(dc.leaves(x)[0]) if c.ndim else float(c), x))


def _default_steps(solver: dc.Solver) -> int | None:
    return attrs.fields_dict(type(solver))["steps"].default

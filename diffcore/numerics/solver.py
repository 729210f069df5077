"""Solvers and time grids: the contract plan / init / step and the loop over it, and solvers with loops of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar, final

import attrs
import torch
from torch import Tensor, nn

from diffcore.declare.component import Base, component, param
from diffcore.declare.errors import IncompatibleError, SpecError
from diffcore.declare.kinds import kind
from diffcore.numerics.arguments import shown, whole
from diffcore.numerics.draw import Draw
from diffcore.numerics.fields import Field
from diffcore.numerics.kept import PLANS, Kept, hashable
from diffcore.numerics.plan import Plan, with_buffers
from diffcore.numerics.process import Process
from diffcore.numerics.tree import State, describe, expand, leaves, tree_map

LARGEST_PLAN = 2**20
"""Times of a plan, all samples together, from which it is not kept: making it is then little beside the run."""
_GRIDS = Kept(64)


class Frame(NamedTuple):
    """One moment of a sampling run: after `step` steps (0 is the start) the state is x at time t.

    nfe: network evaluations per sample so far; calls: calls of networks so far (a batched guided evaluation is one call and as
    many evaluations as it has branches); x0: what the last evaluation knew of x_0 (its posterior), or None. `dc.frames` counts
    and fills in these three. logw, logp, ancestors: those of `Moved`. own: what a program shows beside, such as step sizes.
    """

    step: int
    t: Any
    x: State
    nfe: float = 0.0
    calls: int = 0
    x0: Any = None
    logw: Tensor | None = None
    logp: Tensor | None = None
    ancestors: Tensor | None = None
    own: Any = None

    def __repr__(self) -> str:
        """In one line, without the numbers of the state."""
        return f"Frame(step {self.step}, t = {_short(torch.as_tensor(self.t))}, {describe(self.x)}, {self.calls} calls)"


class Moved(NamedTuple):
    """What a step returns: the state x_s and what is carried to the next step.

    logw: log-weight of every row so far (cumulative), [B]; logp: log-probability of this step alone, [B]; ancestors: which row
    of the batch each row comes from, where rows were resampled, [B]. None where the solver has no such thing.
    """

    x: State
    carry: Any = None
    logw: Tensor | None = None
    logp: Tensor | None = None
    ancestors: Tensor | None = None


M = TypeVar("M", Moved, Frame)


def ended(run: Iterable[M]) -> M:
    """The last step or frame of a run, with `logp` that of all of them together."""
    last, logp = None, None
    for last in run:
        if last.logp is not None:
            logp = last.logp if logp is None else logp + last.logp
    assert last is not None
    return last if logp is None else last._replace(logp=logp)


@kind("grid")
class Grid(Base):
    """A rule for the times of a run."""

    requires: ClassVar[frozenset[str]] = frozenset()

    def nodes(self, process: Process, steps: int, start: float) -> Tensor:
        """`steps + 1` strictly falling times from `start`, float64. The last is the time the samples are for."""
        raise NotImplementedError


@component
@kind("solver")
class Solver(Base):
    """A solver: hyper-parameters only. What solves step by step is a `Stepper`, what runs by a loop of its own a `Program`.

    `order`: the proved global order on smooth problems (None where there is none, as for stochastic solvers of weak order).
    `weak_order`: the order of the mean and the variance of the samples of a stochastic solver; 1 where none is declared.
    `both_ways`: a step may also go from t to s > t, so that an explicit grid may rise (encoding data as noise).
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    order: ClassVar[int | None] = None
    weak_order: ClassVar[float | None] = None
    both_ways: ClassVar[bool] = False

    steps: int = param(default=20, ge=1, le=100_000, doc="number of steps")
    grid: Grid | None = param(default=None, doc="time grid; the process's own where none is named")

    @property
    def group(self) -> int:
        """How many consecutive rows belong together (particles of one problem): batches and processes hold whole groups."""
        return 1

    def frames(self, field: Field, x: State, grid: Tensor, draw: Draw) -> Iterator[Frame]:
        """The frames of a run, the start included. What they cost is counted by the loop that takes them (`dc.frames`)."""
        raise NotImplementedError

    def check_process(self, process: Process) -> None:
        """Raise `IncompatibleError` where the process lacks what the solver requires: for a solver within another."""
        missing = self.requires - process.provides
        if missing:
            need = ", ".join(sorted(missing))
            raise IncompatibleError(f"solver {type(self).__name__} needs {need}; {type(process).__name__} has not")

    def default_grid(self, process: Process, steps: int, start: float) -> Tensor:
        """The times where no grid is named: those of the process."""
        return process.default_grid(steps, start)

    def nodes(self, process: Process, steps: int | None = None, start: float | None = None) -> Tensor:
        """The time grid of a run of this solver, checked."""
        steps = whole(f"'steps' of {type(self).__name__}", self.steps if steps is None else steps, 1)
        start = process.T if start is None else start

        def made() -> Tensor:
            with torch.inference_mode(False):
                own = self.default_grid if self.grid is None else self.grid.nodes
                return check_grid(own(process, steps, start), process)

        rule = self if type(self).default_grid is not Solver.default_grid else self.grid
        return _GRIDS.get((rule, process, steps, start), made).clone() if constant(self.grid, process) else made()


@component
class Program(Solver):
    """A solver with a loop of its own: adaptive, parallel, nested. It gives `frames`; it is neither wrapped nor compiled."""


@component
class Stepper(Solver):
    """A solver that is a plan and a step. All state of a run is in x and the carry, all coefficients are in the plan. One with a
    loop of its own is a `Program`.

    `additive_noise`: z enters the step linearly with weight `row.noise`, so a step is a Gaussian kernel.
    """

    additive_noise: ClassVar[bool] = False

    def plan(self, process: Process, grid: Tensor) -> Plan:
        """The coefficients of every step of a time grid [N + 1], float64, pure."""
        raise NotImplementedError

    def init(self, x: State) -> Any:
        """What is carried from step to step: a tree of fixed shapes, every leaf batch first; None where nothing is."""
        return None

    def step(self, field: Field, x: State, row: Any, carry: Any, z: State) -> Moved:
        """One step. No branch on a tensor's value, no change of x or of the carry in place. z is None where row.noise is 0."""
        raise NotImplementedError

    def draws(self, process: Process, x: State, draw: Draw) -> State:
        """The fresh noise z of one step: the process's own; a solver that needs several independent ones returns a tree."""
        return process.noise.like(x, draw)

    @final
    def frames(self, field: Field, x: State, grid: Tensor, draw: Draw) -> Iterator[Frame]:
        """The start, and the state after every step."""
        plan, rows = self.prepared(field, x, grid)
        nodes = plan.nodes(grid)
        times = nodes.tolist() if nodes.ndim == 1 else list(nodes)
        yield Frame(0, times[0], x)
        for i, moved in enumerate(self.stepped(plan, rows, field, x, grid, draw), 1):
            yield Frame(i, times[i], moved.x, logw=moved.logw, logp=moved.logp, ancestors=moved.ancestors)

    def prepared(
        self, field: Field, x: State, grid: Tensor, *, reuse: bool = False, tensors: bool = False
    ) -> tuple[Plan, list[Any]]:
        """The plan and its rows, with buffers for `out` if `reuse`. Those of an ordinary run are kept for the next of the same
        times and batch size, whatever its network.

        Per-pixel times, processes with parameters, and components that cannot be hashed are planned anew.
        """
        rows: list[Any]
        with torch.inference_mode(False):  # they outlive the caller's mode
            plan, rows = self._planned(field, x, grid, tensors)
        return plan, with_buffers(rows, x) if reuse else rows

    def _planned(self, field: Field, x: State, grid: Tensor, tensors: bool) -> tuple[Plan, list[Any]]:
        process, clock = field.process, _clock(field, x)
        sizes = tuple((leaf.shape[0], leaf.dtype, leaf.device) for leaf in leaves(x))
        if clock is None or grid.ndim > 1 or len(grid) * sizes[0][0] > LARGEST_PLAN or not constant(self, process):
            plan = self.plan(process, grid)
            return plan, plan.rows(field, x, tensors=tensors)

        def made() -> tuple[Plan, list[Any]]:
            with torch.no_grad():
                plan = self.plan(process, grid)
                return plan, plan.rows(field, x, tensors=tensors)

        return PLANS.get((tensors, self, process, tuple(grid.tolist()), sizes, clock), made)

    @final
    def moves(self, field: Field, x: State, grid: Tensor, draw: Draw, *, reuse: bool = False) -> Iterator[Moved]:
        """What every step returns: the plain loop over plan, init and step.

        reuse: the buffers of earlier states may be written to again (the caller keeps only the last).
        """
        return self.stepped(*self.prepared(field, x, grid, reuse=reuse), field, x, grid, draw)

    @final
    def stepped(self, plan: Plan, rows: list[Any], field: Field, x: State, grid: Tensor, draw: Draw) -> Iterator[Moved]:
        """What every step of a prepared plan returns."""
        rests = plan.rests(grid) if grid.ndim > 1 else ()
        process, step, moved = field.process, self.step, Moved(x, self.init(x))
        for i, row in enumerate(rows):
            before = moved.x
            z = self.draws(process, before, draw.at(i + 1)) if plan.draws[i] else None
            moved = step(field, before, row, moved.carry, z)
            if moved.__class__ is not Moved:
                raise IncompatibleError(
                    f"a step of solver {type(self).__name__} must return dc.Moved(x) or dc.Moved(x, carry); got {shown(moved)}"
                )
            if grid.ndim > 1:
                moved = moved._replace(x=held(rests[i], before, moved.x))
            yield moved


def _clock(field: Field, x: State) -> Any:
    """What the rows of a plan have from the denoiser, beside the process: its time input. None where it cannot be told."""
    base = field.base
    return base.clock(x) if hasattr(base, "clock") else None if hasattr(base, "time") else "none"


def constant(*parts: Any) -> bool:
    """Whether what the parts make of the same arguments is the same for ever."""
    return hashable(parts) and not any(isinstance(part, nn.Module) for part in parts)


def check_within(solver: Any, who: str) -> None:
    """Raise `SpecError` for a solver that cannot be run step by step on the grid of another, called `who`."""
    if not isinstance(solver, Stepper):
        raise SpecError(f"solver {type(solver).__name__} owns its loop; {who} needs single steps")
    if solver.grid is not None:
        raise SpecError(f"solver {type(solver).__name__} has a grid of its own; give the grid to {who} instead")


def held(rest: Tensor, before: State, after: State) -> State:
    """Entries whose time stands still keep their value bit by bit, whatever the step did to them."""
    return tree_map(lambda old, new: torch.where(expand(rest.to(new.device), new), old, new), before, after)


def check_grid(grid: Tensor, process: Process, *, rising: bool = False) -> Tensor:
    """The grid in float64 if its times fall strictly within [0, T] (per-pixel times may stand still), else `SpecError`.

    rising: they may also rise, all of them.
    """
    grid = torch.as_tensor(grid, dtype=torch.float64)
    if grid.ndim == 0 or len(grid) < 2:
        raise SpecError(f"a time grid needs at least 2 times, got {grid.tolist()}")
    falls = grid[:-1] > grid[1:] if grid.ndim == 1 else grid[:-1] >= grid[1:]
    rises = rising and bool((grid[:-1] < grid[1:]).all())
    if not bool(torch.isfinite(grid).all()) or not (rises or bool(falls.all())):
        raise SpecError(
            f"the times of a grid must fall strictly from noise to data{' (or all rise)' if rising else ''}; got {_short(grid)}"
        )
    if float(grid.min()) < 0 or float(grid.max()) > process.T * (1 + 1e-12):
        raise SpecError(f"the times of a grid must lie within 0 and T = {process.T}; got {_short(grid)}")
    return grid


def _short(grid: Tensor) -> str:
    values = [f"{v:.4g}" for v in grid.flatten().tolist()]
    if grid.ndim == 0:
        return values[0]
    return "[" + ", ".join(values if len(values) <= 8 else [*values[:4], "...", *values[-3:]]) + "]"


def evolve(solver: Solver, **changes: Any) -> Solver:
    """A copy of a solver with other fields."""
    return attrs.evolve(solver, **changes)

"""Solvers and time grids: the contract plan / init / step, and the default loop over it."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, ClassVar, NamedTuple

import attrs
import torch
from torch import Tensor, nn

from diffcore.arguments import whole
from diffcore.component import Base, component, field
from diffcore.errors import SpecError
from diffcore.fields import Field
from diffcore.kept import PLANS, Kept, hashable
from diffcore.noise import Draw
from diffcore.process import Process
from diffcore.tree import State, describe, expand, leaves, tree_map

LARGEST_PLAN = 2**20
"""Times of a plan, all samples together, from which it is not kept: making it is then little beside the run."""
_GRIDS = Kept(64)


class Frame(NamedTuple):
    """One moment of a sampling run: after `step` steps (0 is the start) the state is x at time t.

    nfe: network evaluations per sample so far; calls: calls of the network so far (a batched guided evaluation is one call
    and as many evaluations as it has branches); x0: what the last evaluation knew of x_0 (its posterior), or None.
    logw, logp: log-weights and log-probabilities of programs that have them.
    """

    step: int
    t: Any
    x: State
    nfe: float = 0.0
    calls: int = 0
    x0: Any = None
    logw: Any = None
    logp: Any = None

    def __repr__(self) -> str:
        """In one line, without the numbers of the state."""
        return f"Frame(step {self.step}, t = {_short(torch.as_tensor(self.t))}, {describe(self.x)}, {self.calls} calls)"


class Plan:
    """Everything a solver needs to know about its steps, computed once, in float64, by name.

    Each entry has one value per step: a tensor [N] (or [N, ...] for per-pixel time), a `Coeffs` of such tensors, or a tuple
    of N Python integers, which stays Python in every mode and may be branched on (`order`, `last`, ...).
    noise: the weight of fresh noise in each step; the noise of a step whose weight is 0 is not drawn. It is the entry
    `noise` of the row as well. evaluations: field evaluations per step, an int or a tuple of N.

    Every row also has `out`: None, or a buffer that the step may hand to its last `lincomb(..., out=row.out)` if its carry
    keeps no reference to x. Two buffers then serve the whole run.
    """

    def __init__(self, *, noise: Tensor | None = None, evaluations: int | tuple[int, ...] = 1, **entries: Any) -> None:
        self.steps = _length(entries)
        self.noise = torch.zeros(self.steps, dtype=torch.float64) if noise is None else noise
        self.stochastic = noise is not None
        self.evaluations = (evaluations,) * self.steps if isinstance(evaluations, int) else evaluations
        self.entries: dict[str, Any] = {**entries, "noise": self.noise, "out": (None,) * self.steps}

    @property
    def row_type(self) -> Any:
        """The named tuple that a row is."""
        return _row_type(tuple(self.entries))

    def rows(self, field: Field, x: State, *, tensors: bool = False, reuse: bool = False) -> list[Any]:
        """The steps as named tuples, cast once: Python floats, or tensors of the state's dtype and device if `tensors`.

        Every `Coeffs` also gets the network's time input, so that a step creates no tensor. reuse: give `out` buffers.
        """
        entries = self.entries if self.stochastic else {**self.entries, "noise": (0.0,) * self.steps}
        rows = list(map(self.row_type, *(self._column(v, field, x, tensors) for v in entries.values())))
        return _with_buffers(rows, x) if reuse else rows

    @cached_property
    def draws(self) -> list[bool]:
        """Whether each step has fresh noise."""
        return (self.noise != 0).reshape(self.steps, -1).any(1).tolist()

    def _column(self, value: Any, field: Field, x: State, tensors: bool) -> list[Any]:
        if _is_point(value):
            kept = {"t": _time_column(value.t, x, tensors, self.steps), "time": _times(value.t, field, x)}
            parts = [kept[k] if k in kept else _cast(v, x, tensors, self.steps) for k, v in value._asdict().items()]
            return list(map(type(value), *parts))
        return list(value) if isinstance(value, tuple) else _cast(value, x, tensors, self.steps)


@lru_cache(maxsize=256)
def _row_type(names: tuple[str, ...]) -> Any:
    made: Any = namedtuple("row_type", names)
    made.__reduce__ = lambda row: (_row, (row._fields, tuple(row)))  # made at run time, it has no name to be pickled by
    return made


def _row(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _row_type(names)(*values)


def _with_buffers(rows: list[Any], x: State) -> list[Any]:
    """The rows with two buffers in turn to write to."""
    pair = (tree_map(torch.empty_like, x), tree_map(torch.empty_like, x))
    return [row._replace(out=pair[i % 2]) for i, row in enumerate(rows)]


def _is_point(value: Any) -> bool:
    """Whether a plan entry is a time with coefficients: `Coeffs`, `Instant`, or a process's own named tuple with t and time."""
    return isinstance(value, tuple) and hasattr(value, "t") and hasattr(value, "time")


def _length(entries: dict[str, Any]) -> int:
    bare = [f"{k} = {v}" for k, v in entries.items() if not isinstance(v, tuple) and not (isinstance(v, Tensor) and v.ndim)]
    if bare:
        raise SpecError(
            f"the entries of a plan are tensors, coefficients or tuples with one value per step; not so: {', '.join(bare)}"
        )
    lengths = {name: len(v.t) if _is_point(v) else len(v) for name, v in entries.items()}
    if len(set(lengths.values())) != 1:
        raise SpecError(f"the entries of a plan must have one value per step each; lengths: {lengths}")
    return next(iter(lengths.values()))


def _cast(value: Any, x: State, tensors: bool, steps: int) -> list[Any]:
    if not isinstance(value, Tensor):
        return [value] * steps
    if value.ndim == 1 and not tensors and not (value.requires_grad and torch.is_grad_enabled()):
        return value.tolist()
    leaf = next((leaf for leaf in leaves(x) if leaf.is_floating_point()), None)
    return list(value.to(device=leaves(x)[0].device, dtype=leaf.dtype if leaf is not None else torch.float32).unbind(0))


def _time_column(t: Any, x: State, tensors: bool, steps: int) -> list[Any]:
    """Times are at least float32, whatever the state is."""
    leaf = leaves(x)[0]
    half = isinstance(t, Tensor) and leaf.is_floating_point() and torch.finfo(leaf.dtype).bits < 32
    return _cast(t, leaf.new_empty(0, dtype=torch.float32) if half else x, tensors, steps)


def _times(t: Tensor, field: Field, x: State) -> list[Any]:
    if not hasattr(field.base, "time"):
        return [None] * len(t)
    if t.ndim > 1:
        return [field.base.time(row, x) for row in t]
    size = leaves(x)[0].shape[0]
    return list(field.base.time(t, x)[:, None].expand(-1, size).contiguous().unbind(0))


class Grid(Base):
    """A rule for the times of a run."""

    kind: ClassVar[str] = "grid"
    requires: ClassVar[frozenset[str]] = frozenset()

    def nodes(self, process: Process, steps: int, start: float) -> Tensor:
        """`steps + 1` strictly falling times from `start`, float64. The last is the time the samples are for."""
        raise NotImplementedError

    @property
    def fit_on(self) -> int:
        """On how many states at T the grid is fitted to a model before it has nodes; 0 where it needs no fit."""
        return 0

    def fit(self, field: Field, x: State, solver: Solver) -> Mapping[str, Tensor]:
        """What the grid must know about a model and a solver, from states x at T: `fitted` makes a grid of it."""
        return {}

    def fitted(self, found: Mapping[str, Tensor]) -> Grid:
        """This grid with what `fit` found."""
        return self

    def why(self, found: Mapping[str, Tensor]) -> Sequence[str]:
        """What `fit` found, in lines for a reader. Default: the entry `times`."""
        nodes = found.get("times")
        return [] if nodes is None else ["times: " + ", ".join(f"{t:.4g}" for t in nodes.tolist())]

    def stand_in(self) -> Grid:
        """A grid that needs no fit, for counting costs and before there is a model: itself where it needs none."""
        return self


@component
class Solver(Base):
    """A solver: hyper-parameters only. All state of a run is in x and the carry, all coefficients are in the plan.

    `order`: the proved global order on smooth problems (None where there is none, as for stochastic solvers of weak order).
    `weak_order`: the order of the mean and the variance of the samples of a stochastic solver; 1 where none is declared.
    `additive_noise`: z enters the step linearly with weight `row.noise`, so a step is a Gaussian kernel.
    `both_ways`: a step may also go from t to s > t, so that an explicit grid may rise (encoding data as noise).
    """

    kind: ClassVar[str] = "solver"
    requires: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    order: ClassVar[int | None] = None
    weak_order: ClassVar[float | None] = None
    additive_noise: ClassVar[bool] = False
    both_ways: ClassVar[bool] = False

    steps: int = field(default=20, ge=1, le=100_000, doc="number of steps")
    grid: Grid | None = field(default=None, doc="time grid; the process's own where none is named")

    def plan(self, process: Process, grid: Tensor) -> Plan:
        """The coefficients of every step of a time grid [N + 1], float64, pure."""
        raise NotImplementedError

    @property
    def fit_on(self) -> int:
        """On how many states at T the solver (or its grid) is fitted to a model before it can run; 0 where it needs no fit."""
        return self.grid.fit_on if self.grid is not None else 0

    def fit(self, field: Field, x: State) -> Mapping[str, Tensor]:
        """What the solver must know about a trained model, from states x at T; a pipeline saves it with the weights.

        `solver.fitted(solver.fit(field, x))` runs. Default: what its grid must know.
        """
        return {} if self.grid is None else self.grid.fit(field, x, self.stand_in())

    def fit_as(self) -> Solver:
        """The solver whose fit serves this one: fields on which the fit does not depend are at a fixed value."""
        return self

    def fitted(self, found: Mapping[str, Tensor]) -> Solver:
        """This solver with what `fit` found."""
        return self if self.grid is None else evolve(self, grid=self.grid.fitted(found))

    def why(self, found: Mapping[str, Tensor]) -> Sequence[str]:
        """What `fit` found and what follows from it, in lines for a reader. Default: what its grid says."""
        return [] if self.grid is None else self.grid.why(found)

    def stand_in(self) -> Solver:
        """A solver of the same cost that needs no fit: itself, with its grid's stand-in."""
        return evolve(self, grid=self.grid.stand_in()) if self.grid is not None and self.grid.fit_on else self

    def init(self, x: State) -> Any:
        """What is carried from step to step (a tree of fixed shapes); None where nothing is."""
        return None

    def step(self, field: Field, x: State, row: Any, carry: Any, z: State) -> tuple[State, Any]:
        """One step. No branch on a tensor's value, no change of x or of the carry in place. z is None where row.noise is 0."""
        raise NotImplementedError

    def noise(self, process: Process, x: State, draw: Draw) -> State:
        """The fresh noise z of one step: the process's own; a solver that needs several independent ones returns a tree."""
        return process.noise(x, draw)

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

    def loop(self, field: Field, x: State, grid: Tensor, draw: Draw) -> Iterator[Frame]:
        """The frames of a run, the start included. A solver that owns its loop overrides this and yields the same frames."""
        trace, size = field.trace, leaves(x)[0].shape[0]
        times, states = grid.tolist() if grid.ndim == 1 else list(grid), self.states(field, x, grid, draw)
        calls = evaluated = 0
        yield Frame(0, times[0], x)
        for i in range(len(times) - 1):
            before, rows, trace.posterior = trace.calls, trace.rows, None
            state = next(states)
            calls, evaluated = calls + trace.calls - before, evaluated + trace.rows - rows
            yield Frame(i + 1, times[i + 1], state, evaluated / size, calls, trace.posterior)

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
        return plan, _with_buffers(rows, x) if reuse else rows

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

    def states(self, field: Field, x: State, grid: Tensor, draw: Draw, *, reuse: bool = False) -> Iterator[State]:
        """The state after every step: the plain loop over plan, init and step.

        reuse: the buffers of earlier states may be written to again (the caller keeps only the last).
        """
        plan, rows = self.prepared(field, x, grid, reuse=reuse)
        process, carry, step = field.process, self.init(x), self.step
        for i, row in enumerate(rows):
            z = self.noise(process, x, draw.at(i + 1)) if plan.draws[i] else None
            before = x
            x, carry = step(field, x, row, carry, z)
            if grid.ndim > 1:
                x = held(grid[i] == grid[i + 1], before, x)
            yield x


def _clock(field: Field, x: State) -> Any:
    """What the rows of a plan have from the denoiser, beside the process: its time input. None where it cannot be told."""
    base = field.base
    return base.clock(x) if hasattr(base, "clock") else None if hasattr(base, "time") else "none"


def constant(*parts: Any) -> bool:
    """Whether what the parts make of the same arguments is the same for ever."""
    return hashable(parts) and not any(isinstance(part, nn.Module) for part in parts)


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

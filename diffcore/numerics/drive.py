"""Solvers driven from outside: a loop of somebody else's that calls the network itself and tells what it returned."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Never

import torch
from torch import Tensor

from diffcore.declare.errors import DataError, IncompatibleError, NumericsError
from diffcore.numerics import meter
from diffcore.numerics.arguments import shown
from diffcore.numerics.calling import ordinary
from diffcore.numerics.fields import Denoiser, Field
from diffcore.numerics.process import Process
from diffcore.numerics.readings import Reading
from diffcore.numerics.sampling import checked, resolve_grid
from diffcore.numerics.solver import Grid, Moved, Solver, Stepper, held
from diffcore.numerics.tree import State, describe, leaves, tree_map


class _Call(NamedTuple):
    """A call of the network: the state, that state as the network takes it, its time input, its conditions, and the time."""

    x: State
    fed: State
    time: Tensor
    cond: Mapping[str, Any]
    at: Any


class _UnansweredError(Exception):
    """The network is called, and nobody has told what it returned."""

    def __init__(self, call: _Call) -> None:
        super().__init__()
        self.call = call


class _Answers:
    """What stands for the calls of a network: the answers so far, in order, then `_UnansweredError`."""

    def __init__(self, told: Sequence[State]) -> None:
        self.left = iter(told)

    def __call__(self, x: State, fed: State, time: Tensor, cond: Mapping[str, Any], at: Any) -> State:
        """The next answer, its own memory."""
        out = next(self.left, None)
        if out is None:
            if not ordinary((x, fed, time)):
                raise IncompatibleError("a network that is called from outside cannot be differentiated: leave that guidance out")
            raise _UnansweredError(_Call(x, fed, time, cond, at))
        return tree_map(torch.clone, out)


class Drive:
    """A run whose network is called by somebody else: made by `drive`.

        while not run.done:
            run.tell(net(*run.ask, **run.cond))

    ask: what the network is to be called with, (x, t) as it takes them (scaled and embedded as its denoiser says), or None when
    the run is done; cond: its conditions; at: the time as coefficients. x: the state, at times[i]; i: the steps taken; plan: the
    plan of the solver; logw, logp: as in `Result`.

    Each `tell` runs the step again with the answers so far, so a step of k calls runs k + 1 times, in arithmetic only, and
    nothing is suspended: `copy.copy` is a branch, and a run pickles in mid-step. A new x may be set between steps; in mid-step
    it drops the answers of the step. What the solver carries stays as it was.
    """

    def __init__(self, field: Field, solver: Stepper, x: State, times: Tensor, draw: Any) -> None:
        self.field, self.solver, self.times, self.draw = field, solver, times, draw
        self.i, self.carry = 0, solver.init(x)
        self.logw: Tensor | None = None
        self.logp: Tensor | None = None
        self._x, self._told = x, tuple[State, ...]()
        self._plan()
        self._replay()

    @property
    def x(self) -> State:
        """The state after the steps that are taken. Raises `DataError` where one of another shape or dtype is set."""
        return self._x

    @x.setter
    def x(self, value: State) -> None:
        tensors = all(isinstance(leaf, Tensor) for leaf in leaves(value))
        if not tensors or describe(value) != describe(self._x):
            raise DataError(f"the state of this run is {describe(self._x)}; got {describe(value) if tensors else shown(value)}")
        self._x, self._told = value, ()
        self._replay()

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("plan", "_rows", "_asked")  # rows are made at run time, and made again
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._plan()
        self._replay()

    def _plan(self) -> None:
        self.plan, self._rows = self.solver.prepared(self.field, self._x, self.times)

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.i == self.plan.steps

    @property
    def ask(self) -> tuple[State, Tensor] | None:
        """(x, t) for the network, copies of their own; None when the run is done."""
        return None if self._asked is None else tree_map(torch.clone, (self._asked.fed, self._asked.time))

    @property
    def cond(self) -> dict[str, Any]:
        """The conditions of the call that is asked for."""
        return {} if self._asked is None else dict(self._asked.cond)

    @property
    def at(self) -> Any:
        """The time of the call that is asked for, as `Coeffs` or what the process has; None when the run is done."""
        return None if self._asked is None else self._asked.at

    def tell(self, out: State) -> None:
        """What the network returned for `ask`: the quantity its denoiser predicts, of the shape of the state.

        Raises `DataError` for another shape, what is no real tensor, None, and after the end; `NumericsError` for NaN and +Inf.
        """
        if self._asked is None:
            raise DataError(f"the run is done after {self.i} steps: there is nothing to tell")
        read = self.field.base._call.read(self._asked.x, out)
        if any(bool((leaf.isnan() | (leaf == torch.inf)).any()) for leaf in leaves(read)):
            raise NumericsError(f"what was told in step {self.i + 1} holds NaN or Inf; look at the network that returned it")
        self._told = (*self._told, tree_map(torch.clone, read))
        self._replay()

    def _replay(self) -> None:
        """Go on as far as the answers reach."""
        self._asked = None
        while not self.done and self._asked is None:
            try:
                with meter.silent():
                    moved = self._step(_Answers(self._told))
            except _UnansweredError as need:
                self._asked = need.call
            else:
                self.i, self.carry, self._told, self.logw = self.i + 1, moved.carry, (), moved.logw
                if moved.logp is not None:
                    self.logp = moved.logp if self.logp is None else self.logp + moved.logp
                self._x = moved.x

    def _step(self, answers: _Answers) -> Moved:
        i, x, field = self.i, self._x, self.field
        base = copy.copy(field.base)
        base.base, base._call = base, answers
        own = Field(base, field.guidance, cond=field.cond, flow_map=field.flow_map)
        z = self.solver.draws(field.process, x, self.draw.at(i + 1)) if self.plan.draws[i] else None
        moved = self.solver.step(own, x, self._rows[i], self.carry, z)
        return moved._replace(x=held(self.times[i] == self.times[i + 1], x, moved.x)) if self.times.ndim > 1 else moved


def drive(
    field: Field | Process,
    solver: Solver,
    x: State,
    *,
    reading: str | Reading | None = None,
    grid: Grid | Tensor | Sequence[float] | None = None,
    steps: int | None = None,
    seed: int = 0,
    ids: Sequence[int] | None = None,
) -> Drive:
    """A run of a solver whose network is called by somebody else: another library's loop, a server that batches, a policy.

    field: as for `sample`, whose network is not called here: its denoiser says how what is told is read; or a process, with the
    `reading` of what is told. The other arguments are those of `sample`, and so are the samples, bit for bit, where
    the same network answers.

    Raises `IncompatibleError` for a solver with a loop of its own, and where a guidance or the solver differentiates through the
    network; and what `sample` raises.
    """
    if isinstance(field, Field) != (reading is None):
        raise IncompatibleError("drive takes a field, or a process and what is told: drive(process, ..., reading='eps')")
    read = field if isinstance(field, Field) else Field(Denoiser(_nobody, reading, field))
    solver, draw = checked(read, solver, x, seed, ids)
    if not isinstance(solver, Stepper):
        raise IncompatibleError(f"solver {type(solver).__name__} owns its loop; drive needs single steps")
    if type(read.base) is not Denoiser:
        raise IncompatibleError(f"drive needs a dc.Denoiser, which says how its network is read; got {shown(read.base)}")
    slopes = next((part for part in (*read.guidance, solver) if "grad" in part.needs), None)
    if slopes is not None:
        raise IncompatibleError(
            f"{slopes.kind} {type(slopes).__name__} differentiates through the network; leave it out: the network is outside"
        )
    return Drive(read, solver, x, resolve_grid(read, solver, grid, steps), draw)


def _nobody(x: State, t: Tensor, **cond: Any) -> Never:
    """The network of a run that has none: somebody else has."""
    raise AssertionError

"""A stepper around a stepper: what happens before and after each step of any solver."""

from __future__ import annotations

from typing import Any, Self

import attrs
from torch import Tensor

from diffcore.declare.component import component, param
from diffcore.declare.errors import SpecError
from diffcore.numerics.draw import Draw
from diffcore.numerics.fields import Field
from diffcore.numerics.plan import Plan
from diffcore.numerics.process import Process
from diffcore.numerics.solver import Moved, Stepper, check_within
from diffcore.numerics.tree import State

OWN = 0x0A17


@component
class Wrapped(Stepper):
    """The steps of `inner` with something done before and after each. A subclass overrides what it changes of `own`, `fresh`,
    `before` and `after`, and `plan` where it needs numbers of its own (`Plan.over`). Everything else is the inner solver's.

    Raises `SpecError` for an inner solver with a loop, a time grid or a number of steps of its own.
    """

    inner: Stepper = param(doc="solver whose steps are wrapped")

    def __attrs_post_init__(self) -> None:
        """Refuse a solver that cannot be run step by step on the grid of this one."""
        name = type(self).__name__
        check_within(self.inner, name)
        steps, usual = self.inner.steps, attrs.fields_dict(type(self.inner))["steps"].default
        if steps not in (self.steps, usual):
            raise SpecError(f"solver {type(self.inner).__name__} has {steps} steps of its own; give 'steps' to {name} instead")

    @classmethod
    def around(cls, inner: Stepper, **own: Any) -> Self:
        """Around a solver that stands alone: its steps and its time grid become those of the whole (for `Guidance.solver`)."""
        return cls(inner=attrs.evolve(inner, grid=None), steps=inner.steps, grid=inner.grid, **own)

    @property
    def requires(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the inner solver requires; a subclass adds to it."""
        return self.inner.requires

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the inner solver needs."""
        return self.inner.needs

    @property
    def both_ways(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the inner solver."""
        return self.inner.both_ways

    @property
    def group(self) -> int:
        """That of the inner solver."""
        return self.inner.group

    def default_grid(self, process: Process, steps: int, start: float) -> Tensor:
        """That of the inner solver."""
        return self.inner.default_grid(process, steps, start)

    def own(self, x: State) -> Any:
        """What is carried from step to step beside the inner carry, every leaf batch first; None where nothing is."""
        return None

    def fresh(self, process: Process, x: State, draw: Draw) -> State:
        """The noise of one step beside the inner solver's: a state or a tree of such. Override it only where some is drawn."""
        return None

    def before(self, field: Field, x: State, row: Any, own: Any, z: State) -> State:
        """The state that the inner step starts from. z: what `fresh` drew, None where `row.noise` is 0."""
        return x

    def after(self, field: Field, moved: Moved, x: State, row: Any, own: Any, z: State, posterior: Any) -> tuple[Moved, Any]:
        """What the step returns, with the inner carry in it, and the own carry.

        moved: what the inner step returned; x: where the whole step began; row: of `Plan.over`; posterior: the first that the
        inner step evaluated, None where it evaluated none.
        """
        return moved, own

    def plan(self, process: Process, grid: Tensor) -> Plan:
        """That of the inner solver, one step around each of its own."""
        return Plan.over(self.inner, process, grid)

    def init(self, x: State) -> Any:
        """The inner carry and the own one; None where neither is."""
        inner, own = self.inner.init(x), self.own(x)
        return None if inner is None and own is None else (inner, own)

    def draws(self, process: Process, x: State, draw: Draw) -> State:
        """The inner solver's noise as it would be alone, and what `fresh` draws, under keys of its own."""
        inner = self.inner.draws(process, x, draw)
        return (inner, self.fresh(process, x, draw.fold(OWN, _depth(self)))) if _draws(self) else inner

    def step(self, field: Field, x: State, row: Any, carry: Any, z: State) -> Moved:
        """Before, the inner step, after."""
        inner, own = (None, None) if carry is None else carry
        alone, fresh = (z, None) if z is None or not _draws(self) else z
        watched = field.watching()
        start = self.before(field, x, row, own, fresh)
        moved = self.inner.step(watched, start, row.inner, inner, alone)
        moved, own = self.after(field, moved, x, row, own, fresh, watched.first)
        return moved._replace(carry=None if moved.carry is None and own is None else (moved.carry, own))


def _draws(solver: Wrapped) -> bool:
    return type(solver).fresh is not Wrapped.fresh


def _depth(solver: Any) -> int:
    """How many wrappers there are, so that each draws under its own key."""
    return 1 + _depth(solver.inner) if isinstance(solver, Wrapped) else 0

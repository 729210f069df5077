"""The plan of a run: what a solver needs to know of its steps, computed once."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffcore.declare.errors import SpecError
from diffcore.numerics.fields import Field
from diffcore.numerics.tree import State, expand, leaves, tree_map

if TYPE_CHECKING:
    from diffcore.numerics.process import Process
    from diffcore.numerics.solver import Stepper


class Plan:
    """Everything a solver needs to know about its steps, computed once, in float64, by name.

    Each entry has one value per step: a tensor [N] (or [N, ...] for per-pixel time), a `Coeffs` of such tensors, a tuple of N
    Python integers, which stays Python in every mode and may be branched on (`order`, `last`, ...), or another plan of N steps,
    whose rows are then entries of the rows.
    noise: the weight of fresh noise in each step; the noise of a step whose weight is 0 is not drawn. It is the entry
    `noise` of the row as well. asks: per step the times at which it evaluates the field, in order, as `asked` lists them;
    one evaluation at `t` where nothing is said. Their number is what a step costs.

    Every row also has `out`: None, or a buffer that the step may hand to its last `lincomb(..., out=row.out)` if its carry
    keeps no reference to x. Two buffers then serve the whole run.
    """

    def __init__(self, *, noise: Tensor | None = None, asks: Sequence[Sequence[Any]] | None = None, **entries: Any) -> None:
        self.steps = _length(entries)
        _check_asks(asks, entries, self.steps)
        self._asks = asks
        self.noise = torch.zeros(self.steps, dtype=torch.float64) if noise is None else noise
        self.stochastic = noise is not None
        self.entries: dict[str, Any] = {**entries, "noise": self.noise, "out": (None,) * self.steps}

    @classmethod
    def over(
        cls,
        inner: Stepper,
        process: Process,
        grid: Tensor,
        *,
        repeat: Sequence[int] | None = None,
        noise: Tensor | None = None,
        asks: Sequence[Sequence[Any]] | None = None,
        **own: Any,
    ) -> Plan:
        """The plan of a solver that takes steps of another, `inner`, on a grid, with entries of its own, one value per step.

        Every row has `inner`, the row of the inner step; `t` and `s`, where that step starts and ends; and `last`, 1 in the last
        step. noise and asks are those of the inner step and the own ones together.

        repeat: which step of the grid each step is, such as (0, 0, 1, 1); each once in turn where nothing is said.

        Raises `IncompatibleError` where the inner solver does not fit the process, and `SpecError` where steps are to be
        repeated or left out of one that carries something from step to step.
        """
        inner.check_process(process)
        plan, (t, s) = inner.plan(process, grid), process.pairs(grid)
        if repeat is not None:
            if inner.init(torch.zeros(1, 1)) is not None:
                raise SpecError(
                    f"solver {type(inner).__name__} remembers earlier steps, and to repeat steps or leave some out would falsify "
                    f"what it remembers; take a one-step solver"
                )
            plan, t, s = (part.at(list(repeat)) for part in (plan, t, s))
        if plan.stochastic:
            noise = plan.noise if noise is None else expand(plan.noise, noise) + expand(noise, plan.noise)
        more = ((),) * plan.steps if asks is None else asks
        _check_asks(more, own, plan.steps)
        own = {"t": t, "s": s, "last": (0,) * (plan.steps - 1) + (1,), **own, "inner": plan}
        return cls(noise=noise, asks=[(*a, *b) for a, b in zip(plan.asks, more, strict=True)], **own)

    def at(self, steps: list[int]) -> Plan:
        """The plan of some of its steps, in this order."""
        kept = {k: _chosen(v, steps) for k, v in self.entries.items() if k not in ("noise", "out")}
        asks = [self.asks[i] for i in steps]
        return Plan(noise=self.noise[steps] if self.stochastic else None, asks=asks, **kept)

    def nodes(self, grid: Tensor) -> Tensor:
        """The times of the states of a run on this grid: where each step starts, and where the last one ends."""
        if self.steps == len(grid) - 1:
            return grid
        t, s = self.entries["t"].t, self.entries["s"].t
        return torch.cat([t, s[-1:]])

    def rests(self, grid: Tensor) -> Tensor:
        """Whose time stands still in each step."""
        return grid[:-1] == grid[1:] if self.steps == len(grid) - 1 else self.entries["t"].t == self.entries["s"].t

    @property
    def flat(self) -> dict[str, Any]:
        """All entries by name; those of an inner plan as `inner.<name>`."""
        found: dict[str, Any] = {}
        for name, value in self.entries.items():
            found |= {f"{name}.{k}": v for k, v in value.flat.items()} if isinstance(value, Plan) else {name: value}
        return found

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
        return with_buffers(rows, x) if reuse else rows

    @cached_property
    def asks(self) -> tuple[tuple[Any, ...], ...]:
        """Per step, the times at which it evaluates the field: numbers, or tensors for per-pixel times."""
        return asked(self.entries["t"]) if self._asks is None else tuple(map(tuple, self._asks))

    @cached_property
    def draws(self) -> list[bool]:
        """Whether each step has fresh noise."""
        return (self.noise != 0).reshape(self.steps, -1).any(1).tolist()

    def _column(self, value: Any, field: Field, x: State, tensors: bool) -> list[Any]:
        if isinstance(value, Plan):
            return value.rows(field, x, tensors=tensors)
        if _is_point(value):
            kept = {"t": _time_column(value.t, x, tensors, self.steps), "time": _times(value.t, field, x)}
            parts = [kept[k] if k in kept else _cast(v, x, tensors, self.steps) for k, v in value._asdict().items()]
            return list(map(type(value), *parts))
        return list(value) if isinstance(value, tuple) else _cast(value, x, tensors, self.steps)


def asked(*stages: Any) -> tuple[tuple[Any, ...], ...]:
    """The `asks` of a plan. Each stage of a step is a time (`Coeffs`, or what stands for them), or a pair of a time and how
    often the field is evaluated there, a number or a tuple of one per step: `asked(t, (u, corrected))`.
    """
    listed = [stage if type(stage) is tuple else (stage, 1) for stage in stages]
    columns = [
        [(time,) * often[i] if isinstance(often, tuple) else (time,) * often for i, time in enumerate(_times_of(point))]
        for point, often in listed
    ]
    return tuple(tuple(chain(*step)) for step in zip(*columns, strict=True))


def any_of(mask: Tensor) -> tuple[int, ...]:
    """Per step, 1 if the mask holds for any entry: a static entry of a plan, which a step may branch on."""
    return tuple(int(v) for v in mask.reshape(len(mask), -1).any(1).tolist())


@lru_cache(maxsize=256)
def _row_type(names: tuple[str, ...]) -> Any:
    made: Any = namedtuple("row_type", names)
    made.__reduce__ = lambda row: (_row, (row._fields, tuple(row)))  # made at run time, it has no name to be pickled by
    return made


def _row(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _row_type(names)(*values)


def with_buffers(rows: list[Any], x: State) -> list[Any]:
    """The rows with two buffers in turn to write to."""
    pair = (tree_map(torch.empty_like, x), tree_map(torch.empty_like, x))
    return [row._replace(out=pair[i % 2]) for i, row in enumerate(rows)]


def _is_point(value: Any) -> bool:
    """Whether a plan entry is a time with coefficients: `Coeffs`, `Instant`, or a process's own named tuple with t and time."""
    return isinstance(value, tuple) and hasattr(value, "t") and hasattr(value, "time")


def _length(entries: dict[str, Any]) -> int:
    bare = [
        f"{k} = {v}" for k, v in entries.items() if not isinstance(v, (tuple, Plan)) and not (isinstance(v, Tensor) and v.ndim)
    ]
    if bare:
        raise SpecError(
            f"the entries of a plan are tensors, coefficients or tuples with one value per step; not so: {', '.join(bare)}"
        )
    lengths = {k: v.steps if isinstance(v, Plan) else len(v.t) if _is_point(v) else len(v) for k, v in entries.items()}
    if len(set(lengths.values())) != 1:
        raise SpecError(f"the entries of a plan must have one value per step each; lengths: {lengths}")
    return next(iter(lengths.values()))


def _chosen(value: Any, steps: list[int]) -> Any:
    if isinstance(value, Plan) or _is_point(value):
        return value.at(steps)
    return value[steps] if isinstance(value, Tensor) else tuple(value[i] for i in steps)


def _times_of(point: Any) -> list[Any]:
    t: Tensor = getattr(point, "t", point)
    return t.tolist() if t.ndim == 1 else list(t)


def _check_asks(asks: Sequence[Sequence[Any]] | None, entries: dict[str, Any], steps: int) -> None:
    if asks is None and "t" not in entries:
        raise SpecError("a plan without an entry 't' must say when its steps evaluate the field: give it asks=dc.asked(...)")
    if asks is not None and len(asks) != steps:
        raise SpecError(f"'asks' of a plan has the times of {len(asks)} steps; the other entries have {steps}")


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

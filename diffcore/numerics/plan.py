"""The plan of a run: what a solver needs to know of its steps, computed once."""

from __future__ import annotations

from collections import namedtuple
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from diffcore.declare.errors import SpecError
from diffcore.numerics.fields import Field
from diffcore.numerics.tree import State, leaves, tree_map


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
        return with_buffers(rows, x) if reuse else rows

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

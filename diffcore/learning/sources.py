"""What `Data.open` returns, made a source whose batches are checked; a torch data set is taken as it is."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from diffcore.declare.errors import DataError, SpecError, said
from diffcore.learning.conditions import WHOLE
from diffcore.learning.data import Data, Source
from diffcore.numerics.arguments import shown
from diffcore.numerics.event import Event
from diffcore.numerics.tree import State, leaves

WANTED = (
    "a source has 'event' (the shape of one sample), 'size' (or None), 'classes' (condition -> number of classes, may be "
    "empty) and 'batch(ids)', which returns (x, {condition: tensor}); a torch Dataset with a length will do too"
)


@attrs.define
class Remembered:
    """A source of which no sample can be had: what a run knows of it, and why. A `dc.Source`."""

    event: Event
    classes: Mapping[str, int]
    why: str
    arrays: Mapping[str, tuple[int, ...]] = attrs.field(factory=dict[str, tuple[int, ...]])
    types: Mapping[str, str] = attrs.field(factory=dict[str, str])
    size: int | None = 0

    def batch(self, ids: Tensor) -> tuple[State, Mapping[str, Tensor]]:
        """Raises `DataError` that says why there are none."""
        raise DataError(self.why)


def opened_of(data: Data, found: Any) -> Source:
    """`opened` of what a data set opened; samples of one with a codec are of another event than what the network sees."""
    return opened(found, f"data {type(data).__name__}", coded=bool(data.seen_through))


def opened(found: Any, name: str = "the source", *, coded: bool = False) -> Source:
    """What was opened, as a source that checks its batches. Raises `DataError` where it is none.

    coded: its event is that of the codes of its samples.
    """
    if isinstance(found, (Checked, Remembered)):
        return found
    if not hasattr(found, "batch") and hasattr(found, "__getitem__") and hasattr(found, "__len__"):
        by_number = not isinstance(found, (Mapping, str, IterableDataset)) and getattr(found, "ndim", 1) > 0
        found = Mapped(found, name) if by_number else found
    fault = _fault(found)
    if fault:
        raise DataError(f"{name} opens no source: {fault}; {WANTED}")
    return Checked(found, name, coded)


def _fault(found: Any) -> str:
    missing = [key for key in ("event", "size", "classes", "batch") if not hasattr(found, key)]
    if missing:
        return f"{shown(found)} has no '{missing[0]}'"
    if not callable(found.batch) or isinstance(found, type):
        return f"its 'batch' is {shown(found.batch)}"
    if found.size is not None and (not isinstance(found.size, Integral) or found.size < 1):
        return f"its size is {shown(found.size)}"
    try:
        Event.of(found.event)
    except SpecError as error:
        return f"its event is {shown(found.event)}: {error}"
    if not isinstance(found.classes, Mapping) or not all(
        isinstance(count, int) and count > 0 for count in found.classes.values()
    ):
        return f"its classes are {found.classes!r}"
    return ""


class Checked:
    """A source whose batches are what it says: rows, parts, shape, dtype and classes of each, finite values of the first."""

    def __init__(self, inner: Source, name: str, coded: bool = False) -> None:
        self.inner, self.name, self.coded = inner, name, coded
        self.event, self.size, self.classes = Event.of(inner.event), inner.size, dict(inner.classes)
        self.class_names: tuple[str, ...] = tuple(getattr(inner, "class_names", ()))
        self._others: dict[str, Tensor] | None = None  # a first row of each condition that is no class

    @property
    def arrays(self) -> Mapping[str, tuple[int, ...]]:
        """The conditions that are no classes, with the shape of one row."""
        return {name: tuple(row.shape) for name, row in self._first().items()}

    @property
    def types(self) -> Mapping[str, str]:
        """Those of them that are no real numbers, with their type."""
        kinds = {name: str(row.dtype).removeprefix("torch.") for name, row in self._first().items()}
        return {name: kind for name, kind in kinds.items() if kind in WHOLE}

    def _first(self) -> Mapping[str, Tensor]:
        if self._others is None:
            self.batch(torch.zeros(1, dtype=torch.int64))
        return self._others or {}

    def batch(self, ids: Tensor) -> tuple[State, dict[str, Tensor]]:
        """The samples of these numbers and their conditions. Raises `DataError` naming what is not as declared."""
        found = self._found(ids)
        if not isinstance(found, Tensor) and not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping)):
            raise self._error(f"returned {_kinds(found)}", "(x, {condition: tensor}), or x alone where there are no conditions")
        raw, cond = (found, {}) if isinstance(found, Tensor) else found
        self._check_samples(raw, len(ids))
        cond = {name: self._condition(name, cond.get(name), len(ids)) for name in {**self.classes, **cond}}
        if self._others is None:
            self._check_values({"samples": raw, **cond})
            self._others = {name: value[0].clone() for name, value in cond.items() if name not in self.classes}
        return raw, cond

    def _found(self, ids: Tensor) -> Any:
        try:
            return self.inner.batch(ids)
        except IndexError as error:
            raise DataError(
                f"{self.name} has no sample of every number it was asked for, {int(ids.min())} to {int(ids.max())} "
                f"({said(error)}); its size is {self.size}: correct it"
            ) from error

    def _check_samples(self, raw: Any, n: int) -> None:
        for leaf in leaves(raw):
            if not isinstance(leaf, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise self._error(f"gave samples as {shown(leaf)}", "tensors (torch.as_tensor, torch.from_numpy)")
            if leaf.is_complex() or leaf.dtype == torch.bool:
                raise self._error(f"gave samples of {leaf.dtype}", "real numbers, or int64 for tokens")
            if leaf.ndim == 0 or len(leaf) != n:
                raise self._error(f"gave samples of shape {tuple(leaf.shape)} for {n} ids", f"one row per id, ({n}, ...)")
        if not self.coded and (found := self.event.differs(raw, n)):
            raise self._error(f"gave samples of {found[0]}", found[1])

    def _condition(self, name: str, value: Any, n: int) -> Tensor:
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != n:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
            raise self._error(f"gave condition '{name}' as {got} for {n} ids", "a tensor with one row per id")
        if name not in self.classes:
            return value
        count = self.classes[name]
        if value.ndim != 1 or value.is_floating_point() or value.is_complex():
            raise self._error(f"gave '{name}' as {value.dtype} of shape {tuple(value.shape)}", f"{n} integers, one class per id")
        value = value.to(torch.int64)
        low, high = (int(v) for v in value.aminmax()) if n else (0, 0)
        if low < 0 or high >= count:
            raise self._error(f"gave classes {low} to {high} of '{name}'", f"0 to {count - 1}, as its 'classes' say")
        return value

    def _check_values(self, found: Mapping[str, State]) -> None:
        for name, value in found.items():
            if not all(bool(leaf.isfinite().all()) for leaf in leaves(value) if leaf.is_floating_point()):
                raise self._error(f"gave {name} with NaN or Inf", "finite numbers")

    def _error(self, what: str, wanted: str) -> DataError:
        return DataError(f"the batch of {self.name} {what}; expected {wanted}")


class Mapped:
    """A torch data set (or any sequence) of x, (x, label) or {"x": x, condition: value}, read by number.

    Integers are classes, from 0 without gaps, or as many as its attribute `classes` (of the label) names; other conditions are
    arrays. Numbers become float32, integers int64.
    """

    def __init__(self, items: Any, name: str) -> None:
        self.items, self.name = items, name
        self.size: int | None = len(items)
        if not self.size:
            raise DataError(f"{name} opens an empty data set; a data set has at least one sample")
        x, cond = self._item(0)
        if not x.ndim:
            raise DataError(f"item 0 of {name} is one number; a sample needs an axis of its own: x[None]")
        self.event = Event(*x.shape)
        own = getattr(items, "classes", None)
        self.class_names = tuple(map(str, own)) if isinstance(own, (list, tuple)) else ()
        self.classes = {key: self._count(key) for key, value in cond.items() if value.dtype == torch.int64 and value.ndim == 0}

    def batch(self, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The items of these numbers, stacked."""
        found = [self._item(i) for i in ids.tolist()]
        names = found[0][1] if found else {}
        try:
            x = torch.stack([x for x, _ in found])
            return x, {name: torch.stack([cond[name] for _, cond in found]) for name in names}
        except (RuntimeError, KeyError) as error:
            raise DataError(
                f"the items of {self.name} differ in shape or in conditions ({str(error).splitlines()[0]}); resize or crop them "
                f"in its transform"
            ) from None

    def _item(self, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        item = self._read(i)
        if isinstance(item, Mapping):
            x, cond = item.get("x"), {str(key): value for key, value in item.items() if key != "x"}
        elif isinstance(item, (tuple, list)) and len(item) in (1, 2):
            x, cond = item[0], dict(zip(["label"], item[1:], strict=False))
        else:
            x, cond = item, {}
        try:
            return _number(x), {name: _number(value) for name, value in cond.items()}
        except (TypeError, ValueError, RuntimeError):
            raise DataError(
                f"item {i} of {self.name} is {_kinds(item)}; an item is a tensor x, (x, label), or {{'x': x, condition: value}} "
                f"(give pictures a transform such as ToTensor; number labels that are words, the attribute 'classes' names them)"
            ) from None

    def _read(self, i: int) -> Any:
        try:
            return self.items[i]
        except (IndexError, KeyError, OSError) as error:
            raise DataError(f"item {i} of the {len(self.items)} of {self.name} cannot be read: {said(error)}") from error

    def _count(self, key: str) -> int:
        if key == "label" and self.class_names:
            return len(self.class_names)
        found = sorted({int(self._label(i, key)) for i in range(len(self.items))})
        if found != list(range(len(found))):
            empty = next((i for i, number in enumerate(found) if i != number), 0)
            raise DataError(
                f"distinct numbers in '{key}' of {self.name}: {len(found)}, from {found[0]} to {found[-1]}, and none is {empty}; "
                f"a class without samples cannot be learnt: number the classes from 0 without gaps, or name all of the label's "
                f"in an attribute 'classes'"
            )
        return len(found)

    def _label(self, i: int, key: str) -> Tensor:
        value = self._item(i)[1].get(key)
        if value is None or value.ndim:
            raise DataError(f"item {i} of {self.name} has no '{key}' that is one integer, and item 0 has; give it to all")
        return value


def _number(value: Any) -> Tensor:
    if value is None or isinstance(value, str):
        raise TypeError
    tensor = torch.as_tensor(value)
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64)


def _kinds(found: Any) -> str:
    if isinstance(found, (tuple, list)):
        return f"a {type(found).__name__} of {', '.join(type(each).__name__ for each in found[:4]) or 'nothing'}"
    return f"a dict of {', '.join(map(str, found))}" if isinstance(found, Mapping) else shown(found)

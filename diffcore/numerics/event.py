"""What one sample is: a tensor, or a tree of tensors, each with its shape and its kind of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from diffcore.declare.errors import IncompatibleError, SpecError
from diffcore.numerics.arguments import shown, whole
from diffcore.numerics.tree import State, named_leaves


class Event:
    """One leaf, `Event(1, 28, 28)`, or a tree of them by name, `Event({"x": (9, 3), "bond": Event(9, 9, values=4)})`.

    shape: of one sample, without the batch. values: its entries are integers of 0 to values - 1 (categories, tokens); None where
    they are real numbers. parts: name -> event of a tree; empty for a leaf. A value: compared by what it says,
    hashable, picklable.

    Raises `SpecError` for sides that are no whole numbers above 0, and for a tree that has a shape of its own.
    """

    shape: tuple[int, ...]
    values: int | None
    parts: Mapping[str, Event]

    def __init__(self, *shape: Any, values: int | None = None) -> None:
        tree = shape[0] if len(shape) == 1 and isinstance(shape[0], Mapping) else {}
        if tree and values is not None:
            raise SpecError("the parts of an event have values, each its own; the tree of them has none")
        sides = () if tree else tuple(whole("a side of an event", side, 1) for side in shape)
        own = {
            "shape": sides,
            "values": None if values is None else whole("values", values, 1),
            "parts": {str(name): Event.of(part) for name, part in sorted(tree.items())},
        }
        self.__dict__.update(own)

    @staticmethod
    def of(found: Any) -> Event:
        """An event as it is; a tuple or list of sides as a leaf of real numbers; a mapping as a tree of such."""
        if isinstance(found, Event):
            return found
        if isinstance(found, Mapping):
            return Event(found)
        if isinstance(found, (tuple, list)):
            return Event(*found)  # pyright: ignore[reportUnknownArgumentType]
        wanted = "the shape of one sample, such as (1, 28, 28), a dc.Event, or a dict of such"
        raise SpecError(f"an event is {wanted}; got {shown(found)}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Refused: an event is a value."""
        raise AttributeError(f"an event is a value; make another with other {name}")

    def leaves(self) -> Iterator[tuple[str, Event]]:
        """Name and event of every leaf, in the order of the names; "" for the only one, `a.b` within trees."""
        if not self.parts:
            yield "", self
        for name, part in self.parts.items():
            yield from ((f"{name}.{below}" if below else name, leaf) for below, leaf in part.leaves())

    def leaf(self, who: str) -> Event:
        """This event, for whoever takes one tensor. Raises `IncompatibleError` naming `who` and the leaves of a tree."""
        if self.parts:
            raise IncompatibleError(
                f"{who} takes one tensor, and a sample here has the parts {', '.join(n for n, _ in self.leaves())}"
            )
        return self

    @property
    def entries(self) -> int:
        """How many numbers one sample has, all leaves together."""
        return sum(math.prod(leaf.shape) for _, leaf in self.leaves())

    def like(self, n: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> State:
        """n samples of memory that nobody has filled: of `dtype`, and of int64 where entries are integers."""
        if self.parts:
            return {name: part.like(n, device, dtype) for name, part in self.parts.items()}
        return torch.empty(n, *self.shape, dtype=torch.int64 if self.values else dtype, device=device)

    def differs(self, x: State, n: int) -> tuple[str, str] | None:
        """What n samples x have that is not of this event (parts, the shape of a leaf), and what was expected; else None."""
        found, wanted = named_leaves(x), dict(self.leaves())
        if found.keys() != wanted.keys():
            return f"parts {', '.join(map(repr, found))}", ", ".join(map(repr, wanted))
        for name, leaf in wanted.items():
            if tuple(found[name].shape) != (n, *leaf.shape):
                where = f" of '{name}'" if name else ""
                return f"shape {tuple(found[name].shape)}{where} for {n} samples", str((n, *leaf.shape))
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> Any:
        return self.shape, self.values, tuple(self.parts.items())

    def __repr__(self) -> str:
        """As it is written."""
        if self.parts:
            return f"Event({dict(self.parts)!r})"
        more = [] if self.values is None else [f"values={self.values}"]
        return f"Event({', '.join([*map(str, self.shape), *more])})"

    def __str__(self) -> str:
        """For readers: `(1, 28, 28)`, `(64,) of 27 values`, leaf by leaf."""
        texts = [
            f"{name + ' ' if name else ''}{leaf.shape}{f' of {leaf.values} values' if leaf.values else ''}"
            for name, leaf in self.leaves()
        ]
        return " and ".join(texts)

"""The raw tree of a spec: plain values that know where they were written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import attrs

from diffcore.declare.errors import shorten
from diffcore.specs.faults import Faults, Mark

MAX_DEPTH = 64
MAX_SIZE = 5000
"""Caps on nesting and on the number of values, aliases counted as often as they are used."""


@attrs.frozen(eq=False)
class Node:
    """A scalar, a list of nodes, a dict of nodes by name, or a finished object that came from Python.

    `mark` is where the value is written and `key` where its key is (None for values from Python). `partial` marks a map that an
    override opened and that completes the default of its field. `size` and `height` count the values and levels of the tree.
    """

    value: Any
    mark: Mark | None = None
    key: Mark | None = None
    partial: bool = False
    size: int = 1
    height: int = 1

    @classmethod
    def group(cls, value: list[Node] | dict[str, Node], mark: Mark | None = None) -> Node:
        """A list or a map."""
        children = value.values() if isinstance(value, dict) else value
        size, height = sum(child.size for child in children), max((child.height for child in children), default=0)
        return cls(value, mark, size=1 + size, height=1 + height)

    def under(self, key: Mark | None) -> Node:
        """The same value under a key."""
        return attrs.evolve(self, key=key)

    def child(self, name: str) -> Any:
        """The plain value of an entry of a map, None where there is none."""
        found = self.children.get(name)
        return found.value if found else None

    @property
    def children(self) -> dict[str, Node]:
        """The entries of a list or map by name or number; empty for anything else."""
        if isinstance(self.value, list):
            return {str(i): child for i, child in enumerate(cast(list[Node], self.value))}
        return cast(dict[str, Node], self.value) if isinstance(self.value, dict) else {}

    def describe(self) -> str:
        """The value in a message: `the text '12'`, `a list of 3`, `null`."""
        value: Any = self.value
        if value is None or isinstance(value, bool):
            return "null" if value is None else str(value).lower()
        if isinstance(value, str):
            return f"the text '{shorten(value)}'"
        if isinstance(value, int):
            return shorten(str(value)) if value.bit_length() < 200 else f"an integer of {value.bit_length()} bits"
        if isinstance(value, float):
            return str(value)
        if isinstance(value, list):
            return f"a list of {len(cast(list[Any], value))}"
        if isinstance(value, dict):
            return f"a map with {shorten(', '.join(map(str, cast(dict[str, Any], value)))) or 'no keys'}"
        return f"a value of the class {type(value).__name__}"


def join(path: str, name: str | int) -> str:
    """The path of an entry: `guidance.0.w`."""
    return f"{path}.{name}" if path else str(name)


def tree_of(value: Any, faults: Faults, path: str = "") -> Node:
    """The tree of plain Python values; components in it are kept as they are."""
    left = MAX_SIZE

    def convert(value: Any, path: str, depth: int) -> Node:
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            faults.stop(None, path[:80], f"a spec has at most {MAX_SIZE} values and {MAX_DEPTH} levels")
        if isinstance(value, Node):
            return value
        if isinstance(value, Mapping):
            items = cast(Mapping[Any, Any], value).items()
            return Node.group({_name(k, faults, path): convert(v, join(path, k), depth + 1) for k, v in items})
        if isinstance(value, (list, tuple)):
            entries = enumerate(cast(list[Any], value))
            return Node.group([convert(v, join(path, i), depth + 1) for i, v in entries])
        return Node(value)

    return convert(value, path, 1)


def _name(key: Any, faults: Faults, path: str) -> str:
    if not isinstance(key, str):
        faults.add(None, path, f"keys are text; got {key!r}")
    return str(key)


def merge(base: Node, over: Node) -> Node:
    """`over` on top of `base`: maps merge, anything else replaces, and so does a map that changes `type`."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    below, above = cast(dict[str, Node], base.value), cast(dict[str, Node], over.value)
    if "type" in above and "type" in below and above["type"].value != below["type"].value:
        return over
    merged = {**below, **{k: merge(below[k], v) if k in below else v for k, v in above.items()}}
    return Node.group(merged, over.mark).under(over.key)

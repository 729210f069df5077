"""Faults found after a spec was read, when its parts are put together: they get the place of the value they are about."""

from __future__ import annotations

from collections.abc import Sequence

from diffcore.declare.errors import DataError, IncompatibleError
from diffcore.specs.faults import Fault, Faults, Mark, SpecErrors
from diffcore.specs.loading import SpecSource, load_tree
from diffcore.specs.tree import Node


class MisfitError(SpecErrors, IncompatibleError):
    """Everything in a spec that does not fit together."""


class DataFaultError(SpecErrors, DataError):
    """The data of a spec without other faults cannot be opened."""


def placed(problems: Sequence[tuple[str, str]], source: SpecSource, overrides: Sequence[str]) -> list[Fault]:
    """The problems (path, message) as faults at their places in the source."""
    root = load_tree(source, overrides, Faults())
    return [Fault.at(_mark(root, path), path, message) for path, message in problems]


def _mark(root: Node, path: str) -> Mark | None:
    """Where the value of a path is written; the nearest section above it where it is a default."""
    found = root
    node: Node | None = root
    for key in path.split("."):
        node = node.children.get(key) if node is not None else None
        found = node if node is not None and node.mark is not None else found
    return found.mark if found is not root else None

"""Unknown fields of a spec, found before the classes of its components, and torch with them, are imported."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable
from types import NoneType
from typing import Any

import attrs

from diffcore.declare.component import BOUNDS
from diffcore.declare.errors import UnknownComponentError, did_you_mean
from diffcore.declare.installed import Installed
from diffcore.specs.faults import LISTED, Faults
from diffcore.specs.statements import Field, Statement, statement_of
from diffcore.specs.tree import Node, join, shorten

SPEC = "diffcore.run.spec.Spec"
_TYPES = {"bool": {bool}, "int": {int}, "float": {int, float}, "str": {str}, "None": {NoneType}}


MEANT = {"sampler": "solver", "model": "network", "dataset": "data", "sde": "process", "scheduler": "process"}
"""Sections by the names that they have elsewhere."""


def unknown_field(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a field that a component, a section or a spec does not have."""
    meant = MEANT.get(name, "")
    hint = f"; did you mean '{meant}'?" if meant in (known := list(known)) else did_you_mean(shorten(name), known)
    return f"unknown field of {what}{hint or ';'}{LISTED}{', '.join(known) or 'none'}"


@attrs.define
class Names:
    """Walks a spec along the class statements of its parts and notes the unknown fields; what is not sure is passed over.

    `others`: whether anything else looks wrong, which only the classes can say well.
    """

    registry: Installed
    faults: Faults
    others: bool = False

    def spec(self, tree: Node) -> None:
        """Look at a whole spec."""
        self._part(SPEC, tree, "")

    def _part(self, target: str, node: Node, path: str) -> None:
        found = statement_of(target)
        if found is None or node.value is None:
            return
        if not isinstance(node.value, dict):
            self.others = True
        elif found.kind:
            self._component(found.kind, node, path)
        else:
            self._fields(f"'{path}'" if path else "a spec", found, node, path)

    def _component(self, kind: str, node: Node, path: str) -> None:
        try:
            entry = self.registry.find(kind, str(node.child("type")))
        except UnknownComponentError:
            self.others = self.others or not node.partial
            return
        found = statement_of(entry.target.replace(":", "."))
        if found is not None:
            self._fields(f"{kind} '{entry.id}'", found, node, path, but="type")

    def _fields(self, what: str, found: Statement, node: Node, path: str, but: str = "") -> None:
        given = {name: child for name, child in node.children.items() if name != but}
        unknown = [name for name in given if name not in found.fields]
        for name in unknown:
            at = given[name].key or node.mark
            self.faults.add(at, join(path, shorten(name)), unknown_field(what, name, found.fields))
        meant = {did_you_mean(shorten(name), found.fields) for name in unknown}
        missing = [name for name, field in found.fields.items() if field.required and name not in given]
        self.others |= any(f"; did you mean '{name}'?" not in meant for name in missing)
        for name, field in found.fields.items():
            if name in given:
                self._field(field, given[name], join(path, name))

    def _field(self, field: Field, node: Node, path: str) -> None:
        if not field.part:
            self.others |= not _seems_right(field, node.value)
        for i, part in (node.children if isinstance(node.value, list) else {"": node}).items():
            self._part(field.part, part, join(path, i) if i else path)


def _seems_right(field: Field, value: Any) -> bool:
    """Whether a scalar is of a type and within the bounds that stand in the class statement; true of what is more than that."""
    words = ast.unparse(field.line.annotation).split(" | ")
    if not all(word in _TYPES for word in words):
        return True
    if type(value) not in set[type]().union(*(_TYPES[word] for word in words)):
        return False
    keywords = field.line.value.keywords if isinstance(field.line.value, ast.Call) else []
    written: dict[Any, Any] = {k.arg: k.value.value for k in keywords if isinstance(k.value, ast.Constant)}
    bounds = [(holds, written[name]) for name, (holds, _) in BOUNDS.items() if name in written]
    number = type(value) in (int, float)
    return not number or (math.isfinite(value) and all(holds(value, bound) for holds, bound in bounds))

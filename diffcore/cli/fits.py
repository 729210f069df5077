"""What a component needs, and which installed components it fits: computed from their declarations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, get_args

from diffcore.declare.component import Base
from diffcore.declare.entry import Entry
from diffcore.declare.errors import DiffcoreError
from diffcore.run.sections import TOP_KINDS
from diffcore.specs.fieldtypes import field_types, kind_of
from diffcore.specs.registry import Registry

CONSUMERS = ("solver", "grid", "guidance", "loss", "flow_map")
"""Kinds that require capabilities of the process."""
FACTS = (
    "provides",
    "predictions",
    "requires",
    "needs",
    "order",
    "additive_noise",
    "second_time",
    "takes_second_time",
    "needs_classes",
)
"""Declarations worth showing."""


class Declared:
    """One installed component with an instance made from its defaults and its `example`."""

    def __init__(self, registry: Registry, entry: Entry) -> None:
        self.registry, self.entry = registry, entry
        self.cls: type[Base] = registry.get(entry.kind, entry.full_id)

    @cached_property
    def instance(self) -> Any:
        """The example; None where it cannot be made."""
        try:
            return self.registry.make(self.entry.kind, self.entry.full_id, **self.cls.example)
        except DiffcoreError:
            return None

    def says(self, name: str) -> Any:
        """A declaration, of the instance where there is one; None where it is not declared."""
        value = getattr(self.cls if self.instance is None else self.instance, name, None)
        return None if isinstance(value, property) else value

    def facts(self) -> dict[str, Any]:
        """What is declared, by name; what is empty or false is left out."""
        return {name: value for name in FACTS if (value := self.says(name))}

    def part_kinds(self) -> set[str]:
        """The kinds that stand in its fields."""
        return {kind for hint in field_types(self.cls).values() for kind in _kinds(hint)}


def _kinds(hint: Any) -> Iterator[str]:
    if kind := kind_of(hint):
        yield kind
    for inner in get_args(hint):
        yield from _kinds(inner)


def fits(registry: Registry, one: Declared) -> dict[str, list[str]]:
    """Kind -> ids of the installed components of that kind that this one can be used with."""
    kind = one.entry.kind
    if kind == "process":
        return {k: [o.entry.id for o in _all(registry, k) if _runs_on(o, one)] for k in CONSUMERS}
    if kind == "network":
        return {k: [o.entry.id for o in _all(registry, k) if _accepts(o, one)] for k in ("loss", "flow_map")}
    found: dict[str, list[str]] = {}
    if kind in CONSUMERS:
        found["process"] = [o.entry.id for o in _all(registry, "process") if _runs_on(one, o)]
    if "flow_map" in (one.says("requires") or ()):
        found["flow_map"] = [e.id for e in registry.list("flow_map")]
    if kind in ("loss", "flow_map"):
        found["network"] = [o.entry.id for o in _all(registry, "network") if _accepts(one, o)]
    if kind not in TOP_KINDS:
        holders = {k: [o.entry.id for o in _all(registry, k) if kind in o.part_kinds()] for k in registry.kinds}
        found.update({k: ids for k, ids in holders.items() if ids})
    return found


def _all(registry: Registry, kind: str) -> Iterator[Declared]:
    for entry in registry.list(kind):
        try:
            yield Declared(registry, entry)
        except DiffcoreError:
            continue


def _runs_on(consumer: Declared, process: Declared) -> bool:
    return set(consumer.says("requires") or ()) - {"flow_map"} <= set(process.says("provides") or ())


def _accepts(user: Declared, network: Declared) -> bool:
    able = network.says("takes_second_time") or "second_time" in field_types(network.cls)
    return bool(able) or not (user.entry.kind == "flow_map" or user.says("second_time"))

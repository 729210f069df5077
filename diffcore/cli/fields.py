"""The fields of a component, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from diffcore.declare.component import Base
from diffcore.declare.errors import UnknownComponentError
from diffcore.specs.fieldtypes import default_of, expected, field_types, init_fields
from diffcore.specs.registry import Registry

SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def describe_fields(registry: Registry, cls: type[Any]) -> list[dict[str, Any]]:
    """name, type in words, required, default, bounds, choices, unit and doc of every field."""
    types = field_types(cls)
    return [_describe(registry, name, types[name], field) for name, field in init_fields(cls).items()]


def _describe(registry: Registry, name: str, wanted: Any, field: attrs.Attribute[Any]) -> dict[str, Any]:
    told, default = field.metadata, default_of(field)
    return {
        "name": name,
        "type": expected(wanted),
        "required": default is attrs.NOTHING,
        "default": None if default is attrs.NOTHING else value_words(registry, default),
        "bounds": {bound: told[bound] for bound in SIGNS if bound in told},
        "choices": list(told.get("choices", ())),
        "unit": told.get("unit", ""),
        "doc": told.get("doc", ""),
    }


def value_words(registry: Registry, value: Any) -> Any:
    """A value as a spec writes it, in short: a component is its id."""
    if isinstance(value, Base):
        try:
            return registry.id_of(type(value))
        except UnknownComponentError:
            return type(value).__name__
    if isinstance(value, (tuple, list)):
        return [value_words(registry, v) for v in value]
    if isinstance(value, Mapping):
        return {str(name): value_words(registry, v) for name, v in value.items()}
    if attrs.has(type(value)):
        return {a.name: value_words(registry, getattr(value, a.name)) for a in attrs.fields(type(value))}
    return value


def bounds_words(field: dict[str, Any]) -> str:
    """`>= 0, < 1`, or the choices."""
    if field["choices"]:
        return "one of " + ", ".join(str(c) for c in field["choices"])
    return ", ".join(f"{SIGNS[name]} {bound:g}" for name, bound in field["bounds"].items())

"""The fields of a component, in words."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from diffcore.component import Base
from diffcore.errors import UnknownComponentError
from diffcore.registry import Registry

SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def describe_fields(registry: Registry, cls: type[Base]) -> list[dict[str, Any]]:
    """name, type, required, default, bounds, choices, unit and doc of every field."""
    attrs.resolve_types(cls)  # pyright: ignore[reportArgumentType]
    return [_describe(registry, field) for field in attrs.fields(cls) if field.init]


def _describe(registry: Registry, field: attrs.Attribute[Any]) -> dict[str, Any]:
    told = field.metadata
    return {
        "name": field.name,
        "type": type_words(field.type),
        "required": field.default is attrs.NOTHING,
        "default": _default(registry, field),
        "bounds": {name: told[name] for name in SIGNS if name in told},
        "choices": list(told.get("choices", ())),
        "unit": told.get("unit", ""),
        "doc": told.get("doc", ""),
    }


def _default(registry: Registry, field: attrs.Attribute[Any]) -> Any:
    default: Any = field.default
    if default is attrs.NOTHING:
        return None
    if isinstance(default, attrs.Factory):
        default = default.factory()
    return value_words(registry, default)


def value_words(registry: Registry, value: Any) -> Any:
    """A value as a spec writes it, in short: a component is its id."""
    if isinstance(value, Base):
        try:
            return registry.id_of(type(value))
        except UnknownComponentError:
            return type(value).__name__
    if isinstance(value, (tuple, list)):
        return [value_words(registry, v) for v in value]
    if attrs.has(type(value)):
        return {a.name: value_words(registry, getattr(value, a.name)) for a in attrs.fields(type(value))}
    return value


def type_words(hint: Any) -> str:
    """A type as a user of a spec reads it: `float or null`, `list of int`, `grid`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " | ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(type_words(a) for a in args)
    if origin in (tuple, list):
        return f"list of {type_words(args[0])}" if args[-1:] == (...,) or origin is list else f"[{', '.join(map(type_words, args))}]"
    if origin is dict:
        return f"mapping to {type_words(args[1])}"
    if hint is type(None):
        return "null"
    if isinstance(hint, type):
        return hint.kind if issubclass(hint, Base) and hint.kind else hint.__name__
    return str(hint)


def bounds_words(field: dict[str, Any]) -> str:
    """`>= 0, < 1`, or the choices."""
    if field["choices"]:
        return " | ".join(str(c) for c in field["choices"])
    return ", ".join(f"{SIGNS[name]} {bound:g}" for name, bound in field["bounds"].items())

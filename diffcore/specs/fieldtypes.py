"""What the fields of a component may be: their types, in words, and whether a node looks like one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from diffcore.declare.component import Base
from diffcore.declare.errors import PluginError
from diffcore.declare.installed import Installed
from diffcore.specs.tree import Node

SCALARS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "true/false values"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    NoneType: ("null", "nulls"),
}
"""Scalar type -> one and many of it in words."""


def init_fields(cls: type) -> dict[str, attrs.Attribute[Any]]:
    """The fields of an attrs class that a spec can set, by the name they have in it."""
    return {a.alias or a.name: a for a in attrs.fields(cls) if a.init}


@cache
def field_types(cls: type) -> dict[str, Any]:
    """The types of these fields. Raises `PluginError` for annotations that cannot be resolved."""
    try:
        hints = get_type_hints(cls)
    except (NameError, TypeError, AttributeError) as error:
        raise PluginError(f"the field types of {cls.__module__}:{cls.__qualname__} cannot be resolved: {error}") from error
    return {name: hints.get(a.name, a.type) for name, a in init_fields(cls).items()}


def default_of(attribute: attrs.Attribute[Any]) -> Any:
    """The default of a field, made if it is a factory; `attrs.NOTHING` where there is none."""
    default: Any = attribute.default
    takes_self = getattr(default, "takes_self", None)
    if takes_self is None:
        return default
    return attrs.NOTHING if takes_self else default.factory()


def kind_of(wanted: Any) -> str:
    """The kind of a component base, empty for anything else."""
    return wanted.kind if isinstance(wanted, type) and issubclass(wanted, Base) else ""


def is_record(wanted: Any) -> bool:
    """Whether a type is an attrs class that is not a component: a plain map."""
    return isinstance(wanted, type) and attrs.has(wanted) and not kind_of(wanted)


def is_union(wanted: Any) -> bool:
    """Whether a type is `X | Y`."""
    return get_origin(wanted) in (Union, UnionType)


def is_mapping(wanted: Any) -> bool:
    """Whether a type is `dict[str, X]`."""
    return get_origin(wanted) in (dict, Mapping) and get_args(wanted)[0] is str


def is_scalar(wanted: Any) -> bool:
    """Whether a type is a scalar or a Literal of scalars."""
    return wanted in SCALARS or get_origin(wanted) is Literal


def expected(wanted: Any) -> str:
    """What a type takes, in words."""
    origin, args = get_origin(wanted), get_args(wanted)
    if wanted in SCALARS:
        return SCALARS[wanted][0]
    if origin is Literal:
        return f"one of {', '.join(repr(arg) for arg in args)}"
    if is_union(wanted):
        return " or ".join(expected(arg) for arg in args)
    if origin is tuple and args[-1] is Ellipsis:
        return f"a list of {SCALARS[args[0]][1] if args[0] in SCALARS else 'entries'}"
    if origin is tuple:
        return f"a list of {len(args)}: {', '.join(expected(arg) for arg in args)}"
    if kind_of(wanted):
        return f"a map with 'type' (a {kind_of(wanted)})"
    return f"a map with {', '.join(init_fields(wanted))}" if is_record(wanted) else "a map"


def fits(registry: Installed, wanted: Any, node: Node) -> bool:
    """Whether a node looks like a type; of what is inside it, only `type` counts."""
    value, args = node.value, get_args(wanted)
    if get_origin(wanted) is Literal:
        return any(type(arg) is type(value) and arg == value for arg in args)
    if wanted in SCALARS:
        allowed = (int, float) if wanted is float else wanted
        return isinstance(value, allowed) and isinstance(value, bool) == (wanted is bool)
    if get_origin(wanted) is tuple:
        return isinstance(value, list)
    if kind_of(wanted):
        entries = registry.list(wanted.kind) if wanted.kind in registry.kinds else ()
        ids = [name for entry in entries for name in (entry.id, entry.full_id)]
        return isinstance(value, wanted) or (isinstance(value, dict) and node.child("type") in ids)
    return isinstance(value, dict) or (is_record(wanted) and isinstance(value, wanted))

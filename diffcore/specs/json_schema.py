"""The JSON Schema (draft-07) of specs, for editors and pre-commit checks: every installed component, one definition each."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args, get_origin

import attrs

from diffcore.declare.component import Base
from diffcore.declare.declarations import is_base
from diffcore.declare.entry import Entry
from diffcore.declare.errors import PluginError, UnknownComponentError
from diffcore.declare.installed import Installed
from diffcore.specs.fieldtypes import SCALARS, default_of, field_types, init_fields, is_mapping, is_record, is_union, kind_of
from diffcore.specs.writing import unstructure

_TYPES: dict[Any, str] = dict(zip(SCALARS, ("boolean", "integer", "number", "string", "null"), strict=True))
_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_EXTENDS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "description": "files to build on"}


def schema(registry: Installed, of: str | type) -> dict[str, Any]:
    """The schema of the components of one kind, or of a file that holds a record such as `Spec`.

    A file with `extends` is checked for its keys only, since the rest may be in the files that it extends. A component
    whose class cannot be imported is left out and named in the description of its kind.
    """
    writer = _Writer(registry)
    if isinstance(of, str):
        top = writer.choice(of, Base)
    else:
        whole = writer.record(of)
        whole["required"] = ["diffcore", *whole["required"]]
        keys = {"propertyNames": {"enum": ["extends", *whole["properties"]]}, "properties": {"extends": _EXTENDS}}
        top = {"if": {"type": "object", "required": ["extends"]}, "then": keys, "else": whole}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **top, "definitions": writer.definitions}


class _Writer:
    """Collects definitions; a class is described once and referred to."""

    def __init__(self, registry: Installed) -> None:
        self.registry = registry
        self.definitions: dict[str, Any] = {}

    def refer(self, name: str, describe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A reference to a definition, written if it is new."""
        if name not in self.definitions:
            self.definitions[name] = {}  # a guidance may hold a guidance
            self.definitions[name] = describe()
        return {"$ref": f"#/definitions/{name}"}

    def type(self, wanted: Any, bounds: dict[str, Any]) -> dict[str, Any]:
        """The schema of a type; the bounds are those of its numbers."""
        args = get_args(wanted)
        if wanted in _TYPES:
            return {"type": _TYPES[wanted], **(bounds if wanted in (int, float) else {})}
        if get_origin(wanted) is Literal:
            return {"enum": list(args)}
        if is_union(wanted):
            return {"anyOf": [self.type(arg, bounds) for arg in args]}
        if get_origin(wanted) is tuple and args[-1] is Ellipsis:
            return {"type": "array", "items": self.type(args[0], bounds)}
        if get_origin(wanted) is tuple:
            return {"type": "array", "items": [self.type(a, bounds) for a in args], "minItems": len(args), "maxItems": len(args)}
        if is_mapping(wanted):
            return {"type": "object", "additionalProperties": self.type(args[1], {})}
        if kind_of(wanted):
            name = wanted.kind if is_base(wanted) else f"{wanted.kind}.{_name(wanted)}"
            return self.refer(name, lambda: self.choice(wanted.kind, wanted))
        return self.refer(_name(wanted), lambda: self.record(wanted)) if is_record(wanted) else {"not": {}}

    def choice(self, kind: str, base: type) -> dict[str, Any]:
        """One of the installed components of a kind that derive from a base."""
        known = kind in self.registry.kinds
        options, absent = list[dict[str, Any]](), list[str]() if known else [self.registry.no_kind(kind)]
        for entry in self.registry.list(kind) if known else ():
            try:
                cls = self.registry.get(kind, entry.full_id)
                if issubclass(cls, base):
                    options.append(self.refer(f"{kind}.{entry.dist}.{entry.id}", partial(self.record, cls, entry)))
            except PluginError as error:
                absent.append(str(error))
        return {"description": f"a {kind}; " + "; ".join(["given by its type", *absent]), "oneOf": options or [{"not": {}}]}

    def record(self, cls: type, entry: Entry | None = None) -> dict[str, Any]:
        """A class as an object with its fields, and `type` first where the class is a component."""
        types = field_types(cls)
        properties = {name: self.field(a, types[name]) for name, a in init_fields(cls).items()}
        required = [name for name, a in init_fields(cls).items() if a.default is attrs.NOTHING]
        if entry is not None:
            properties = {"type": {"enum": [entry.id, entry.full_id], "description": entry.summary}, **properties}
            required = ["type", *required]
        return {
            "type": "object",
            "description": (inspect.getdoc(cls) or "").partition("\n\n")[0],
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def field(self, attribute: attrs.Attribute[Any], wanted: Any) -> dict[str, Any]:
        """A field: its type, bounds, choices, default and documentation."""
        about = attribute.metadata
        bounds = {word: about[name] for name, word in _BOUNDS.items() if name in about and math.isfinite(about[name])}
        described: dict[str, Any] = self.type(wanted, bounds)
        described = {"allOf": [described]} if "$ref" in described else described  # draft-07 ignores what stands beside a $ref
        if "choices" in about:
            described["enum"] = [*unstructure(self.registry, about["choices"]), *([None] if is_union(wanted) else [])]
        if "doc" in about:
            described["description"] = f"{about['doc']} [{about['unit']}]" if "unit" in about else about["doc"]
        return {**described, **self._default(attribute)}

    def _default(self, attribute: attrs.Attribute[Any]) -> dict[str, Any]:
        default = default_of(attribute)
        if default is attrs.NOTHING:
            return {}
        try:
            plain = unstructure(self.registry, default)
            json.dumps(plain, allow_nan=False)
        except (UnknownComponentError, PluginError, TypeError, ValueError):
            return {}  # one that JSON cannot write
        return {"default": plain}


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".replace("<locals>", "local")

"""What a component class may declare: the class attributes its kind knows, with values of the declared types. No torch here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from inspect import get_annotations
from types import UnionType
from typing import Any, ClassVar, Union, cast, get_args, get_origin

from diffcore.declare.errors import SpecError, did_you_mean, listed, shown

OF_THE_KIT = ("event_shape", "neutral", "oracle")
"""What `diffcore.testing` asks of the classes of some kinds, beside what the kinds declare."""

LOOKED_AT = {"data": ("event", "size", "classes", "range")}
"""Kind -> further names that are looked up in its components, where they have them: a data set may be its own source."""


def check_declarations(cls: type[Any]) -> None:
    """Refuse the class attributes of a component, and of its mixins, which neither its kind nor one of these declares.

    Fields, methods, properties, nested classes, `_private` and `UPPER_CASE` names are its own business, and so is a name that
    it declares itself (`name: ClassVar[...]`) and that is not one letter away from a name that is known. Raises `SpecError`.
    """
    if is_base(cls):
        return
    own = [b for b in cls.__mro__ if b is cls or not ("__attrs_attrs__" in vars(b) or is_base(b) or b is object)]
    known = _known([b for b in cls.__mro__ if b not in own])
    for base in reversed(own):
        for name, value in vars(base).items():
            if not (_is_free(name, value) or _is_field(base, name)):
                _check(cls, name, value, known, name in get_annotations(base))
        known = {**{name: hint for name, hint in _hints(base).items() if get_origin(hint) is ClassVar}, **known}


def is_base(cls: type[Any]) -> bool:
    """Whether a class is the base class of a kind itself, marked with `dc.kind`, or that of all; not one that derives from it."""
    return "_marked" in vars(cls)


def _known(bases: list[type[Any]]) -> dict[str, Any]:
    """Name -> annotation, that of the base nearest to the root (None where it has none), of all that the bases have."""
    kind = next((base.kind for base in bases if is_base(base)), "")
    found: dict[str, Any] = dict.fromkeys((*OF_THE_KIT, *LOOKED_AT.get(kind, ())), ClassVar[Any])
    for base in reversed(bases):
        found = {**dict.fromkeys(vars(base)), **_hints(base), **found}
    return found


def _hints(base: type[Any]) -> dict[str, Any]:
    scope = vars(sys.modules.get(base.__module__, sys))
    return {name: _hint(text, scope) for name, text in get_annotations(base).items()}


def _hint(text: Any, scope: Mapping[str, Any]) -> Any:
    """The annotation of a class variable; None where its names are there for type checkers only, and for a field."""
    try:
        return eval(text, dict(scope)) if isinstance(text, str) and "ClassVar" in text else text
    except (NameError, AttributeError, TypeError):
        return None


def _is_free(name: str, value: Any) -> bool:
    return name.startswith("_") or name.isupper() or isinstance(value, type) or hasattr(type(value), "__get__")


def _is_field(base: type[Any], name: str) -> bool:
    text = get_annotations(base).get(name)
    return text is not None and "ClassVar" not in str(text)


def _check(cls: type[Any], name: str, value: Any, known: Mapping[str, Any], annotated: bool) -> None:
    hint = known.get(name)
    if name == "kind":
        raise SpecError(f"'kind' of {cls.__name__} is set by @dc.kind on the base class of a kind")
    if name in known and get_origin(hint) is not ClassVar and name in _fields(cls):
        raise SpecError(f"'{name}' of {cls.__name__} is a field, and a field is annotated: {name}: ... = dc.param(default=...)")
    if name in known and get_origin(hint) is ClassVar and not _fits(get_args(hint)[0], value):
        raise SpecError(f"'{name}' of {cls.__name__} must be {_words(get_args(hint)[0])}; got {shown(value)}")
    declared = [n for n, h in known.items() if get_origin(h) is ClassVar]
    near = did_you_mean(name, declared, 0.75 if annotated else 0.6)
    if name not in known and (near or not annotated):
        raise SpecError(_unknown(cls, name, value, near or f"; it declares {listed(sorted(declared), 120)}."))


def _fields(cls: type[Any]) -> set[str]:
    return {field.name for base in cls.__mro__ for field in vars(base).get("__attrs_attrs__", ())}


def _words(hint: Any) -> str:
    return hint.__name__ if type(hint) is type else str(hint).replace("typing.", "").replace("collections.abc.", "")


def _unknown(cls: type[Any], name: str, value: Any, near: str) -> str:
    if type(value).__name__ == "_CountingAttr":
        return f"the field '{name}' of {cls.__name__} has no type: write {name}: float = dc.param(...)"
    return (
        f"'{name}' of {cls.__name__} is nothing that a {cls.kind or 'component'} declares{near} "
        f"A field is annotated ({name}: {type(value).__name__}), a constant of your own is _{name} or {name.upper()}"
    )


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of an annotated type: plain classes, unions, and tuples, frozensets and mappings of them."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or hint is None:
        return hint is Any or value is None
    if origin in (Union, UnionType):
        return any(_fits(part, value) for part in inner)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(inner[0], entry) for entry in cast(tuple[Any, ...], value))
    if origin is frozenset:
        return isinstance(value, frozenset) and all(_fits(inner[0], entry) for entry in cast(frozenset[Any], value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        entries = cast(Mapping[Any, Any], value).items() if isinstance(value, Mapping) else [(None, None)]
        return all(_fits(inner[0], key) and _fits(inner[1], entry) for key, entry in entries)
    return isinstance(value, bool) is (hint is bool) and isinstance(value, hint) if isinstance(hint, type) else True

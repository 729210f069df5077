"""What a component is: a frozen, keyword-only attrs class whose fields are its spec. No torch here.

`Component` declares one (id, where it lives, one line); `Base` is what every component class derives from through the
base class of its kind; `component` and `field` make the class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import get_annotations, isfunction
from typing import Any, ClassVar, TypeVar, dataclass_transform

import attrs

from diffcore.declarations import check_declarations
from diffcore.errors import SpecError, shorten, shown

T = TypeVar("T")


def _is_id(instance: Component, attribute: attrs.Attribute[str], value: str) -> None:
    if not (isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,99}", value)):
        raise SpecError(f"{shown(value)} cannot be an id: lower-case letters, digits and . + -, at most 100 (example: my-solver)")


def _is_target(instance: Component, attribute: attrs.Attribute[str], value: str) -> None:
    module, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not (module and name and value.isprintable()):
        got = f"'{shorten(value)}'" if isinstance(value, str) else shown(value)
        raise SpecError(f"component '{instance.id}': target must be 'module:Class', got {got}")


def _is_line(instance: Component, attribute: attrs.Attribute[str], value: str) -> None:
    if not _is_text(value):
        raise SpecError(f"component '{instance.id}': summary must be one line of text, got {shown(value)}")


def _is_text(*values: Any) -> bool:
    return all(isinstance(value, str) and value.isprintable() for value in values)


def _are_aliases(instance: Component, attribute: attrs.Attribute[Any], value: tuple[Any, ...]) -> None:
    for alias in value:
        if not (isinstance(alias, Alias) and _is_text(alias.tool, alias.name, alias.fields)):
            raise SpecError(f"component '{instance.id}': aliases are diffcore.Alias(tool, name, fields), got {shown(alias)}")


@attrs.frozen
class Alias:
    """What another tool calls a component with certain fields: `Alias("ComfyUI", "dpmpp_2m", "grid: {type: karras}")`."""

    tool: str
    name: str
    fields: str = ""

    def spec(self, id: str) -> str:
        """How a spec names it here, as one line of YAML."""
        return f"{{type: {id}{', ' if self.fields else ''}{self.fields}}}"


@attrs.frozen
class Component:
    """The declaration of one component, cheap to make and to list.

    `id` is what a spec names, `target` is `"module:Class"` and is imported on first use, `summary` is one line for listings
    (with the source), `kind` is needed only where a hook carries several kinds, `aliases` are its names in other tools.
    """

    id: str = attrs.field(validator=_is_id)
    target: str = attrs.field(validator=_is_target)
    summary: str = attrs.field(default="", validator=_is_line)
    kind: str | None = attrs.field(default=None, kw_only=True)
    aliases: tuple[Alias, ...] = attrs.field(default=(), kw_only=True, converter=tuple, validator=_are_aliases)


class Base:
    """Base of all component classes. `kind` is set by the base class of each kind (`Solver`, `Process`, ...).

    Class attributes a component may set: `source` (citation of the formulas), `example` (fields for which the class is
    shown and tested where its defaults do not suffice), `variants` (further sets of fields to test), `expected_failures`
    (conformance check -> why it cannot hold), `items` (numbers of docs/monograph.md that it carries), `event_shape`,
    `neutral` and `oracle` (what the conformance kit asks of some kinds), and what its kind declares. `component` refuses
    other names.
    """

    __slots__ = ()
    kind: ClassVar[str] = ""
    source: ClassVar[str] = ""
    items: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[Mapping[str, Any]] = {}
    expected_failures: ClassVar[Mapping[str, str]] = {}
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ()


_BOUNDS = {
    "gt": (lambda v, b: v > b, ">"),
    "ge": (lambda v, b: v >= b, ">="),
    "lt": (lambda v, b: v < b, "<"),
    "le": (lambda v, b: v <= b, "<="),
}


def _check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    where = f"'{attribute.name}' of {type(instance).__name__}"
    choices = attribute.metadata.get("choices")
    if choices and value not in choices:
        raise SpecError(f"{where} must be one of {', '.join(map(str, choices))}; got {value!r}")
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, str):
            continue
        for name, (holds, sign) in _BOUNDS.items():
            bound = attribute.metadata.get(name)
            if bound is not None and not holds(item, bound):
                raise SpecError(f"{where} must be {sign} {bound}; got {item!r}")


def field(
    *,
    default: Any = attrs.NOTHING,
    factory: Any = None,
    doc: str = "",
    unit: str = "",
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """A field of a component: its default (mandatory when left out), documentation, unit and bounds.

    The bounds hold for each entry of a tuple, are checked when the component is made (`SpecError`), and appear in
    `diffcore show` and in the JSON Schema.
    """
    metadata = {"doc": doc, "unit": unit, "gt": gt, "ge": ge, "lt": lt, "le": le, "choices": choices}
    kwargs: dict[str, Any] = {"factory": factory} if factory is not None else {"default": default}
    return attrs.field(metadata={k: v for k, v in metadata.items() if v not in (None, "")}, validator=_check, **kwargs)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def component(cls: type[T]) -> type[T]:
    """Make a component class: frozen, keyword-only, hashable, compared by value.

    Raises `SpecError` for a field that has the name of a method of its base class, which it would hide, and for a class
    attribute that its kind does not know (a misspelt one) or whose value is not of the declared type.
    """
    hidden = [n for n in get_annotations(cls) if any(isfunction(vars(b).get(n)) for b in cls.__mro__[1:])]
    if hidden:
        raise SpecError(f"field '{hidden[0]}' of {cls.__name__} hides the method of that name of its base class; rename it")
    if issubclass(cls, Base):
        check_declarations(cls)
    return attrs.frozen(cls, kw_only=True)

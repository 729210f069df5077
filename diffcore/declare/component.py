"""What a component is: a frozen, keyword-only attrs class whose fields are its spec. No torch here.

`Component` declares one (id, where it lives, one line); `Base` is what every component class derives from through the
base class of its kind; `component` and `param` make the class.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import get_annotations, isfunction
from types import NoneType
from typing import Any, ClassVar, TypeVar, cast, dataclass_transform

import attrs

from diffcore.declare.declarations import check_declarations
from diffcore.declare.errors import SpecError, shorten, shown

T = TypeVar("T")
V = TypeVar("V")


def _is_id(instance: Component, attribute: attrs.Attribute[str], value: str) -> None:
    if not (isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,99}", value)):
        raise SpecError(f"{shown(value)} cannot be an id: lower-case letters, digits and . + -, at most 100 (example: my-solver)")


def _what(instance: Any) -> str:
    """`component 'heun'`, of a declaration that is being made."""
    return f"{type(instance).__name__.lower()} '{getattr(instance, 'id', '') or instance.name}'"


def is_target(instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
    """The validator of what a declaration names: `module:name`."""
    module, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not (module and name and value.isprintable()):
        got = f"'{shorten(value)}'" if isinstance(value, str) else shown(value)
        raise SpecError(f"{_what(instance)}: {attribute.name} must be 'module:Class', got {got}")


def is_line(instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
    """The validator of a summary."""
    if not _is_text(value):
        raise SpecError(f"{_what(instance)}: {attribute.name} must be one line of text, got {shown(value)}")


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
    target: str = attrs.field(validator=is_target)
    summary: str = attrs.field(default="", validator=is_line)
    kind: str | None = attrs.field(default=None, kw_only=True)
    aliases: tuple[Alias, ...] = attrs.field(default=(), kw_only=True, converter=tuple, validator=_are_aliases)


class Base:
    """Base of all component classes. `kind` is set by `dc.kind` on the base class of each kind (`Solver`, `Process`, ...).

    Class attributes a component may set: `source` (citation of the formulas), `example` (fields for which the class is
    shown and tested where its defaults do not suffice), `variants` (further sets of fields to test), `expected_failures`
    (conformance check -> why it cannot hold), `items` (numbers of docs/monograph.md that it carries), `event_shape`,
    `neutral` and `oracle` (what the conformance kit asks of some kinds), and what its kind and its mixins declare. `component`
    refuses other names.
    """

    _marked = True
    kind: ClassVar[str] = ""
    source: ClassVar[str] = ""
    items: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[Mapping[str, Any]] = {}
    expected_failures: ClassVar[Mapping[str, str]] = {}
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ()


BOUNDS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "gt": (lambda v, b: v > b, ">"),
    "ge": (lambda v, b: v >= b, ">="),
    "lt": (lambda v, b: v < b, "<"),
    "le": (lambda v, b: v <= b, "<="),
}
"""Name of a bound -> whether it holds of a value, and its sign."""
LIMITS: dict[type, tuple[float, float]] = {int: (-(2**63), 2**63 - 1), float: (-1e30, 1e30)}
"""What bounds an integer (64 bits) and a number (well within float32) on a side where their field does not."""
LEAST = 1e-30
"""The least number of a field that must be above 0: what is smaller may be 0 in float32."""


def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """The validator of every field: its choices, and finite numbers within its bounds, also inside tuples and maps."""
    where = f"'{attribute.name}' of {type(instance).__name__}"
    choices = attribute.metadata.get("choices")
    if choices and value is not None and value not in choices:
        raise SpecError(f"{where} must be one of {', '.join(map(str, choices))}; got {value!r}")
    for number in _numbers(value):
        for name, bound in limits(attribute, type(number)):
            holds, sign = BOUNDS[name]
            if not holds(number, bound):
                finite = isinstance(number, int) or math.isfinite(number)
                raise SpecError(f"{where} must be {f'{sign} {bound}' if finite else 'a finite number'}; got {_shown(number)}")
    _refuse_no_numbers(attribute, value, where)


def _refuse_no_numbers(attribute: attrs.Attribute[Any], value: Any, where: str) -> None:
    """A field with bounds holds numbers (or text, where it may), also where it is made from Python."""
    bound = next(((sign, attribute.metadata[name]) for name, (_, sign) in BOUNDS.items() if name in attribute.metadata), None)
    for item in value if isinstance(value, tuple) else (value,):
        if bound and not isinstance(item, (int, float, str, tuple, list, Mapping, NoneType)):
            raise SpecError(f"{where} must be a number {bound[0]} {bound[1]}; got a {type(item).__name__}")


def limits(attribute: attrs.Attribute[Any], of: type) -> list[tuple[str, float]]:
    """The bounds (`gt`, `ge`, `lt`, `le`) of the integers or the floats in a field: those it declares, then those of its type.

    A field takes infinity where a bound says so: `le=math.inf`.
    """
    declared = {name: attribute.metadata[name] for name in BOUNDS if name in attribute.metadata}
    low, high = LIMITS.get(of, LIMITS[float])
    above_zero = of is not int and declared.get("gt") == 0
    lower = [("ge", LEAST if above_zero else low)] if above_zero or not {"gt", "ge"} & declared.keys() else []
    upper = [] if {"lt", "le"} & declared.keys() else [("le", high)]
    return [*declared.items(), *lower, *upper]


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, (tuple, list, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def _shown(number: float) -> str:
    return repr(number) if isinstance(number, float) or number.bit_length() < 200 else f"an integer of {number.bit_length()} bits"


def param(
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
    validator: Any = None,
) -> Any:
    """A field of a component: its default (mandatory when left out), documentation, unit and bounds.

    The bounds hold for each number in a tuple or map, are checked when the component is made (`SpecError`), and appear in
    `diffcore show` and in the JSON Schema. `validator(component, attribute, value)` may raise too. Where there is no bound,
    integers have 64 bits and numbers are finite, at most 1e30.
    """
    metadata = {"doc": doc, "unit": unit, "gt": gt, "ge": ge, "lt": lt, "le": le, "choices": choices}
    kwargs: dict[str, Any] = {"factory": factory} if factory is not None else {"default": default}
    return attrs.field(metadata={k: v for k, v in metadata.items() if v not in (None, "")}, validator=validator, **kwargs)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(param,))
def component(cls: type[T]) -> type[T]:
    """Make a component class: frozen, keyword-only, hashable, compared by value.

    Raises `SpecError` for a field that has the name of a method of its base class, which it would hide, for a method that its
    base class declares final, and for a class attribute that its kind does not know (a misspelt one) or whose value is not of the
    declared type.
    """
    hidden = [n for n in get_annotations(cls) if any(isfunction(vars(b).get(n)) for b in cls.__mro__[1:])]
    if hidden:
        raise SpecError(f"field '{hidden[0]}' of {cls.__name__} hides the method of that name of its base class; rename it")
    kept = {f.name for b in cls.__mro__[1:] for f in vars(b).get("__attrs_attrs__", ())}
    lost = [n for n, value in vars(cls).items() if n in kept and isfunction(value)]
    if lost:
        raise SpecError(
            f"the method '{lost[0]}' of {cls.__name__} has the name of a field of its base class, which would hide it; rename it"
        )
    final = [(n, b.__name__) for n in vars(cls) for b in cls.__mro__[1:] if getattr(vars(b).get(n), "__final__", False)]
    if final:
        name, base = final[0]
        raise SpecError(f"'{name}' of {cls.__name__} is final in {base}, where others rely on it; derive from another base")
    if issubclass(cls, Base):
        check_declarations(cls)
    return attrs.frozen(cls, kw_only=True, slots=False, field_transformer=_checked)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(param,))
def fielded(cls: type[T]) -> type[T]:
    """Fields of a base class that all components derived from it have.

    The class itself is no component, and is not frozen: an `nn.Module` may derive from it as well.
    """
    return attrs.define(cls, eq=False, kw_only=True, slots=False, field_transformer=_checked)


class Frozen(Mapping[str, V]):
    """A map that does not change, by name: hashable, compared by value, picklable. Maps in fields of a component become one."""

    def __init__(self, entries: Mapping[str, V] | Iterable[tuple[str, V]] = ()) -> None:
        self._entries = dict(sorted(dict(entries).items()))

    def __getitem__(self, name: str) -> V:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return hash(tuple(self._entries.items()))

    def __repr__(self) -> str:
        """As a dict is written."""
        return repr(self._entries)


def fixed(value: Any) -> Any:
    """Maps and lists as values that cannot change."""
    if isinstance(value, list):
        return tuple(map(fixed, cast(list[Any], value)))
    return Frozen({str(name): fixed(entry) for name, entry in value.items()}) if isinstance(value, dict) else value


def _checked(cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """The fields, checked as by `param` also where they are plain defaults or have a validator of their own; maps and lists in
    them are fixed.
    """

    def validator(of: attrs.Attribute[Any]) -> Any:
        return check if of.validator in (None, check) else attrs.validators.and_(check, of.validator)

    return [f.evolve(validator=validator(f), converter=f.converter or fixed) for f in fields]

"""What stands beside the tensors of a weights file or a checkpoint, read strictly: a file that was made elsewhere, or damaged and
signed again, is refused as one that is damaged.

Nothing is converted, every number is bounded, and the spec is text: it is read here as plain values and names no other file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeVar, cast

import attrs
from attrs.validators import deep_iterable, deep_mapping, ge, in_, instance_of, le, optional
from cattrs import Converter, transform_error
from cattrs.gen import make_dict_structure_fn

from diffcore.declare.errors import CheckpointError
from diffcore.learning.conditions import WHOLE
from diffcore.numerics.event import Event
from diffcore.specs.reader import parse
from diffcore.specs.tree import Node

T = TypeVar("T")
LARGEST = 2**63 - 1
MOST = 2**31
"""Bound on one side of a shape, and on the number of classes."""
_COUNT = [ge(0), le(MOST)]


def _finite(instance: Any, attribute: attrs.Attribute[Any], values: tuple[float, ...]) -> None:
    if not all(map(math.isfinite, values)):
        raise ValueError(f"expected finite numbers in '{attribute.name}'")


@attrs.frozen
class Part:
    """A component of a spec: its kind and id, and the distribution that it came from."""

    kind: str
    id: str
    dist: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} '{self.id}' of {self.dist} {self.version}"


@attrs.frozen
class Known:
    """What a run knows of its data: what one sample is, classes of each condition, names of those of 'label', number of samples,
    conditions that are no classes, by the shape of one row (`types` has those that are no real numbers), and digests of some
    samples with their conditions, the first one's first (none of data without an end, and of samples that are others each time).
    """

    event: Event
    classes: dict[str, int] = attrs.field(validator=deep_mapping(instance_of(str), _COUNT))
    names: tuple[str, ...]
    size: int | None = attrs.field(validator=optional(ge(0)))
    arrays: dict[str, tuple[int, ...]] = attrs.field(
        factory=dict[str, tuple[int, ...]], validator=deep_mapping(instance_of(str), deep_iterable(_COUNT))
    )
    types: dict[str, str] = attrs.field(factory=dict[str, str], validator=deep_mapping(instance_of(str), in_(WHOLE)))
    contents: tuple[str, ...] = ()

    def differences(self, now: Known) -> list[str]:
        """What is not the same any more, one line each; the number of samples last, and their contents where it is the same."""
        pairs = [(f"class {i}", a, b) for i, (a, b) in enumerate(zip(self.names, now.names, strict=False))]
        pairs += [("samples", str(self.event), str(now.event)), ("classes", self.classes, now.classes)]
        pairs += [("other conditions", self.arrays, now.arrays), ("types of conditions", self.types, now.types)]
        pairs += [("number of named classes", len(self.names), len(now.names))] if self.classes == now.classes else []
        pairs += [("number of samples", self.size, now.size)]
        found = [f"{what} was {a!r}, is {b!r}" for what, a, b in pairs if a != b]
        others = sum(a != b for a, b in zip(self.contents, now.contents, strict=False)) if self.size == now.size else 0
        seen = min(len(self.contents), len(now.contents))
        return [*found, *([f"samples or their conditions are others ({others} of {seen} looked at)"] if others else [])]

    def has_contents(self, now: Known) -> bool:
        """Whether the same samples are known to be there."""
        return bool(self.contents) and self == now


@attrs.frozen(kw_only=True)
class Trained:
    """Metadata of weights: the spec as YAML, what its process computes, where its parts came from, what its data was, the
    number of training steps, and the solvers that know something about the model."""

    spec: str
    fingerprint: tuple[float, ...] = attrs.field(validator=_finite)
    parts: dict[str, Part]
    data: Known | None
    step: int = attrs.field(validator=ge(0))
    calibrations: tuple[str, ...] = ()

    @cached_property
    def values(self) -> dict[str, Any]:
        """The spec as plain values. Raises `ValueError` where it is none."""
        return values_of(self.spec)


@attrs.frozen(kw_only=True)
class Paused(Trained):
    """Metadata of a checkpoint: that of weights, and the numbers of the optimisers."""

    numbers: dict[str, float | int | bool | None]


def values_of(spec: str) -> dict[str, Any]:
    """The plain values of a spec that stands in a file of ours. Raises `ValueError` where it is none, or refers to something."""
    made = _plain(parse(spec, "the spec in it"))
    if not isinstance(made, dict):
        raise ValueError("the spec in it is no map of sections")
    if "extends" in made or "${" in spec.replace("$${", ""):
        raise ValueError("the spec in it refers to something outside, which diffcore never writes")
    return cast(dict[str, Any], made)


def _plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {name: _plain(child) for name, child in node.children.items()}
    return [_plain(child) for child in node.children.values()] if isinstance(node.value, list) else node.value


def structured(wanted: type[T], raw: Any, what: str, mend: str = "") -> T:
    """Plain values as a class, nothing converted. Raises `CheckpointError`: `what` is damaged, how, and how it is mended."""
    try:
        made = _STRICT.structure(raw, wanted)
        if isinstance(made, Trained):
            _ = made.values  # read now, so that a spec that is none is refused with the rest
        return made
    except Exception as error:  # cattrs collects faults of every type; a hostile value may raise its own
        reason = "; ".join(transform_error(error, path="", format_exception=_reason)[:3])
        raise CheckpointError(f"{what} is damaged: {' '.join(reason.split())[:300]}{f'; {mend}' if mend else ''}") from None


def _reason(error: BaseException, wanted: Any) -> str:
    return f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)


def unstructured(made: Any) -> dict[str, Any]:
    """The plain values of such a class."""
    return {field.name: _STRICT.unstructure(getattr(made, field.name)) for field in attrs.fields(type(made)) if field.init}


def _exactly(wanted: type) -> Any:
    def check(value: Any, _: Any) -> Any:
        if type(value) is not wanted:
            raise TypeError(f"expected {wanted.__name__}, got {type(value).__name__}")
        return value

    return check


def _integer(value: Any, _: Any) -> int:
    if type(value) is not int or abs(value) > LARGEST:
        raise TypeError(f"expected an integer of 64 bits, got {type(value).__name__}")
    return value


def _number(value: Any, _: Any) -> float:
    if type(value) not in (int, float) or (isinstance(value, int) and abs(value) > LARGEST):
        raise TypeError(f"expected a number, got {type(value).__name__}")
    return float(value)


def _scalar(value: Any, _: Any) -> Any:
    return value if value is None or type(value) in (bool, float) else _integer(value, _)


def _sequence(value: Any, wanted: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"expected a list, got {type(value).__name__}")
    return tuple(_STRICT.structure(item, wanted.__args__[0]) for item in cast(list[Any], value))


def _map(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected a map, got {type(value).__name__}")
    return cast(Mapping[str, Any], value)


def _mapping(value: Any, wanted: Any) -> Any:
    return {key: _STRICT.structure(item, wanted.__args__[1]) for key, item in _map(value).items()}


def _event(value: Any, _: Any) -> Event:
    held = _map(value)
    if "parts" in held:
        return Event({name: _event(part, _) for name, part in _map(held["parts"]).items()})
    sides = _sequence(held["shape"], tuple[int, ...])
    if any(side > MOST for side in sides):
        raise ValueError(f"a side of a sample is at most {MOST}")
    return Event(*sides, values=None if held["values"] is None else _integer(held["values"], _))


def _of_event(event: Event) -> dict[str, Any]:
    if event.parts:
        return {"parts": {name: _of_event(part) for name, part in event.parts.items()}}
    return {"shape": list(event.shape), "values": event.values}


def _strict() -> Converter:
    converter = Converter()
    converter.register_structure_hook(str, _exactly(str))
    converter.register_structure_hook(bool, _exactly(bool))
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(float | int | bool | None, _scalar)
    converter.register_structure_hook(Event, _event)
    converter.register_unstructure_hook(Event, _of_event)

    def record(cls: type) -> Any:
        inner = make_dict_structure_fn(cls, converter)
        return lambda value, wanted: inner(_map(value), wanted)

    converter.register_structure_hook_factory(attrs.has, record)
    converter.register_structure_hook_func(lambda t: getattr(t, "__origin__", None) is tuple, _sequence)
    converter.register_structure_hook_func(lambda t: getattr(t, "__origin__", None) is dict, _mapping)
    return converter


_STRICT = _strict()

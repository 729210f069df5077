"""A tree to components, strictly: `type` chooses the class, every fault is noted where it stands, nothing is converted.

A field's annotation says what it takes: bool, int, float (an integer will do), str, Literal, unions, tuple, dict[str, X], an
attrs class (a plain map), or a component base (a map whose `type` is an installed id).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast, get_args, get_origin

import attrs

from diffcore.declare.component import Base, check, fixed
from diffcore.declare.entry import Entry
from diffcore.declare.errors import PluginError, SpecError, UnknownComponentError, did_you_mean
from diffcore.declare.installed import Installed
from diffcore.specs.faults import Faults
from diffcore.specs.fieldtypes import (
    default_of,
    expected,
    field_types,
    fits,
    init_fields,
    is_mapping,
    is_record,
    is_scalar,
    is_union,
    kind_of,
)
from diffcore.specs.names import unknown_field
from diffcore.specs.reader import parse, resolve
from diffcore.specs.tree import Node, join, merge, shorten, tree_of
from diffcore.specs.writing import dump, unstructure

BAD: Any = object()
"""What a value with a fault is read as, so that the rest is still looked at."""

_YAML_1_1 = {**dict.fromkeys(("on", "yes", "y"), "true"), **dict.fromkeys(("off", "no", "n"), "false")}
_DOLLAR = re.compile(r"\$\$\{|\$\{(?:env:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")


def structure(registry: Installed, kind: str, raw: Mapping[str, Any] | Node) -> Any:
    """A component of a kind from a mapping with `type` (or a parsed tree). Raises `SpecErrors` with every fault.

    A class refuses its fields by `SpecError`, `ValueError` or `TypeError`. Any other exception that it raises when made is a
    fault of its plugin: it passes through as it is, with a note that says which component of which plugin, written where.
    """
    faults = Faults()
    structurer = Structurer(registry, faults)
    made = structurer.component(kind, Base, tree_of(raw, faults, kind), kind)
    return structurer.finish(made)


def roundtrip(registry: Installed, instance: Base) -> Any:
    """The component read back from its own YAML: equal to `instance`, or one of the two directions is wrong."""
    return structure(registry, instance.kind, parse(dump(registry, instance)))


class Structurer:
    """Reads nodes as values of a type; a fault gives `BAD` and goes on."""

    def __init__(self, registry: Installed, faults: Faults) -> None:
        self.registry, self.faults = registry, faults
        self.crash: tuple[Exception, Node, str] | None = None

    def finish(self, made: Any) -> Any:
        """The result, if nothing was wrong."""
        if self.crash is not None:
            error, node, path = self.crash
            if not self.faults.found:
                raise error
            self.fault(node, path, f"{type(error).__name__}: {error} ({', '.join(error.__notes__)})")
        self.faults.check()
        return made

    def fault(self, node: Node, path: str, message: str) -> Any:
        """Note a fault at a node."""
        self.faults.add(node.mark, path, message.replace("?; ", "? "))
        return BAD

    def mismatch(self, wanted: Any, node: Node, path: str) -> Any:
        """Note that a node is not of a type."""
        if node.partial:
            return self.fault(node, path, f"expected {expected(wanted)}, which is not in the spec; set it as a whole")
        return self.fault(node, path, f"expected {expected(wanted)}; got {node.describe()}{_hint(wanted, node.value)}")

    def value(self, wanted: Any, node: Node, path: str) -> Any:
        """The value of a node as a type, or `BAD`."""
        if wanted is object:
            return node.value
        if is_scalar(wanted):
            return self.scalar(wanted, node, path)
        if is_union(wanted):
            return self.union(wanted, node, path)
        if get_origin(wanted) is tuple:
            return self.sequence(wanted, node, path)
        if is_mapping(wanted):
            return self.mapping(wanted, node, path)
        if kind_of(wanted):
            return self.component(wanted.kind, wanted, node, path)
        if is_record(wanted):
            return self.record(wanted, node, path)
        return self.fault(node, path, f"no spec can give a field of type {wanted}; this is a fault of the plugin")

    def scalar(self, wanted: Any, node: Node, path: str) -> Any:
        """A scalar of exactly this type; an integer is a number too, NaN is none."""
        if not fits(self.registry, wanted, node):
            return self.mismatch(wanted, node, path)
        if wanted is str:
            return self.text(node, path)
        if wanted is not float:
            return node.value
        try:
            number = float(node.value)
        except OverflowError:
            number = math.nan
        return self.mismatch(wanted, node, path) if math.isnan(number) else number

    def text(self, node: Node, path: str) -> Any:
        """A text with its `${env:NAME}` and `${env:NAME:-default}` filled in; `$${` stands for `${` itself."""
        try:
            return _DOLLAR.sub(_filled, node.value)
        except SpecError as error:
            return self.fault(node, path, str(error))

    def union(self, wanted: Any, node: Node, path: str) -> Any:
        """The first member that the node looks like; where only one can be meant, its faults."""
        members = get_args(wanted)
        fitting = [member for member in members if fits(self.registry, member, node)]
        nested = [member for member in members if not is_scalar(member)] if node.children else []
        parts = [member for member in members if kind_of(member)]
        if not fitting and len(nested) != 1 and len(parts) == 1 and parts[0].kind in self.registry.kinds and not node.partial:
            others = "".join(f" or {expected(member)}" for member in members if member not in parts)
            return self.fault(node, path, self._needs_type(parts[0].kind, node, others))
        if not fitting and len(nested) != 1:
            return self.mismatch(wanted, node, path)
        return self.value((fitting or nested)[0], node, path)

    def sequence(self, wanted: Any, node: Node, path: str) -> Any:
        """A tuple from a list."""
        types = get_args(wanted)
        if not isinstance(node.value, list):
            return self.mismatch(wanted, node, path)
        entries = cast(list[Node], node.value)
        if types[-1] is Ellipsis:
            types = types[:1] * len(entries)
        if len(types) != len(entries):
            return self.mismatch(wanted, node, path)
        made = [self.value(t, entry, join(path, i)) for i, (t, entry) in enumerate(zip(types, entries, strict=True))]
        return BAD if _any_bad(made) else tuple(made)

    def mapping(self, wanted: Any, node: Node, path: str) -> Any:
        """A dict from a map."""
        if not isinstance(node.value, dict):
            return self.mismatch(wanted, node, path)
        inner = get_args(wanted)[1]
        made = {name: self.value(inner, child, join(path, shorten(name))) for name, child in node.children.items()}
        return BAD if _any_bad(made.values()) else made

    def component(self, kind: str, base: type, node: Node, path: str) -> Any:
        """The component that `type` names."""
        if isinstance(node.value, base):
            return node.value
        if kind not in self.registry.kinds:
            return self.fault(node, path, self.registry.no_kind(kind))
        named = node.children.get("type") if isinstance(node.value, dict) else None
        if named is None:
            return self.fault(node, path, self._needs_type(kind, node))
        path_of_type = join(path, "type")
        if not isinstance(named.value, str) or len(named.value) > 100:
            return self.fault(named, path_of_type, f"expected the id of a {kind}; got {named.describe()}")
        try:
            entry, cls = self.registry.find(kind, named.value), self.registry.get(kind, named.value)
        except (SpecError, PluginError) as error:
            return self.fault(named, path_of_type, str(error))
        if not issubclass(cls, base):
            return self.fault(named, path_of_type, f"the {kind} '{entry.id}' is no {base.__name__}, which this field needs")
        return self.record(cls, node, path, entry)

    def _needs_type(self, kind: str, node: Node, others: str = "") -> str:
        ids = [entry.id for entry in self.registry.list(kind)]
        word = node.value if isinstance(node.value, str) else ""
        installed, near = self.registry.installed(kind, word), self.registry.nearest(kind, word) if word else []
        if isinstance(node.value, dict):
            joined = next((name for name in node.children if name.startswith("type:")), "")
            space = f"write a space after the colon of '{shorten(joined)}'" if joined else f"it says which {kind} this is"
            return f"'type' is missing: {space}; {installed}"
        example = (near or ids or ["..."])[0]
        return f"expected a map with 'type', such as {{type: {example}}}{others}; got {node.describe()}; {installed}"

    def record(self, cls: type, node: Node, path: str, entry: Entry | None = None) -> Any:
        """An instance of an attrs class from the fields of a map; `entry` where the class was chosen by `type`."""
        if isinstance(node.value, cls):
            return node.value
        if not isinstance(node.value, dict):
            return self.mismatch(cls, node, path)
        return self.made(cls, self.fields(cls, node, path, entry), node, path, entry)

    def fields(self, cls: type, node: Node, path: str, entry: Entry | None = None) -> dict[str, Any]:
        """The fields that a map gives to an attrs class; `BAD` where one has a fault, is missing or is misspelt."""
        try:
            types = field_types(cls)
        except PluginError as error:
            return {"": self.fault(node, path, str(error))}
        given = {name: child for name, child in node.children.items() if not (entry and name == "type")}
        absent = self._check_names(cls, types, given, node, path, entry)
        values = {n: self._field(cls, n, types[n], child, join(path, n)) for n, child in given.items() if n in types}
        return {**values, **dict.fromkeys(absent, BAD)}

    def _check_names(
        self, cls: type, types: dict[str, Any], given: dict[str, Node], node: Node, path: str, entry: Entry | None
    ) -> set[str]:
        """The fields that are missing, or meant by an unknown name."""
        what = f"{entry.kind} '{entry.id}'" if entry else f"'{path}'" if path else "a spec"
        meant = set[str]()
        for name, child in given.items():
            if name not in types:
                hint = did_you_mean(shorten(name), types)
                meant.update(known for known in types if known not in given and hint == f"; did you mean '{known}'?")
                at = attrs.evolve(child, mark=child.key or node.mark)
                self.fault(at, join(path, shorten(name)), unknown_field(what, name, types))
        missing = [n for n, a in init_fields(cls).items() if a.default is attrs.NOTHING and n not in given and n not in meant]
        for name in missing:
            doc = init_fields(cls)[name].metadata.get("doc", "")
            self.fault(node, join(path, name), f"missing{f' ({doc})' if doc else ''}; expected {expected(types[name])}")
        return meant.union(missing)

    def _field(self, cls: type, name: str, wanted: Any, node: Node, path: str) -> Any:
        attribute = init_fields(cls)[name]
        value = self.value(wanted, self._completed(node, default_of(attribute)), path)
        if value is BAD or attribute.converter not in (None, fixed):
            return value
        try:
            (attribute.validator or check)(object.__new__(cls), attribute, value)
        except (ValueError, TypeError) as error:
            return self.fault(node, path, _said(error).removeprefix(f"'{attribute.name}' of {cls.__name__} "))
        except AttributeError:  # it looks at other fields: it is asked again when the object is made
            pass
        return value

    def _completed(self, node: Node, default: Any) -> Node:
        """A map that an override opened, on top of the default of its field."""
        if not node.partial or not (attrs.has(type(default)) or isinstance(default, Mapping)):
            return node
        try:
            return merge(tree_of(unstructure(self.registry, default), self.faults), node)
        except (UnknownComponentError, PluginError):
            return node

    def made(self, cls: type, values: dict[str, Any], node: Node, path: str, entry: Entry | None = None) -> Any:
        """An instance of an attrs class from such fields."""
        if _any_bad(values.values()):
            return BAD
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:  # a SpecError, or what the validators and converters of attrs raise
            return self.fault(node, path, _said(error))
        except Exception as error:
            what = f"{entry.kind} '{entry.id}' of {entry.dist} {entry.version}" if entry else f"'{cls.__name__}'"
            error.add_note(f"raised while making the {what}, '{path}' of the spec{f' at {node.mark}' if node.mark else ''}")
            self.crash = self.crash or (error, node, path)
            return BAD


def _said(error: Exception) -> str:
    """The message alone: the validators of attrs add the attribute and the value as further arguments."""
    return str(error.args[0] if error.args else error)


def _any_bad(values: Iterable[Any]) -> bool:
    return any(value is BAD for value in values)


def _filled(match: re.Match[str]) -> str:
    if match[0] == "$${":
        return "${"
    name, default = match.groups()
    if name is None:
        raise SpecError("after '${' only env:NAME} or env:NAME:-default} can follow; write $${ for the characters themselves")
    if name not in os.environ and default is None:
        raise SpecError(f"the environment variable {name} is not set; set it, or write ${{env:{name}:-default}}")
    return os.environ.get(name, default)


def _hint(wanted: Any, value: Any) -> str:
    """What to write instead, where that can be guessed."""
    takes = get_args(wanted) if is_union(wanted) else (wanted,)
    if any(get_origin(t) is tuple for t in takes):
        return f"; write [{value}]" if isinstance(value, (int, float)) or (isinstance(value, str) and value.isalnum()) else ""
    if isinstance(value, str) and len(value) < 50:
        read = _read(value)
        if bool in takes and value.lower() in _YAML_1_1:
            return f"; write {_YAML_1_1[value.lower()]}"
        if type(read) in takes or (float in takes and type(read) is int):
            return "; remove the quotes"
        choices = [arg for t in takes if get_origin(t) is Literal for arg in get_args(t)]
        return did_you_mean(value, [str(choice) for choice in choices])
    if isinstance(value, float) and int in takes and value.is_integer():
        return f"; write {int(value)}"
    if isinstance(value, (bool, int, float)) and str in takes:
        return "; put it in quotes"
    return ""


def _read(text: str) -> Any:
    try:
        return resolve(text)
    except ValueError:
        return text

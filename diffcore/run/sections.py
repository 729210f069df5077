"""The spec of a pipeline, from its source to a `Spec`. Imports no torch where no component that it names is installed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs

from diffcore.declare.component import Base
from diffcore.declare.errors import UnknownComponentError
from diffcore.specs.faults import Fault, Faults, SpecErrors
from diffcore.specs.fieldtypes import default_of, init_fields
from diffcore.specs.loading import SpecSource, load_tree
from diffcore.specs.names import Names
from diffcore.specs.registry import Registry
from diffcore.specs.structuring import BAD, Structurer
from diffcore.specs.tree import Node

if TYPE_CHECKING:
    from diffcore.run.spec import Spec

FORMAT = 1
"""The version of the spec format, the value of the key `diffcore`."""

_LOG = logging.getLogger("diffcore")

UNSEEN = "how the parts fit was not looked at yet: check again when this is mended"
"""What is said where a field is unknown and torch is not there."""

SECTION_KINDS = {
    "diffcore": "",
    "name": "",
    "seed": "",
    "init": "",
    "data": "data!",
    "process": "process!",
    "network": "network!",
    "prediction": "",
    "sigma_data": "",
    "loss": "loss!",
    "trainer": "trainer?",
    "flow_map": "flow_map?",
    "guidance": "guidance*",
    "solver": "solver!",
    "sampling": "",
    "metrics": "metric*",
    "evaluation": "",
}
"""The fields of `Spec`, known without importing it: the kind of component, and whether it is mandatory, optional or a list."""
TOP_KINDS = frozenset(kind[:-1] for kind in SECTION_KINDS.values() if kind)
"""The kinds that have a section of a spec; all others stand in a field of another component."""


def load_spec(source: SpecSource, registry: Registry, overrides: Sequence[str] = (), name: str = "<text>") -> Spec:
    """The spec in a file, a text (a string of several lines, called `name` in faults) or a mapping, with overrides applied.

    A component in a file states its `type`; an override `key.path=value` edits what is there, defaults too. Raises `SpecErrors`
    with every fault: the YAML's, the overrides', and those of all components. Fields that an override of `type` dropped are
    logged as a warning.
    """
    faults = Faults()
    tree = _refuse_unknown(source, registry, overrides, faults, name)
    from diffcore.run.spec import Spec

    structurer = Structurer(registry, faults)
    values = structurer.fields(Spec, tree, "")
    faults.found = [_with_remedy(fault) for fault in faults.found]
    try:
        made = structurer.finish(structurer.made(Spec, values, tree, ""))
    except SpecErrors as error:
        error.standing = _standing(Spec, values)
        raise
    for note in faults.notes:
        _LOG.warning(note)
    return made


def _with_remedy(fault: Fault) -> Fault:
    """A condition that is no class has no place in a spec."""
    if not fault.path.startswith("sampling.cond.") or "got a list" not in fault.message:
        return fault
    name = fault.path.removeprefix("sampling.cond.")
    return attrs.evolve(fault, message=f"{fault.message}; vectors are given in Python only: sample(cond={{'{name}': ...}})")


def _standing(spec: type[Spec], values: Mapping[str, Any]) -> tuple[Spec, frozenset[str]]:
    """What stands of a spec with faults, and the names of the sections that do not: they are None in it."""
    whole = {name: values.get(name, default_of(attribute)) for name, attribute in init_fields(spec).items()}
    broken = frozenset(name for name, value in whole.items() if value is BAD or value is attrs.NOTHING)
    made = object.__new__(spec)
    for name, value in whole.items():
        object.__setattr__(made, name, None if name in broken else value)
    return made, broken


def refuse_unknown(source: SpecSource, registry: Registry, overrides: Sequence[str] = ()) -> None:
    """Raise the faults of a spec that are found without torch: all where no component that it names is installed, and unknown
    fields where nothing else looks wrong. The latter are left to `load_spec`, which finds all, where torch is there already.
    """
    faults = Faults()
    tree = _refuse_unknown(source, registry, overrides, faults, "<text>")
    if "torch" in sys.modules or faults.found:
        return
    names = Names(registry, faults)
    names.spec(tree)
    if faults.found and not names.others:
        raise SpecErrors(faults.found, UNSEEN)


def _refuse_unknown(source: SpecSource, registry: Registry, overrides: Sequence[str], faults: Faults, name: str) -> Node:
    tree = load_tree(source, overrides, faults, name)
    _check_format(tree, isinstance(source, Mapping), faults)
    if not any(_is_known(registry, kind, node) for kind, node in _named(tree)):
        Structurer(registry, faults).record(_outline(), tree, "")
        faults.check()
    return tree


def _check_format(tree: Node, may_lack: bool, faults: Faults) -> None:
    version = tree.children.get("diffcore")
    if version is None and not may_lack:
        faults.add(tree.mark, "diffcore", f"missing; begin the file with 'diffcore: {FORMAT}', the version of the spec format")
    elif version is not None and type(version.value) is int and version.value > FORMAT:
        message = f"the spec has format {version.value}, this diffcore reads format {FORMAT}; update diffcore"
        faults.stop(version.mark, "diffcore", message)


def _named(tree: Node) -> list[tuple[str, Node]]:
    """The components of the top level, with their kinds."""
    found = [(kind, tree.children[name]) for name, kind in SECTION_KINDS.items() if kind and name in tree.children]
    return [(kind[:-1], item) for kind, node in found for item in (node.children.values() if kind[-1] == "*" else [node])]


def _is_known(registry: Registry, kind: str, node: Node) -> bool:
    try:
        return isinstance(node.value, Base) or bool(registry.find(kind, str(node.child("type"))))
    except UnknownComponentError:
        return False


@cache
def _outline() -> type:
    """`Spec` with bases that nothing derives from: enough to find wrong sections and unknown components without importing any."""
    return attrs.make_class("Spec", {name: _stand_in(kind[:-1], kind[-1:]) for name, kind in SECTION_KINDS.items()}, kw_only=True)


def _stand_in(kind: str, how: str) -> Any:
    base: Any = type(kind, (Base,), {"kind": kind})
    if how == "!":
        return attrs.field(type=base)
    return attrs.field(default=None, type={"": object, "?": base, "*": tuple[base, ...]}[how])

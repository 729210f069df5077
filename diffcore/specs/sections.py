"""The spec of a pipeline, from its source to a `Spec`. Imports no torch where no component that it names is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs

from diffcore.component import Base
from diffcore.errors import UnknownComponentError
from diffcore.registry import Registry
from diffcore.specs.faults import Faults
from diffcore.specs.loading import SpecSource, load_tree
from diffcore.specs.structuring import Structurer
from diffcore.specs.tree import Node

if TYPE_CHECKING:
    from diffcore.specs.spec import Spec

FORMAT = 1
"""The version of the spec format, the value of the key `diffcore`."""

_PLAIN = ("diffcore", "name", "seed", "init", "prediction", "sigma_data", "sampling", "evaluation")
_MANDATORY = ("data", "process", "network", "loss", "solver")
_OPTIONAL = ("trainer", "flow_map")
_LISTS = {"guidance": "guidance", "metrics": "metric"}


def load_spec(source: SpecSource, registry: Registry, overrides: Sequence[str] = ()) -> Spec:
    """The spec in a file, a text (a string of several lines) or a mapping, with `key.path=value` overrides applied.

    Raises `SpecErrors` with every fault: the YAML's, the overrides', and those of all components.
    """
    faults = Faults()
    tree = load_tree(source, overrides, faults)
    _check_format(tree, isinstance(source, Mapping), faults)
    structurer = Structurer(registry, faults)
    if not any(_is_known(registry, kind, node) for kind, node in _named(tree)):
        structurer.record(_outline(), tree, "")
        faults.check()
    from diffcore.specs.spec import Spec

    return structurer.finish(structurer.record(Spec, tree, ""))


def _check_format(tree: Node, may_lack: bool, faults: Faults) -> None:
    version = tree.children.get("diffcore")
    if version is None and not may_lack:
        faults.add(tree.mark, "diffcore", f"missing; begin the file with 'diffcore: {FORMAT}', the version of the spec format")
    elif version is not None and type(version.value) is int and version.value > FORMAT:
        message = f"the spec has format {version.value}, this diffcore reads format {FORMAT}; update diffcore"
        faults.stop(version.mark, "diffcore", message)


def _named(tree: Node) -> list[tuple[str, Node]]:
    """The components of the top level, with their kinds."""
    single = [(name, tree.children[name]) for name in (*_MANDATORY, *_OPTIONAL) if name in tree.children]
    lists = [(kind, tree.children[name]) for name, kind in _LISTS.items() if name in tree.children]
    return single + [(kind, item) for kind, node in lists for item in node.children.values()]


def _is_known(registry: Registry, kind: str, node: Node) -> bool:
    try:
        return isinstance(node.value, Base) or bool(registry.find(kind, str(node.child("type"))))
    except UnknownComponentError:
        return False


@cache
def _outline() -> type:
    """`Spec` with bases that nothing derives from: enough to find wrong sections and unknown components without importing any."""
    base: dict[str, Any] = {kind: type(kind, (Base,), {"kind": kind}) for kind in (*_MANDATORY, *_OPTIONAL, *_LISTS.values())}
    fields = {
        **{name: attrs.field(default=None, type=object) for name in _PLAIN},
        **{name: attrs.field(type=base[name]) for name in _MANDATORY},
        **{name: attrs.field(default=None, type=base[name]) for name in _OPTIONAL},
        **{name: attrs.field(default=(), type=tuple[base[kind], ...]) for name, kind in _LISTS.items()},
    }
    return attrs.make_class("Spec", fields, kw_only=True)

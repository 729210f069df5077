"""Components back to plain values and YAML."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import attrs
from cattrs import Converter
from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from diffcore.declare.component import Base
from diffcore.declare.installed import Installed

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*")


def unstructure(registry: Installed, value: Any) -> Any:
    """Plain values (dict, list, scalars) from a component or anything it is made of: the inverse of `structure`.

    A component becomes a dict with its `type` first and *every* field, defaults too. Raises `UnknownComponentError` for a class
    that is not in the registry. What came from `${env:NAME}` is written as its value, so secrets do not belong in a spec.
    """
    return _converter(registry).unstructure(value)


def _converter(registry: Installed) -> Converter:
    """cattrs, with three rules of ours: a component says its type, sequences are lists, and "${" in text is escaped."""
    converter = Converter()

    def plain(value: Any) -> dict[str, Any]:
        fields = [a for a in attrs.fields(type(value)) if a.init]
        return {a.alias or a.name: converter.unstructure(getattr(value, a.name)) for a in fields}

    def component(value: Base) -> dict[str, Any]:
        return {"type": registry.id_of(type(value)), **plain(value)}

    def sequence(value: Any) -> list[Any]:
        return [converter.unstructure(item) for item in value]

    converter.register_unstructure_hook_func(attrs.has, plain)
    converter.register_unstructure_hook_func(lambda t: isinstance(t, type) and issubclass(t, Base), component)
    converter.register_unstructure_hook_func(lambda t: isinstance(t, type) and issubclass(t, (list, tuple)), sequence)

    def mapping(value: Mapping[Any, Any]) -> dict[Any, Any]:  # keys are not filled in when they are read
        return {key: converter.unstructure(item) for key, item in value.items()}

    converter.register_unstructure_hook_func(lambda t: isinstance(t, type) and issubclass(t, Mapping), mapping)
    converter.register_unstructure_hook(str, lambda text: text.replace("${", "$${"))
    return converter


def dump(registry: Installed, value: Any) -> str:
    """The YAML of a spec or component; reading it gives an equal one."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style, yaml.width = False, 120
    stream = io.StringIO()
    yaml.dump(unstructure(registry, value), stream)
    return stream.getvalue()


class _Representer(SafeRepresenter):
    """Fields in their order, lists of scalars on one line, no anchors; quotes around all text that is not one plain word."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if _WORD.fullmatch(data) else '"')

    def represent_list(self, data: list[Any]) -> Any:
        flat = not any(isinstance(item, (list, dict)) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)

    def represent_dict(self, data: dict[str, Any]) -> Any:
        return self.represent_mapping("tag:yaml.org,2002:map", list(data.items()))


_Representer.add_representer(str, _Representer.represent_str)
_Representer.add_representer(list, _Representer.represent_list)
_Representer.add_representer(dict, _Representer.represent_dict)

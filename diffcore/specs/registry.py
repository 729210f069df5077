"""The registry: the installed components, and how one is made from its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffcore.declare.installed import Installed
from diffcore.specs.structuring import structure


class Registry(Installed):
    """The installed components, as a value: build one, pass it on.

    `Registry.load()` discovers; `Registry()` is empty. `add` puts a class of a notebook into this registry only.
    """

    def make(self, kind: str, spec: str | Mapping[str, Any], /, **fields: Any) -> Any:
        """Make a component from its id and fields, or from a mapping with `type`.

        >>> registry.make("solver", "euler", steps=20)
        >>> registry.make("solver", {"type": "euler", "steps": 20})

        Fields are checked strictly (types, bounds, unknown names); all faults come in one `SpecError`.
        """
        raw = {"type": spec, **fields} if isinstance(spec, str) else {**spec, **fields}
        return structure(self, kind, raw)

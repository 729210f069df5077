"""Components of other distributions, by the ids under which they are installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffcore as dc


def made(kind: str, spec: Mapping[str, Any], registry: dc.Registry | None = None) -> Any:
    """A component from its spec; None where its id is not installed, or cannot be imported."""
    registry = registry or dc.Registry.load()
    try:
        registry.get(kind, spec["type"])
    except (dc.UnknownComponentError, dc.PluginError):
        return None
    return registry.make(kind, spec)


def label(spec: Mapping[str, Any]) -> str:
    """A spec as listings show it: `ddim(eta=1.0)`."""
    fields = ", ".join(f"{k}={v}" for k, v in spec.items() if k != "type")
    return f"{spec['type']}({fields})" if fields else spec["type"]

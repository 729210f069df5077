"""Specs: YAML to components and back, with every fault at its place. Torch is imported only with the classes of components."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diffcore.specs.faults import Fault, SpecErrors
from diffcore.specs.json_schema import schema
from diffcore.specs.loading import origins
from diffcore.specs.reader import parse
from diffcore.specs.sections import FORMAT, load_spec, refuse_unknown
from diffcore.specs.structuring import roundtrip, structure
from diffcore.specs.writing import dump, unstructure

if TYPE_CHECKING:
    from diffcore.specs.spec import EvaluationPlan, Sampling, Spec

__all__ = [
    "FORMAT",
    "EvaluationPlan",
    "Fault",
    "Sampling",
    "Spec",
    "SpecErrors",
    "dump",
    "load_spec",
    "origins",
    "parse",
    "refuse_unknown",
    "roundtrip",
    "schema",
    "structure",
    "unstructure",
]


def __getattr__(name: str) -> Any:
    if name not in ("EvaluationPlan", "Sampling", "Spec"):
        raise AttributeError(f"module 'diffcore.specs' has no attribute '{name}'")
    return getattr(importlib.import_module("diffcore.specs.spec"), name)

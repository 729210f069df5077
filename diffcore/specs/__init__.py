"""Specs: YAML to components and back, with every fault at its place. Torch is imported only with the classes of components."""

from __future__ import annotations

from diffcore.specs.faults import Fault, SpecErrors
from diffcore.specs.json_schema import schema
from diffcore.specs.loading import origins
from diffcore.specs.reader import parse
from diffcore.specs.structuring import roundtrip, structure
from diffcore.specs.writing import dump, unstructure

__all__ = [
    "Fault",
    "SpecErrors",
    "dump",
    "origins",
    "parse",
    "roundtrip",
    "schema",
    "structure",
    "unstructure",
]

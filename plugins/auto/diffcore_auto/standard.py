"""The standard grids: where a search starts, and what it must beat."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

import diffcore as dc
from diffcore_auto.installed import label, made
from diffcore_auto.levels import End

GRIDS = (
    {"type": "crash"},
    {"type": "straight"},
    {"type": "uniform-lam"},
    {"type": "uniform-lam", "lam_min": -3.0, "lam_max": 3.0},
    {"type": "uniform"},
    {"type": "karras"},
    {"type": "karras", "rho": 3.0},
    {"type": "cosine"},
    {"type": "quadratic"},
    {"type": "shifted", "shift": 3.0},
)


def standard_grids(field: dc.Field, end: End = "zero") -> Iterator[tuple[str, dc.Grid]]:
    """Name and grid of those that are installed and fit; all but `shifted` end where they are told."""
    registry = dc.Registry.load()
    for spec in GRIDS:
        told = {**spec, "end": end} if end != "zero" and spec["type"] != "shifted" else spec
        grid = made("grid", told, registry)
        if grid is not None and grid.requires <= field.provides:
            yield label(spec), grid


def nodes_of(field: dc.Field, solver: dc.Solver, end: End) -> dict[str, Tensor]:
    """The nodes of every standard grid that has them for this solver's number of steps and this end."""
    found: dict[str, Tensor] = {}
    for name, grid in standard_grids(field, end):
        try:
            nodes = grid.nodes(field.process, solver.steps, field.process.T)
        except dc.DiffcoreError:
            continue
        if end == "zero" or float(nodes[-1]) > 0:
            found[name] = nodes
    return found

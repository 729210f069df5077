"""The fine solution that others are measured against."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

import diffcore as dc
from diffcore_auto.installed import made
from diffcore_auto.levels import span, times_at

SOLVERS: tuple[dict[str, Any], ...] = (
    {"type": "exp-adams", "points": 3, "corrector": True},
    {"type": "dpmpp-3m"},
    {"type": "dpmpp-2m"},
    {"type": "edm-heun"},
    {"type": "heun"},
    {"type": "ddim"},
    {"type": "euler"},
)
"""The first of these that is installed and fits is used."""
COARSE, FINE, CLOSE = 64, 512, 1e-4


@attrs.frozen
class Reference:
    """End states, the solver, its steps, and the distance (RMS per dimension, median over states) to half as many steps."""

    x: dc.State
    solver: str
    steps: int
    error: float


def solve(field: dc.Field, x: dc.State, end: float) -> Reference:
    """The end states of x at T: steps uniform in lam to min_time, then a jump to the end, doubled from 64 until the median
    change is 1e-4 of the size of the states, or to 512 steps. Raises `SpecError` where no solver of `SOLVERS` is installed.
    """
    solver, name = _solver(field)
    steps, coarse = COARSE, _run(field, solver, x, COARSE, end)
    while True:
        steps, fine = 2 * steps, _run(field, solver, x, 2 * steps, end)
        change = (fine - coarse).flatten(1).norm(dim=1).median() / fine[0].numel() ** 0.5
        if float(change) <= CLOSE * float(fine.square().mean().sqrt()) or steps >= FINE:
            return Reference(fine, name, steps, float(change))
        coarse = fine


def fine_grid(process: dc.Process, steps: int, end: float) -> Tensor:
    """Uniform in lam from the start of the span to min_time; one jump before it where the process starts beyond, one after."""
    low, high = span(process, process.T)
    levels = torch.linspace(low, high, steps, dtype=torch.float64)
    if float(process.t_of_lam(levels[:1])) >= process.T * (1 - 1e-9):
        levels = levels[1:]
    if end >= process.min_time:
        levels = levels[:-1]
    return times_at(process, levels, process.T, end)


def _run(field: dc.Field, solver: dc.Solver, x: dc.State, steps: int, end: float) -> Tensor:
    return dc.sample(field, solver, x, grid=fine_grid(field.process, steps, end)).x


def _solver(field: dc.Field) -> tuple[dc.Solver, str]:
    for spec in SOLVERS:
        solver = made("solver", spec)
        if solver is not None and solver.requires <= field.provides:
            return solver, spec["type"]
    raise dc.SpecError(f"a fine solution needs one of these solvers, none is installed: {', '.join(s['type'] for s in SOLVERS)}")

"""Which solvers and grids take part: every installed deterministic solver that runs in the plain loop, in several settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import product
from typing import Any

import attrs
import torch
from torch import Tensor

import diffcore as dc
from diffcore_auto.density import measured, proposals, shared
from diffcore_auto.documented import ROWS
from diffcore_auto.installed import label, made
from diffcore_auto.levels import times_at
from diffcore_auto.standard import standard_grids
from diffcore_auto.trial import calls_of

SETTINGS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "exp-adams": (
        *({"points": p, "prediction": q, "corrector": True} for p, q in product((2, 3, 4), ("v", "flow"))),
        *({"points": p, "prediction": q, "corrector": c} for p, q, c in product((2, 3, 4), ("x0", "eps"), (False, True))),
    ),
    "unipc": tuple({"points": p, "prediction": q} for p, q in product((2, 3), ("x0", "eps"))),
    "deis": ({"degree": 1}, {"degree": 2}, {"degree": 3}, {"degree": 2, "variable": "rho"}),
    "exp-runge-kutta": tuple({"method": m, "prediction": q} for m, q in product(("heun", "third"), ("x0", "eps"))),
    "runge-kutta": tuple(
        {"method": m, "variable": v} for m, v in product(("midpoint", "bogacki-shampine"), ("sigma", "lam", "angle"))
    ),
}
"""Settings of solvers that have several; others take part with their defaults."""
QUICK = ("ddim", "euler", "dpmpp-2m", "dpmpp-3m", "deis", "exp-adams", "unipc", "heun")
QUICK_GRIDS, QUICK_SHARES = 4, ("x0, order 2", "eps, order 2")


@attrs.frozen
class Candidate:
    """A solver as a spec and as a component, the name of its grid, and its nodes. `documented`: it stays in to the end."""

    spec: Mapping[str, Any]
    solver: dc.Solver
    grid: str
    nodes: Tensor
    documented: bool = False

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.nodes) - 1

    @property
    def label(self) -> str:
        """Solver, steps and grid, for a reader."""
        return f"{label(self.spec)}, {self.steps} steps, {self.grid}"


def solvers(field: dc.Field, quick: bool, skipped: list[str]) -> Iterator[tuple[Mapping[str, Any], dc.Stepper]]:
    """Spec and component of every solver that takes part. A setting or solver that cannot be made is noted in `skipped`."""
    registry = dc.Registry.load()
    for entry in registry.list("solver"):
        if quick and entry.id not in QUICK:
            continue
        try:
            cls: Any = registry.get("solver", entry.full_id)
            if not issubclass(cls, dc.Stepper) or not cls.requires <= field.provides or _needs_fields(cls):
                continue
            for fields in SETTINGS.get(entry.id, ({},)):
                solver = registry.make("solver", entry.full_id, **fields)
                if not dc.calibrate_on(solver) and _plain(solver, field.process):
                    yield {"type": registry.id_of(cls), **fields}, solver
        except Exception as error:
            skipped.append(f"{entry.id}: {type(error).__name__}: {error}")


def _needs_fields(cls: Any) -> bool:
    return any(a.default is attrs.NOTHING for a in attrs.fields(cls))


def _plain(solver: dc.Stepper, process: dc.Process) -> bool:
    """Whether the solver has a plan and draws no noise."""
    try:
        plan = solver.plan(process, process.default_grid(4, process.T))
    except NotImplementedError:
        return False
    return not plan.stochastic or not bool((plan.noise != 0).any())


def grids(field: dc.Field, x: dc.State, quick: bool) -> Iterator[tuple[str, dc.Grid]]:
    """The standard grids that are installed and fit, and equal shares of the local errors measured here."""
    standard = list(standard_grids(field))
    yield from standard[:QUICK_GRIDS] if quick else standard
    for name, levels, n in proposals(measured(field, x), field.process):
        if not quick or name in QUICK_SHARES:
            yield f"equal shares ({name})", Shared(levels, n)


class Shared(dc.Grid):
    """Equal shares of a density of steps."""

    def __init__(self, levels: Tensor, density: Tensor) -> None:
        self.levels, self.density = levels, density

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """The N + 1 times."""
        return times_at(process, shared(process, start, self.levels, self.density, steps), start, 0.0)


def within(field: dc.Field, solver: dc.Solver, grid: dc.Grid, calls: int) -> Tensor | None:
    """The grid of as many steps as fit into a number of evaluations of the field, by bisection; None where not one does."""
    best, low, high = None, 1, calls
    while low <= high:
        steps = (low + high) // 2 if best is None or high - low > 1 else high
        nodes = grid.nodes(field.process, steps, field.process.T)
        fits = calls_of(field, solver, nodes) <= calls
        best, low, high = (nodes, steps + 1, high) if fits else (best, low, steps - 1)
    return best


def documented(field: dc.Field, calls: int) -> Iterator[Candidate]:
    """The rows of the documentation that are installed, fit this field and have a grid of so few steps."""
    registry = dc.Registry.load()
    for _, row in ROWS:
        spec = {name: value for name, value in row.items() if name != "grid"}
        solver, rule = made("solver", spec, registry), made("grid", row["grid"], registry)
        if solver is None or rule is None or not solver.requires | rule.requires <= field.provides:
            continue
        with suppress(dc.DiffcoreError):  # no room for a grid of so few steps
            if (nodes := within(field, solver, rule, calls)) is not None and torch.isfinite(nodes).all():
                yield Candidate(spec, solver, f"{label(row['grid'])}, documented", nodes, True)


def candidates(
    field: dc.Field, x: dc.State, calls: int, quick: bool, grid: dc.Grid | None, skipped: list[str]
) -> list[Candidate]:
    """Every solver on every grid with as many steps as the budget allows, and the documented rows where no grid is given; what
    has no grid or plan is noted in `skipped`."""
    chosen = [("the grid of the spec", grid)] if grid is not None else list(grids(field, x, quick))
    found = [] if grid is not None else list(documented(field, calls))
    for spec, solver in solvers(field, quick, skipped):
        for name, rule in chosen:
            try:
                nodes = within(field, solver, rule, calls)
            except Exception as error:
                skipped.append(f"{label(spec)} on {name}: {type(error).__name__}: {error}")
                continue
            if nodes is not None and torch.isfinite(nodes).all():
                found.append(Candidate(spec, solver, name, nodes))
    return found

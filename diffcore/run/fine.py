"""The exact end of a probability-flow ODE, as nearly as installed solvers find it: the reference of all errors at few calls."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from diffcore.declare.errors import DiffcoreError, NumericsError, SpecError
from diffcore.numerics.calibration import calibrate_on
from diffcore.numerics.fields import Field
from diffcore.numerics.sampling import sample
from diffcore.numerics.solver import Solver, Stepper, evolve
from diffcore.numerics.tree import State, leaves, tree_map
from diffcore.specs.registry import Registry


@attrs.frozen
class Fine:
    """Where the ODE carries the start states, and how far from it the same solver was with half as many steps."""

    x: State
    error: float
    solver: Solver


def rms(a: State, b: State) -> Tensor:
    """The root mean square difference of every sample, per dimension [B], in float64."""
    squares = [(x.double() - y.double()).flatten(1).square() for x, y in zip(leaves(a), leaves(b), strict=True)]
    return torch.cat(squares, 1).mean(1).sqrt()


def is_deterministic(field: Field, solver: Solver) -> bool:
    """Whether a solver plans its steps and draws no noise on its own grid for this field."""
    process = field.process
    if not isinstance(solver, Stepper):
        return False
    return not bool((solver.plan(process, solver.nodes(process)).noise != 0).any())


def is_repeatable(field: Field, solver: Solver, x: State) -> bool:
    """Whether the solver ends in the same states whatever the seed."""
    few, part = _few(field, x)
    a, b = (sample(part, solver, few, seed=seed).x for seed in (1, 2))
    return not bool(rms(a, b).any())


def ode_solvers(registry: Registry, field: Field) -> list[Solver]:
    """Every installed solver of a proved order above 1 that plans its steps and fits the field, from its defaults."""
    found: list[Solver] = []
    for entry in registry.list("solver"):
        try:
            solver: Solver = registry.make("solver", entry.full_id)
            field.check(solver)
            if not calibrate_on(solver) and (solver.order or 0) > 1 and is_deterministic(field, solver):
                found.append(solver)
        except (DiffcoreError, NotImplementedError):  # mandatory fields, other processes, plugins that are broken
            continue
    return found


def fine(field: Field, x: State, registry: Registry, *, tolerance: float = 1e-4, most: int = 1024) -> Fine:
    """Solve the ODE from states x at T, in steps that are doubled until the result moves by less than `tolerance` (rms).

    The solver is that of the four installed ones of highest order whose 32 steps lie nearest to its own 64 on a few states.
    `most` bounds the steps; `error` of the result says how far it got. Raises `SpecError` where no installed solver fits.
    """
    few, part = _few(field, x)
    tried: list[tuple[float, Solver]] = []
    for solver in sorted(ode_solvers(registry, field), key=lambda s: -(s.order or 0))[:4]:
        try:
            moved = rms(*(sample(part, evolve(solver, steps=n), few).x for n in (32, 64)))
            tried.append((float(moved.mean()), solver))
        except (NumericsError, SpecError):
            continue
    if not tried:
        raise SpecError("no installed ODE solver of second order or higher fits this process: there is nothing to compare with")
    best, steps = min(tried, key=lambda pair: pair[0])[1], 64
    before = sample(field, evolve(best, steps=steps), x).x
    while True:
        steps *= 2
        solver = evolve(best, steps=steps)
        now = sample(field, solver, x).x
        error = float(rms(before, now).square().mean().sqrt())
        if error <= tolerance or 2 * steps > most:
            return Fine(now, error, solver)
        before = now


def _few(field: Field, x: State, n: int = 4) -> tuple[State, Field]:
    """The first states, and the field under their conditions."""
    cond = {k: v[:n] if isinstance(v, Tensor) and v.ndim else v for k, v in field.cond.items()}
    return tree_map(lambda leaf: leaf[:n], x), field.bound(cond)

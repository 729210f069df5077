"""The distribution of a step of a solver, and the log-probability of a stored trajectory under a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffcore.declare.errors import DataError, IncompatibleError, SpecError
from diffcore.numerics.fields import Field
from diffcore.numerics.laws import GaussianLaw, Law
from diffcore.numerics.sampling import checked, resolve_grid
from diffcore.numerics.solver import Frame, Grid, Moved, Solver, Stepper
from diffcore.numerics.tree import State, tree_map


def kernel(field: Field, solver: Stepper, x: State, row: Any, carry: Any) -> Law:
    """The distribution of x_s in one stochastic step of a solver.

    That of `Process.reverse_law` where the step is a draw from the reverse kernel (it returns what `field.reverse` gave), else,
    for solvers whose noise is additive, N(step(z = 0), row.noise^2 C). Gradients reach the network's parameters.

    Raises `IncompatibleError` for a solver whose step is neither.
    """
    return _step(field, solver, x, row, carry)[0]


def _step(field: Field, solver: Stepper, x: State, row: Any, carry: Any) -> tuple[Law, Moved]:
    """The law of a step, and what the step without noise returns."""
    drawn: list[tuple[State, Law]] = []

    def reverse(x: State, t: Any, s: Any, z: State) -> State:
        law = field.process.reverse_law(x, t, s, field.posterior(x, t))
        drawn.append((law.sample(z), law))
        return drawn[-1][0]

    if solver.additive_noise or "reverse" in solver.requires:
        own = field.bound(field.cond)
        own.__dict__["reverse"] = reverse
        moved = solver.step(own, x, row, carry, tree_map(torch.zeros_like, x))
        if drawn and moved.x is drawn[-1][0]:
            return drawn[-1][1], moved
        if solver.additive_noise and all(isinstance(law, GaussianLaw) for _, law in drawn):
            return GaussianLaw(moved.x, row.noise, field.process), moved
    raise IncompatibleError(
        f"solver {type(solver).__name__} has no known step kernel under {type(field.process).__name__}: its noise is not "
        f"additive, and it does not return what `field.reverse` gives; take one with additive noise, such as ancestral"
    )


def rescore(
    field: Field,
    solver: Solver,
    states: Sequence[State | Frame],
    *,
    grid: Grid | Tensor | Sequence[float] | None = None,
    steps: int | None = None,
) -> Tensor:
    """log p(x_{i+1} | x_i) of every step of a stored trajectory, [steps, B]: `.sum(0)` is that of the whole.

    states: those at the times of the grid in order (or the frames of `dc.frames`), as the solver made them under this or another
    network; the first ones only, where the last steps are left out. grid, steps: those of `dc.sample`. Gradients reach the
    parameters of the network where they are on: this is log pi(a | s) of policy gradients on denoising steps. Each step costs an
    evaluation, and one more where the solver has a carry.

    Raises `IncompatibleError` for a solver without a step kernel and for a step that draws no noise, `SpecError` for a grid of
    more than one time per step, `DataError` for states that are not those of the grid.

    Source: Black et al. 2023, arXiv 2305.13301, section 4.
    """
    path = [each.x if isinstance(each, Frame) else each for each in states]
    if len(path) < 2:
        raise DataError(f"a trajectory has two states or more, one for each time; got {len(path)}")
    solver, _ = checked(field, solver, path[0], 0, None)
    nodes = resolve_grid(field, solver, grid, steps)
    if not isinstance(solver, Stepper) or nodes.ndim > 1:
        raise SpecError("rescore takes a solver that runs step by step, on a grid of one time per step")
    if len(path) > len(nodes):
        raise DataError(f"{len(path)} states for the {len(nodes)} times of the grid; give the grid that the states are from")
    plan, rows = solver.prepared(field, path[0], nodes)
    quiet = next((i for i in range(len(path) - 1) if not plan.draws[i]), None)
    if quiet is not None:
        raise IncompatibleError(
            f"step {quiet + 1} of solver {type(solver).__name__} (to t = {float(nodes[quiet + 1]):.6g}) draws no noise and has "
            f"no density; give the states before it only: states[:{quiet + 1}]"
        )
    return torch.stack(_scores(field, solver, path, rows))


def _scores(field: Field, solver: Stepper, path: list[State], rows: list[Any]) -> list[Tensor]:
    carry, found = solver.init(path[0]), list[Tensor]()
    for i, after in enumerate(path[1:]):
        law, moved = _step(field, solver, path[i], rows[i], carry)
        found.append(law.log_prob(after))
        if moved.carry is not None:  # it may depend on the noise that was drawn
            if not isinstance(law, GaussianLaw):
                raise IncompatibleError(f"solver {type(solver).__name__} has a carry, and the noise of its steps cannot be told")
            carry = solver.step(field, path[i], rows[i], carry, law.noise_of(after)).carry
    return found

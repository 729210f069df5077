"""How the kit runs solvers: step by step with everything visible, and exactly, as a linear map of its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffcore.numerics.draw import Draw
from diffcore.numerics.fields import Denoiser, Field
from diffcore.numerics.flow_map import FlowMap
from diffcore.numerics.process import AffineProcess, Process
from diffcore.numerics.solver import Solver, Stepper, held
from diffcore.numerics.tree import State, expand, pytree
from diffcore.testing.oracles import Gaussian, Oracle


class ExactFlowMap(FlowMap):
    """The flow map of an oracle, for solvers that require one. Calls the model once per jump, as a network would."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle

    def map(self, model: Denoiser, x: State, t: Any, s: Any, **cond: Any) -> State:
        """Psi_{t->s}(x)."""
        model(x, t, **cond)
        return self.oracle.flow(model.process, x, t.t, s.t).to(x.dtype)


def average_velocity(data: Gaussian, process: Process) -> Callable[..., Tensor]:
    """The exact network u(x, t, s) = (Psi_{t->s}(x) - x) / (s - t) of Gaussian data; the velocity itself at s = t."""

    def net(x: Tensor, t: Tensor, s: Tensor | None = None, **cond: Any) -> Tensor:
        t = t.double()
        s = t if s is None else s.double()
        gap = expand(s - t, x)
        mean = (data.flow(process, x, t, s) - x) / torch.where(gap == 0, 1.0, gap)
        return torch.where(gap == 0, data.velocity(x, process.coeffs(t)), mean).to(x.dtype)

    return net


class Moment(NamedTuple):
    """One step of a run: what went in, and what came out."""

    row: Any
    x: Tensor
    carry: Any
    z: State
    after: Tensor
    carried: Any


def exact_field(solver: Solver, process: Process, oracle: Oracle, prediction: str = "x0") -> Field:
    """The exact field for a solver, with the oracle's flow map where the solver requires one."""
    flow_map = ExactFlowMap(oracle) if "flow_map" in solver.requires else None
    return oracle.field(process, prediction, flow_map=flow_map)


def lam_grid(process: AffineProcess, start: float, end: float, steps: int) -> Tensor:
    """Times uniform in lam between two fractions of T, float64."""
    ends = process.coeffs(torch.tensor([start, end], dtype=torch.float64) * process.T).lam
    grid = process.t_of_lam(torch.linspace(float(ends[0]), float(ends[1]), steps + 1, dtype=torch.float64))
    grid[0], grid[-1] = start * process.T, end * process.T
    return grid


def drive(solver: Stepper, field: Field, x: Tensor, grid: Tensor, noise: Callable[[int, Tensor], State]) -> Iterator[Moment]:
    """The default loop with everything visible; `noise(i, x)` is z of step i."""
    plan = solver.plan(field.process, grid)
    carry = solver.init(x)
    for i, row in enumerate(plan.rows(field, x)):
        z = noise(i, x) if plan.stochastic and plan.draws[i] else None
        moved = solver.step(field, x, row, carry, z)
        after = held(grid[i] == grid[i + 1], x, moved.x) if grid.ndim > 1 else moved.x
        yield Moment(row, x, carry, z, after, moved.carry)
        x, carry = after, moved.carry


class Moments(NamedTuple):
    """Mean and variance of a solver's samples of Gaussian data, exact up to rounding."""

    mean: float
    variance: float


def exact_moments(solver: Stepper, process: AffineProcess, data: Gaussian, grid: Tensor) -> Moments | None:
    """The moments of the samples, without sampling; None where the solver is not linear in x_t and z.

    For Gaussian data the exact denoiser is affine in x_t, so a run is an affine map of (x_T, z_1, ..., z_N), entry by entry
    (where a step draws several z, of all of them). A state whose entry j carries a unit impulse on input j alone reads off
    every weight c_j in one run: mean = c_. + c_0 E[x_T], variance = c_0^2 Var[x_T] + sum_j c_j^2. One more entry with all
    inputs 1 checks linearity.
    """
    flat, form = pytree.tree_flatten(solver.draws(process, torch.zeros(2, 1), Draw(0, range(2))))
    size = 1 + (len(grid) - 1) * len(flat)
    inputs = torch.cat([torch.zeros(1, size), torch.eye(size), torch.ones(1, size)]).double()

    def impulse(i: int, x: Tensor) -> State:
        parts = range(1 + i * len(flat), 1 + (i + 1) * len(flat))
        return pytree.tree_unflatten([inputs[:, j].expand_as(x).clone() for j in parts], form)

    field, x = exact_field(solver, process, data), inputs[:, 0][None].expand(2, -1).clone()
    for moment in drive(solver, field, x, grid, impulse):
        x = moment.after
    rest, weights, total = x[0, 0], x[0, 1:-1] - x[0, 0], x[0, -1] - x[0, 0]
    if not bool((weights.sum() - total).abs() < 1e-8 * (1 + weights.abs().sum())):
        return None
    at = process.coeffs(grid[0])
    m, spread = float(at.alpha * data.m.reshape(-1)[0]), float(at.alpha**2 * data.std.reshape(-1)[0] ** 2 + at.sigma**2)
    return Moments(float(rest + weights[0] * m), float(weights[0] ** 2 * spread + (weights[1:] ** 2).sum()))


def slope(steps: list[int], errors: list[float]) -> float:
    """The order of convergence: minus the least-squares slope of log(error) against log(steps)."""
    x, y = [math.log(n) for n in steps], [math.log(e) for e in errors]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return -sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)

"""Flow maps: a network read as the solution map from any time to any other, and the bridges between flow maps and solvers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffcore.declare.component import Base, component
from diffcore.declare.kinds import kind
from diffcore.numerics.arguments import real, whole
from diffcore.numerics.fields import Denoiser, Field
from diffcore.numerics.plan import Plan
from diffcore.numerics.process import Process
from diffcore.numerics.sampling import sample
from diffcore.numerics.solver import Moved, Solver, Stepper
from diffcore.numerics.tree import State


@kind("flow_map")
class FlowMap(Base):
    """A parametrisation of Psi_{t->s}, the map along the probability-flow ODE; the identity at s = t by construction.

    `predictions`: what the network must predict at s = t, so that the same network is a denoiser too.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    predictions: ClassVar[tuple[str, ...]] = ()
    order: ClassVar[int | None] = None

    def map(self, model: Denoiser, x: State, t: Any, s: Any, **cond: Any) -> State:
        """x_s = Psi_{t->s}(x). t, s: `Coeffs`, floats, or tensors that broadcast from the left against x."""
        raise NotImplementedError


@component
class FlowMapSolver(Stepper):
    """A flow map used as a solver: every step of the grid is one jump, x_s = Psi_{t->s}(x_t). One step is one call."""

    requires: ClassVar[frozenset[str]] = frozenset({"flow_map"})
    source: ClassVar[str] = "Lai et al. 2025, arXiv 2510.21890, chapter 11"

    def plan(self, process: Process, grid: Tensor) -> Plan:
        """Only the two times of each step."""
        t, s = process.pairs(grid)
        return Plan(t=t, s=s)

    def step(self, field: Field, x: State, row: Any, carry: Any, z: State) -> Moved:
        """x_s = Psi_{t->s}(x_t)."""
        return Moved(field.jump(x, row.t, row.s))


def flow_map_of(field: Field, solver: Solver, steps: int = 1, seed: int = 0) -> Callable[..., State]:
    """A solver used as a flow map: `Psi(x, t, s)` runs `steps` steps of the solver between two times, uniform in t.

    Returns x itself at s = t.
    """

    steps = whole("steps", steps, 1)

    def psi(x: State, t: float, s: float) -> State:
        t, s = real("t", t), real("s", s)
        if t == s:
            return x
        grid = torch.linspace(t, s, steps + 1, dtype=torch.float64)
        return sample(field, solver, x, grid=grid, seed=seed).x

    return psi

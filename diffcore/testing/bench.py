"""What the solver checks share: data, start states, grids, and which processes a solver is checked on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffcore.numerics.process import Process
from diffcore.numerics.sampling import sample
from diffcore.numerics.solver import Solver, Stepper
from diffcore.numerics.tree import State, leaves, pytree
from diffcore.testing.base import SkipError, Subject, draw_of, normal, same
from diffcore.testing.driving import exact_field
from diffcore.testing.oracles import Gaussian

DATA = Gaussian(0.5, 0.8, shape=(3,))


def plans(cls: Any) -> bool:
    """Whether the solver runs in the default loop."""
    return issubclass(cls, Stepper)


def has_order(cls: Any) -> bool:
    """Whether an order is declared."""
    return cls.order is not None


def processes(subject: Subject) -> list[Any]:
    """The processes a solver is checked on."""
    return subject.processes(subject.component.requires - {"flow_map"})


def oracle_of(process: Any) -> Any:
    """The exact data of a process: its own `oracle()`, else the Gaussian."""
    return process.oracle() if hasattr(process, "oracle") else DATA


def affine(subject: Subject) -> list[Any]:
    """Those of them that are affine."""
    found = [p for p in processes(subject) if "affine" in p.provides]
    if not found:
        raise SkipError("needs an affine process that provides what the solver requires")
    return found


def start_at(process: Process, oracle: Any, n: int, fraction: float = 0.8) -> Any:
    """x_t of n samples at a fraction of T."""
    x0 = oracle.sample(n, draw_of(n, seed=1))
    return process.corrupt(x0, torch.full((n,), fraction * process.T, dtype=torch.float64), draw_of(n, seed=2)).xt


def grid_of(process: Process, steps: int = 6, start: float = 0.8, end: float = 0.05) -> Tensor:
    """Times uniform between two fractions of T."""
    return torch.linspace(start, end, steps + 1, dtype=torch.float64) * process.T


def z_of(solver: Stepper, process: Process, i: int, x: State) -> State:
    """Fixed noise of step i, in the form the solver asks for; a leaf of a tree has that of the leaf alone."""
    flat, form = pytree.tree_flatten(solver.draws(process, x, draw_of(len(leaves(x)[0]))))
    leaves_of_x = len(leaves(x))
    made = [normal(*leaf.shape, seed=100 + i + 1000 * (j // leaves_of_x)).to(leaf.dtype) for j, leaf in enumerate(flat)]
    return pytree.tree_unflatten(made, form)


def stochastic(solver: Solver, process: Process) -> bool:
    """Whether the samples depend on the seed."""
    oracle = oracle_of(process)
    field, x = exact_field(solver, process, oracle), start_at(process, oracle, 2)
    return not same(
        sample(field, solver, x, grid=grid_of(process), seed=1).x, sample(field, solver, x, grid=grid_of(process), seed=2).x
    )


def deterministic_on(subject: Subject) -> list[Any]:
    """The affine processes, for a solver whose samples do not depend on the seed."""
    found = affine(subject)
    if stochastic(subject.component, found[0]):
        raise SkipError("the samples depend on the seed; see `marginals`")
    return found

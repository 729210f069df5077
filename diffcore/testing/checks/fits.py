"""Checks of solvers and grids that must know a model before they run."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from diffcore.declare.component import component
from diffcore.numerics.fields import Field
from diffcore.numerics.process import Process
from diffcore.numerics.sampling import sample
from diffcore.numerics.solver import Grid, Moved, Plan, Solver, Stepper
from diffcore.numerics.tree import State, leaves, lincomb
from diffcore.testing.base import SkipError, Subject, check, poisoned_noise, refused, same
from diffcore.testing.bench import DATA, start_at
from diffcore.testing.driving import exact_field


@component
class Straight(Stepper):
    """x_s = x_t + (s - t) dx/dt: Euler's method, on which grids are fitted."""

    requires: ClassVar[frozenset[str]] = frozenset({"velocity"})

    def plan(self, process: Process, grid: Tensor) -> Plan:
        """`t`, and `dt` = s - t."""
        t, s = process.pairs(grid)
        return Plan(t=t, dt=s.t - t.t)

    def step(self, field: Field, x: State, row: Any, carry: Any, z: State) -> Moved:
        """One step."""
        return Moved(lincomb((1.0, x), (row.dt, field.velocity(x, row.t))))


@check("solver", "grid", applies=lambda cls: cls.fit_on not in (Solver.fit_on, Grid.fit_on))
def fit(subject: Subject) -> None:
    """One that must know its model says so, finds the same tensors twice, and then runs at no more than its stand-in's cost."""
    part = subject.make()
    if not part.fit_on:
        raise SkipError("it needs no fit to a model")
    solver, process = part if isinstance(part, Solver) else Straight(steps=6, grid=part), subject.processes(part.requires)[0]
    field, x = exact_field(solver, process, DATA), start_at(process, DATA, part.fit_on, 1.0)
    told = refused(lambda: sample(field, solver, x[:2]))
    assert "fit" in told, f"before it is fitted it must refuse to run and say 'diffcore fit RUN'; it said: {told or 'nothing'}"
    with poisoned_noise(), torch.no_grad():
        found, again = solver.fit(field, x), solver.fit(field, x)
    bad = [name for name, value in found.items() if not isinstance(value, Tensor)]
    assert not bad, f"what is found must be tensors, to be saved with the weights; not so: {', '.join(bad)}"
    assert found.keys() == again.keys(), "two fits found different things"
    assert all(same(found[k], again[k]) for k in found), "two fits of the same states differ"
    ready = solver.fitted(found)
    assert not ready.fit_on, "a fitted solver must need no fit"
    result, cost = sample(field, ready, x[:2]), sample(field, solver.stand_in(), x[:2]).calls
    assert all(bool(leaf.isfinite().all()) for leaf in leaves(result.x)), "the fitted solver gives samples that are not finite"
    assert result.calls <= cost, f"the fitted solver calls the network {result.calls} times, its stand-in {cost} times"

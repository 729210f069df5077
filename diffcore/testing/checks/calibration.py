"""Checks of solvers and grids that must know a model before they run."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffcore.declare.component import component
from diffcore.numerics.calibration import Calibrated, calibrate, calibrate_on, calibrated, stand_in
from diffcore.numerics.fields import Field
from diffcore.numerics.process import Process
from diffcore.numerics.sampling import sample
from diffcore.numerics.solver import Moved, Plan, Solver, Stepper
from diffcore.numerics.tree import State, leaves, lincomb
from diffcore.testing.base import SkipError, Subject, check, poisoned_noise, refused, same
from diffcore.testing.bench import DATA, start_at
from diffcore.testing.driving import exact_field


@component
class Straight(Stepper):
    """x_s = x_t + (s - t) dx/dt: Euler's method, on which grids are calibrated."""

    requires: ClassVar[frozenset[str]] = frozenset({"velocity"})

    def plan(self, process: Process, grid: Tensor) -> Plan:
        """`t`, and `dt` = s - t."""
        t, s = process.pairs(grid)
        return Plan(t=t, dt=s.t - t.t)

    def step(self, field: Field, x: State, row: Any, carry: Any, z: State) -> Moved:
        """One step."""
        return Moved(lincomb((1.0, x), (row.dt, field.velocity(x, row.t))))


@check("solver", "grid", applies=lambda cls: issubclass(cls, Calibrated))
def calibration(subject: Subject) -> None:
    """One that must know its model says so, finds the same tensors twice, and then runs at no more than its stand-in's cost."""
    part = subject.make()
    wanted: int = part.calibrate_on
    if not wanted:
        raise SkipError("it needs no calibration to a model")
    solver, process = part if isinstance(part, Solver) else Straight(steps=6, grid=part), subject.processes(part.requires)[0]
    field, x = exact_field(solver, process, DATA), start_at(process, DATA, wanted, 1.0)
    told = refused(lambda: sample(field, solver, x[:2]))
    assert "diffcore calibrate" in told, (
        f"before it is calibrated it must refuse to run and say 'diffcore calibrate RUN'; it said: {told or 'nothing'}"
    )
    with poisoned_noise(), torch.no_grad():
        found, again = calibrate(solver, field, x), calibrate(solver, field, x)
    bad = [name for name, value in found.items() if not isinstance(value, Tensor)]
    assert not bad, f"what is found must be tensors, to be saved with the weights; not so: {', '.join(bad)}"
    assert found.keys() == again.keys(), "two calibrations found different things"
    assert all(same(found[k], again[k]) for k in found), "two calibrations on the same states differ"
    ready, twin = calibrated(solver, found), calibrated(solver, {k: v.clone() for k, v in found.items()})
    assert not calibrate_on(ready), "a calibrated solver must need no calibration"
    assert (ready, hash(ready)) == (twin, hash(twin)), (
        "two solvers calibrated by equal tensors differ, so no plan of theirs is kept; keep what was found in a dc.Table"
    )
    result, cost = sample(field, ready, x[:2]), sample(field, stand_in(solver), x[:2]).calls
    assert all(bool(leaf.isfinite().all()) for leaf in leaves(result.x)), "the calibrated solver gives NaN or Inf"
    assert result.calls <= cost, f"the calibrated solver calls the network {result.calls} times, its stand-in {cost} times"
    copied = copy.deepcopy(ready)
    assert same(sample(field, copied, x[:2]).x, result.x), "a copy of a calibrated solver gives other samples"

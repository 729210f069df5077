"""Solvers and grids that must know something about the trained model: found out once, saved with the weights, used again."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from typing import ClassVar

import attrs
import pytest
import torch

import diffcore as dc
from diffcore.run.fitting import _fitting
from diffcore.testing.base import Subject
from diffcore.testing.checks.calibration import calibration as calibration_check

SPEC = {
    "data": {"type": "two-moons"},
    "process": {"type": "flow"},
    "network": {"type": "mlp", "width": 8, "depth": 1},
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 3, "batch": 8, "warmup": 1},
    "solver": {"type": "euler", "steps": 3},
    "sampling": {"n": 4, "batch": 4},
    "evaluation": {"n": 8},
}
FOUND = []


@dc.component
class Middle(dc.Calibrated, dc.Grid):
    """Two steps; the time between depends on the mean speed of the states it is calibrated on."""

    @property
    def calibrate_on(self):
        return 16

    def calibrate(self, field, x, solver):
        FOUND.append((len(x), solver))
        speed = field.velocity(x, torch.tensor(field.process.T)).abs().mean().double()
        return {"times": torch.stack([torch.tensor(1.0).double(), 1 / (2 + speed), torch.tensor(0.0).double()])}

    def calibrated(self, found):
        return Known.at(found["times"])

    def stand_in(self):
        return Known.at(torch.tensor([1.0, 0.5, 0.0]))

    def nodes(self, process, steps, start):
        raise dc.SpecError(
            "grid 'middle' must be calibrated to a model first: diffcore calibrate RUN, or dc.calibrated(solver, "
            "dc.calibrate(solver, field, x))"
        )


@dc.component
class Known(dc.Grid):
    """The times found."""

    known: dc.Table

    @classmethod
    def at(cls, times):
        return cls(known=dc.Table({"times": times}))

    def nodes(self, process, steps, start):
        return self.known["times"]


@pytest.fixture
def registry():
    registry = dc.Registry.load()
    registry.add(Middle, "middle")
    FOUND.clear()
    return registry


def spec(**changes):
    return {**SPEC, "solver": {"type": "heun", "steps": 2, "grid": {"type": "middle"}}, **changes}


def test_a_solver_that_is_not_calibrated_says_what_to_do(registry):
    pipeline = dc.assemble(spec(), registry=registry)
    x = torch.randn(2, 2)
    with pytest.raises(dc.SpecError, match="diffcore calibrate RUN"):
        dc.sample(pipeline.field(), pipeline.spec.solver, x)
    solver = pipeline.spec.solver
    with torch.no_grad():
        ready = dc.calibrated(solver, dc.calibrate(solver, pipeline.field(), x))
    assert dc.sample(pipeline.field(), ready, x).nfe == 3  # Heun's last step is Euler's


def test_it_is_calibrated_once_on_states_of_the_prior_and_saved_with_the_weights(registry, tmp_path):
    pipeline = dc.assemble(spec(), registry=registry)
    pipeline.train()
    first = pipeline.sample(4).x
    assert [(16, attrs.evolve(pipeline.spec.solver, grid=FOUND[0][1].grid))] == FOUND
    assert dc.calibrate_on(FOUND[0][1]) == 0  # the solver it was handed can run
    pipeline.sample(4, seed=2)
    pipeline.save(tmp_path)
    loaded = dc.Pipeline.load(tmp_path, registry=registry)
    assert torch.equal(loaded.sample(4).x, first)
    assert len(FOUND) == 1
    loaded.train()  # other weights, other calibration
    loaded.sample(4)
    assert len(FOUND) == 2


def test_a_calibration_is_for_one_guidance_and_one_solver(registry):
    pipeline = dc.assemble(spec(), registry=registry)
    pipeline.sample(4)
    pipeline.sample(4, solver=registry.make("solver", "euler", steps=2, grid=Middle()))
    pipeline.sample(4)
    assert len(FOUND) == 2


def test_a_calibration_serves_every_solver_that_says_so(registry):
    """Statistics of the model alone are found once for all numbers of steps."""

    @dc.component
    class Free(dc.Calibrated, dc.Stepper):
        """Euler that looked at the model."""

        calibrate_on: ClassVar[int] = 8

        def calibrate(self, field, x, solver):
            FOUND.append(self.steps)
            return {"scale": x.std()[None]}

        def calibrated_as(self):
            return attrs.evolve(self, steps=1)

        def calibrated(self, found):
            return registry.make("solver", "euler", steps=self.steps)

        def stand_in(self):
            return registry.make("solver", "euler", steps=self.steps)

    registry.add(Free)
    pipeline = dc.assemble(spec(solver={"type": "free", "steps": 3}), registry=registry)
    for steps in (3, 5, 7):
        assert pipeline.sample(4, solver=Free(steps=steps)).calls == steps
    assert FOUND == [3]


def test_the_table_counts_its_cost_on_its_stand_in(registry):
    rows = dc.assemble(spec(evaluation={"n": 8, "solvers": [{"type": "euler", "grid": {"type": "middle"}}]}), registry=registry)
    assert [(row["label"], row["calls"]) for row in rows.evaluate()] == [("heun(grid=middle)", 3), ("euler(grid=middle)", 2)]


def test_calibrations_of_a_run_are_written_beside_its_weights(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(dc.Registry, "load", classmethod(lambda cls: registry))
    from diffcore.run import checkpoint, runs

    plain = dc.assemble(SPEC, registry=registry)
    plain.train()
    plain.save(tmp_path)
    before = checkpoint.load(tmp_path / "weights.safetensors")
    assert runs.calibrate_run(tmp_path) == []
    (told,) = runs.calibrate_run(tmp_path, overrides=["solver.type=heun", "solver.grid.type=middle"])
    assert told[0] == "heun(grid=middle), 20 steps"
    assert told[1][0].startswith("times: 1, 0.")
    tensors, meta = checkpoint.load(tmp_path / "weights.safetensors")
    assert {k: v for k, v in meta.items() if k != "calibrations"} == {k: v for k, v in before[1].items() if k != "calibrations"}
    assert all(torch.equal(tensors[k], v) for k, v in before[0].items())
    assert set(tensors) - set(before[0]) == {"calibration:0.times"}
    FOUND.clear()
    pipeline = dc.Pipeline.load(tmp_path, registry=registry, overrides=["solver.type=heun", "solver.grid.type=middle"])
    pipeline.sample(2)
    assert FOUND == []


class Eager(Middle):
    """Runs before it is calibrated."""

    def nodes(self, process, steps, start):
        return torch.linspace(start, 0.0, 3).double()


class Fresh(Middle):
    """Finds something else every time."""

    def calibrate(self, field, x, solver):
        found = super().calibrate(field, x, solver)
        return {"times": found["times"] + len(FOUND) * torch.tensor([0.0, 1e-3, 0.0])}


class Untensored(Middle):
    """Finds a number."""

    def calibrate(self, field, x, solver):
        return {"times": 0.5}


class Dear(Middle):
    """Has more times than its stand-in."""

    def calibrated(self, found):
        return Known.at(torch.linspace(1.0, 0.0, 9))


class Held:
    """A grid that holds its times and is equal to itself alone."""

    requires = frozenset()

    def __init__(self, times):
        self.times = times

    def nodes(self, process, steps, start):
        return self.times


class Forgets(Middle):
    """Its calibrated grid is another one each time, and so no plan of it is kept."""

    def calibrated(self, found):
        return Held(found["times"])


class Never(Middle):
    """Is not ready after the calibration."""

    def calibrated(self, found):
        return self


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (Middle, ""),
        (Eager, "must refuse to run"),
        (Fresh, "differ"),
        (Untensored, "must be tensors"),
        (Dear, "stand-in"),
        (Never, "need no calibration"),
        (Forgets, "keep what was found in a dc.Table"),
    ],
)
def test_the_kit_judges_calibrations(cls, told):
    entry = dc.Entry("g", "grid", f"{__name__}:{cls.__name__}", "a grid", "diffcore-x", "1")
    FOUND.clear()
    subject = Subject(dc.Registry(), entry, cls)
    with pytest.raises(AssertionError, match=told) if told else nullcontext():
        calibration_check(subject)


def test_what_fits_requires_what_is_provided_or_less():
    euler = dc.Registry.load().get("solver", "euler").requires
    assert "euler" in _fitting(dc.Registry.load(), "solver", euler)
    assert "euler" not in _fitting(dc.Registry.load(), "solver", euler - {"flat"})


def test_a_table_is_its_numbers():
    """Equal by name, type, shape and number, with one hash, also after pickling; what it was made of may change afterwards."""
    found = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor(3)}
    table = dc.Table(found)
    changed = {"c": found["a"]}, {"a": found["a"].T}, {"a": found["a"].double()}, {"b": found["b"] + 1}
    assert table == dc.Table({"b": torch.tensor(3), "a": found["a"].clone()}) == pickle.loads(pickle.dumps(table))
    assert len({table, dc.Table(dict(table))}) == 1
    assert all(dc.Table({**found, **change}) != table for change in changed)
    digest = table.digest
    found["a"].zero_()
    assert dc.Table(dict(table)).digest == digest


def test_plans_of_a_calibrated_solver_are_kept(registry):
    """Two runs of one whose tensors are equal, not the same, plan once."""
    planned = []

    @dc.component
    class Counts(type(registry.make("solver", "euler"))):
        """Euler."""

        def plan(self, process, grid):
            planned.append(1)
            return super().plan(process, grid)

    field, solver = dc.assemble(spec(), registry=registry).field(), Counts(grid=Middle())
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = dc.calibrate(solver, field, x)
        planned.clear()
        for _ in range(2):
            dc.sample(field, dc.calibrated(solver, {name: value.clone() for name, value in found.items()}), x)
    assert len(planned) == 1


def test_a_solver_that_needs_no_calibration_is_itself(registry):
    euler = registry.make("solver", "euler")
    assert (dc.calibrate_on(euler), dc.calibrate(euler, None, None)) == (0, {})
    assert dc.calibrated(euler, {}) is euler

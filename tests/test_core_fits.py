"""Solvers and grids that must know something about the trained model: found out once, saved with the weights, used again."""

from __future__ import annotations

from contextlib import nullcontext

import attrs
import pytest
import torch

import diffcore as dc
from diffcore.run.fitting import _fitting
from diffcore.testing.base import Subject
from diffcore.testing.checks.fits import fit as fit_check

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
FITTED = []


@dc.component
class Middle(dc.Grid):
    """Two steps; the time between depends on the mean speed of the states it is fitted on."""

    @property
    def fit_on(self):
        return 16

    def fit(self, field, x, solver):
        FITTED.append((len(x), solver))
        speed = field.velocity(x, torch.tensor(field.process.T)).abs().mean().double()
        return {"times": torch.stack([torch.tensor(1.0).double(), 1 / (2 + speed), torch.tensor(0.0).double()])}

    def fitted(self, found):
        return Known(found["times"])

    def stand_in(self):
        return Known(torch.tensor([1.0, 0.5, 0.0]))

    def nodes(self, process, steps, start):
        raise dc.SpecError(
            "grid 'middle' must be fitted to a model first: diffcore fit RUN, or solver.fitted(solver.fit(field, x))"
        )


class Known(dc.Grid):
    """The times found."""

    def __init__(self, times):
        self.times = times

    def nodes(self, process, steps, start):
        return self.times


@pytest.fixture
def registry():
    registry = dc.Registry.load()
    registry.add(Middle, "middle")
    FITTED.clear()
    return registry


def spec(**changes):
    return {**SPEC, "solver": {"type": "heun", "steps": 2, "grid": {"type": "middle"}}, **changes}


def test_a_solver_that_is_not_fitted_says_what_to_do(registry):
    pipeline = dc.assemble(spec(), registry=registry)
    x = torch.randn(2, 2)
    with pytest.raises(dc.SpecError, match="diffcore fit RUN"):
        dc.sample(pipeline.field(), pipeline.spec.solver, x)
    solver = pipeline.spec.solver
    with torch.no_grad():
        ready = solver.fitted(solver.fit(pipeline.field(), x))
    assert dc.sample(pipeline.field(), ready, x).nfe == 3  # Heun's last step is Euler's


def test_it_is_fitted_once_on_states_of_the_prior_and_saved_with_the_weights(registry, tmp_path):
    pipeline = dc.assemble(spec(), registry=registry)
    pipeline.train()
    first = pipeline.sample(4).x
    assert [(16, attrs.evolve(pipeline.spec.solver, grid=FITTED[0][1].grid))] == FITTED
    assert FITTED[0][1].fit_on == 0  # the solver it was handed can run
    pipeline.sample(4, seed=2)
    pipeline.save(tmp_path)
    loaded = dc.Pipeline.load(tmp_path, registry=registry)
    assert torch.equal(loaded.sample(4).x, first)
    assert len(FITTED) == 1
    loaded.train()  # other weights, other fit
    loaded.sample(4)
    assert len(FITTED) == 2


def test_a_fit_is_for_one_guidance_and_one_solver(registry):
    pipeline = dc.assemble(spec(), registry=registry)
    pipeline.sample(4)
    pipeline.sample(4, solver=registry.make("solver", "euler", steps=2, grid=Middle()))
    pipeline.sample(4)
    assert len(FITTED) == 2


def test_a_fit_serves_every_solver_that_says_so(registry):
    """Statistics of the model alone are found once for all numbers of steps."""

    @dc.component
    class Free(dc.Stepper):
        """Euler that looked at the model."""

        fit_on = 8

        def fit(self, field, x):
            FITTED.append(self.steps)
            return {"scale": x.std()[None]}

        def fit_as(self):
            return attrs.evolve(self, steps=1)

        def fitted(self, found):
            return registry.make("solver", "euler", steps=self.steps)

    registry.add(Free)
    pipeline = dc.assemble(spec(solver={"type": "free", "steps": 3}), registry=registry)
    for steps in (3, 5, 7):
        assert pipeline.sample(4, solver=Free(steps=steps)).calls == steps
    assert FITTED == [3]


def test_the_table_counts_its_cost_on_its_stand_in(registry):
    rows = dc.assemble(spec(evaluation={"n": 8, "solvers": [{"type": "euler", "grid": {"type": "middle"}}]}), registry=registry)
    assert [(row["label"], row["calls"]) for row in rows.evaluate()] == [("heun(grid=middle)", 3), ("euler(grid=middle)", 2)]


def test_fits_of_a_run_are_written_beside_its_weights(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(dc.Registry, "load", classmethod(lambda cls: registry))
    from diffcore.run import checkpoint, runs

    plain = dc.assemble(SPEC, registry=registry)
    plain.train()
    plain.save(tmp_path)
    before = checkpoint.load(tmp_path / "weights.safetensors")
    assert runs.fit_run(tmp_path) == []
    (told,) = runs.fit_run(tmp_path, overrides=["solver.type=heun", "solver.grid.type=middle"])
    assert told[0] == "heun(grid=middle), 20 steps"
    assert told[1][0].startswith("times: 1, 0.")
    tensors, meta = checkpoint.load(tmp_path / "weights.safetensors")
    assert {k: v for k, v in meta.items() if k != "fits"} == {k: v for k, v in before[1].items() if k != "fits"}
    assert all(torch.equal(tensors[k], v) for k, v in before[0].items())
    assert set(tensors) - set(before[0]) == {"fit:0.times"}
    FITTED.clear()
    pipeline = dc.Pipeline.load(tmp_path, registry=registry, overrides=["solver.type=heun", "solver.grid.type=middle"])
    pipeline.sample(2)
    assert FITTED == []


class Eager(Middle):
    """Runs before it is fitted."""

    def nodes(self, process, steps, start):
        return torch.linspace(start, 0.0, 3).double()


class Fresh(Middle):
    """Finds something else every time."""

    def fit(self, field, x, solver):
        found = super().fit(field, x, solver)
        return {"times": found["times"] + len(FITTED) * torch.tensor([0.0, 1e-3, 0.0])}


class Untensored(Middle):
    """Finds a number."""

    def fit(self, field, x, solver):
        return {"times": 0.5}


class Dear(Middle):
    """Has more times than its stand-in."""

    def fitted(self, found):
        return Known(torch.linspace(1.0, 0.0, 9))


class Never(Middle):
    """Is not ready after the fit."""

    def fitted(self, found):
        return self


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (Middle, ""),
        (Eager, "must refuse to run"),
        (Fresh, "differ"),
        (Untensored, "must be tensors"),
        (Dear, "stand-in"),
        (Never, "need no fit"),
    ],
)
def test_the_kit_judges_fits(cls, told):
    entry = dc.Entry("g", "grid", f"{__name__}:{cls.__name__}", "a grid", "diffcore-x", "1")
    FITTED.clear()
    subject = Subject(dc.Registry(), entry, cls)
    with pytest.raises(AssertionError, match=told) if told else nullcontext():
        fit_check(subject)


def test_what_fits_requires_what_is_provided_or_less():
    euler = dc.Registry.load().get("solver", "euler").requires
    assert "euler" in _fitting(dc.Registry.load(), "solver", euler)
    assert "euler" not in _fitting(dc.Registry.load(), "solver", euler - {"flat"})

"""Every installed process with every prediction, solver and guidance: what fits samples correctly, what does not is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import diffcore as dc
from diffcore.numerics.solver import check_grid
from diffcore.testing import REFERENCES, Gaussian, golden_mixture, instant
from diffcore.testing.base import Subject, refused
from diffcore.testing.driving import exact_field, exact_moments, lam_grid

REGISTRY = dc.Registry.load()
GAUSSIAN, MIXTURE = Gaussian(0.5, 0.8, shape=(1,)), golden_mixture((4,))
LABELS = torch.tensor([0, 1, 2])


@dc.component
class Tokens(dc.Process):
    """Integer states: no coefficients, no velocity, no kernel."""

    predictions = ("probabilities",)
    provides = frozenset({"unmask"})


def installed(kind: str) -> dict[str, Any]:
    """Every installed component of a kind, with each of its variants, by id."""
    made: dict[str, Any] = {}
    for entry in REGISTRY.list(kind):
        cls: Any = REGISTRY.get(kind, entry.full_id)
        for variant in ({}, *getattr(cls, "variants", ())):
            fields = ",".join(f"{k}={v}" for k, v in variant.items())
            made[f"{entry.id}[{fields}]" if variant else entry.id] = Subject(REGISTRY, entry, cls, dict(variant)).component
    return made


PROCESSES = {**{type(p).__name__: p for p in REFERENCES}, **installed("process")}
AFFINE = {name: p for name, p in PROCESSES.items() if "affine" in p.provides}
SOLVERS, GRIDS, GUIDANCE = installed("solver"), installed("grid"), installed("guidance")
PAIRS = [pytest.param(p, s, id=f"{pn}-{sn}") for pn, p in AFFINE.items() for sn, s in SOLVERS.items()]


PLAIN = [pair for pair in PAIRS if "[" not in str(pair.id)]
"""Pairs of components as they are from their defaults: variants have been compared with each other above."""


def fits(part, process):
    return part.requires - {"flow_map"} <= process.provides


def predictions(process):
    return [name for name in process.predictions if not refused(lambda name=name: process.check_prediction(name, 0.5))]


def run(process, solver, prediction, guidance=()):
    data = golden_mixture() if "flow_map" in solver.requires else MIXTURE
    field = exact_field(solver, process, data, prediction)
    field = dc.Field(field.base, guidance, cond={"label": LABELS} if guidance else None, flow_map=field.flow_map)
    x0 = data.sample(3, dc.Draw(1, range(3)))
    x = process.corrupt(x0, torch.full((3,), 0.8 * process.T, dtype=torch.float64), dc.Draw(2, range(3))).xt
    grid = lam_grid(process, 0.8, 0.1, 4)
    return dc.sample(field, solver, x, grid=grid, seed=3).x


@pytest.mark.parametrize(("process", "solver"), PAIRS)
def test_every_pair_samples_a_gaussian(process, solver):
    """Mean and standard deviation at .02 T from .7 T: within 7% after 64 steps, or on the way there (first order) after 128."""
    if not fits(solver, process):
        pytest.skip("refused; see below")
    if reason := solver.expected_failures.get("marginals"):
        pytest.skip(reason)
    coarse = moment_error(process, solver, 64)
    assert coarse < 0.07 or moment_error(process, solver, 128) < min(0.6 * coarse, 0.2)


def moment_error(process, solver, steps):
    """Exactly where steps are linear, else from 16384 samples less 4.5 standard errors; relative to the deviation."""
    at, grid = instant(process, 0.02 * process.T), lam_grid(process, 0.7, 0.02, steps)
    mean, spread = float(at.alpha) * 0.5, float(at.alpha**2 * 0.64 + at.sigma**2) ** 0.5
    found = exact_moments(solver, process, GAUSSIAN, grid) if isinstance(solver, dc.Stepper) else None
    if found is not None:
        return max(abs(found.mean - mean) / spread, abs(found.variance**0.5 / spread - 1))
    wide = Gaussian(0.5, 0.8, shape=(8192,))
    x = process.corrupt(wide.sample(2), torch.full((2,), 0.7 * process.T, dtype=torch.float64), dc.Draw(2, range(2))).xt
    y = dc.sample(exact_field(solver, process, wide), solver, x, grid=grid, seed=3).x
    return max(abs(float(y.mean()) - mean) / spread, abs(float(y.std()) / spread - 1)) - 4.5 / 16384**0.5


@pytest.mark.parametrize(("process", "solver"), PAIRS)
def test_every_prediction_gives_the_same_samples(process, solver):
    """The same noise, the exact network of each accepted prediction: the samples agree to 1e-7."""
    if not fits(solver, process):
        pytest.skip("refused; see below")
    first, *others = (run(process, solver, name) for name in predictions(process))
    assert bool(torch.isfinite(first).all())
    for other in others:
        assert float((other - first).abs().max()) < 1e-7


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize(("process", "solver"), PLAIN)
def test_every_guidance_gives_the_same_for_every_prediction(process, solver, guidance):
    """Guided samples agree over predictions to 1e-6, and where `neutral` is declared they are the plain conditional ones.

    A solver that chooses its steps by the error of the last moves them with the rounding: its samples agree to its tolerance.
    """
    guide = GUIDANCE[guidance]
    if not fits(solver, process) or not guide.requires <= process.provides or "flow_map" in solver.requires:
        pytest.skip("refused; see below")
    names = predictions(process)
    if reason := refused(lambda: run(process, solver, names[0], [guide])):
        pytest.skip(reason)
    first, last = run(process, solver, names[0], [guide]), run(process, solver, names[-1], [guide])
    assert bool(torch.isfinite(first).all())
    exact = not hasattr(solver, "rtol")
    assert float((last - first).abs().max()) < (1e-6 if exact else 1e-3) * (1 + float(first.abs().max()))
    if getattr(type(guide), "neutral", None) is not None:
        entry = REGISTRY.find("guidance", guidance.partition("[")[0])
        plain = Subject(REGISTRY, entry, type(guide)).make(**type(guide).neutral)
        alone = run(process, solver, names[0], [dc.Guidance()])
        assert float((run(process, solver, names[0], [plain]) - alone).abs().max()) < 1e-8


@pytest.mark.parametrize("process", [pytest.param(p, id=n) for n, p in AFFINE.items()])
def test_predictions_without_signal_at_the_end_are_refused_by_name(process):
    """Accepted exactly where x_T and the target determine x_0: alpha q - sigma p differs from 0 at T."""
    c = instant(process, process.T)
    for name in process.predictions:
        p, q = dc.row(name, c)
        determined = float(abs(c.alpha * q - c.sigma * p)) > 1e-8 * float((c.alpha**2 + c.sigma**2) ** 0.5 * (p**2 + q**2) ** 0.5)
        message = refused(lambda name=name: process.check_prediction(name, 0.5))
        assert bool(message) != determined
        assert determined or (f"'{name}'" in message and type(process).__name__ in message and "use prediction" in message)


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_refuse_processes_that_do_not_fit_naming_both(name):
    solver = SOLVERS[name]
    if not solver.requires:
        pytest.skip("requires nothing")
    field = dc.Field(dc.Denoiser(lambda x, t: x, "probabilities", Tokens()))
    with pytest.raises(dc.IncompatibleError) as error:
        dc.sample(field, solver, torch.zeros(2, 3, dtype=torch.int64))
    message = str(error.value)
    assert f"solver {type(solver).__name__} needs" in message
    assert all(f"'{need}'" in message for need in solver.requires)
    assert "process Tokens provides 'unmask'" in message


@pytest.mark.parametrize("name", GUIDANCE)
def test_guidance_refuses_processes_that_do_not_fit_naming_both(name):
    guide = GUIDANCE[name]
    if not guide.requires:
        pytest.skip("requires nothing")
    with pytest.raises(
        dc.IncompatibleError, match=rf"guidance {type(guide).__name__} needs .*; process Tokens provides 'unmask'"
    ):
        dc.Field(dc.Denoiser(lambda x, t: x, "probabilities", Tokens()), [guide])


@pytest.mark.parametrize("process", [pytest.param(p, id=n) for n, p in PROCESSES.items()])
@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_is_valid_on_every_process(name, process):
    """Strictly falling within [0, T] from the start asked for, or refused in words."""
    grid = GRIDS[name]
    if not grid.requires <= process.provides:
        pytest.skip("refused")
    for start in (process.T, 0.5 * process.T):
        message = refused(lambda start=start: grid.nodes(process, 7, start))
        if not message:
            nodes = check_grid(grid.nodes(process, 7, start), process)
            assert len(nodes) == 8
            assert "nodes" in grid.expected_failures or abs(float(nodes[0]) - start) < 1e-9 * start


def test_the_matrix_is_not_empty():
    assert len(PAIRS) >= 3

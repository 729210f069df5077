"""DPM-Solver-v3: its statistics against closed forms, exactness on Gaussian data, its order, what it reduces to, saved runs."""

import math
import re
from pathlib import Path

import pytest
import torch
from diffcore_dpm.curves import Curves, derivative, near
from diffcore_dpm.dpm_solver_v3 import DPMSolverV3
from diffcore_dpm.exp_adams import ExpAdams
from diffcore_dpm.statistics import RIDGE, STEEPEST
from diffcore_dpm.unipc import UniPC
from ruamel.yaml import YAML

import diffcore as dc
from diffcore.testing import Gaussian, Mixture, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

VP, FLOW, VE, GOLDEN = ReferenceVP(), ReferenceFlow(), ReferenceVE(), golden_mixture()
PROCESSES = [VP, FLOW, VE]
X = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]
WAYS = [(points, corrector) for points in (1, 2, 3) for corrector in (False, True)]
MEAN, STD = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), torch.tensor([0.2, 0.6, 1.5], dtype=torch.float64)
GAUSS = Gaussian(MEAN, STD)


def normal(n, size, seed=0, dtype=torch.float64):
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def largest(x, y):
    return float((x - y).abs().max())


def constant(*known):
    lam = torch.linspace(-15, 15, 2, dtype=torch.float64)
    return {"lam": lam, **{k: torch.full((2,), v, dtype=torch.float64) for k, v in zip("lsb", known, strict=True)}}


def gaussian(lam):
    """The statistics of GAUSS: f = -l m whatever x, so s = 0 and b = -l' m."""
    linear = 1 / (1 + STD**2 * torch.exp(2 * lam[:, None]))
    return {"lam": lam, "l": linear, "s": 0 * linear, "b": 2 * linear * (1 - linear) * MEAN}


@pytest.mark.item("9.20", "R8")
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("points", "corrector"), WAYS)
def test_constant_statistics_are_the_two_older_solvers(process, points, corrector):
    """(1, 0, 0): DPM-Solver++, (0, -1, 0): DPM-Solver, with the exact averages; the stand-in is the first."""
    grid = [share * process.T for share in (0.9, 0.7, 0.55, 0.33, 0.2, 0.08)]
    for prediction, known in (("x0", constant(1.0, 0.0, 0.0)), ("eps", constant(0.0, -1.0, 0.0))):
        old = ExpAdams(points=points, corrector=corrector, prediction=prediction)
        new = dc.calibrated(DPMSolverV3(points=points, corrector=corrector), known)
        a, b = (dc.sample(GOLDEN.field(process, "v"), solver, X, grid=grid).x for solver in (old, new))
        assert largest(a, b) < 1e-12
    plain = DPMSolverV3(points=points, corrector=corrector).stand_in()
    a, b = (
        dc.sample(GOLDEN.field(process, "v"), solver, process.T * X, steps=5)
        for solver in (plain, ExpAdams(points=points, corrector=corrector))
    )
    assert largest(a.x, b.x) < 1e-13
    assert a.nfe == b.nfe == 5


@pytest.mark.item("9.20", "R8")
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("points", "corrector"), [(1, False), (2, True), (3, True)])
def test_every_step_is_exact_on_gaussian_data(process, points, corrector):
    """Exact statistics, 1 to 7 steps: from T (alpha = 0 for FLOW) to the middle, and to sigma = 0."""
    solver = dc.calibrated(
        DPMSolverV3(points=points, corrector=corrector), gaussian(torch.linspace(-6, 6, 1501, dtype=torch.float64))
    )
    x, field = process.T * normal(5, 3), GAUSS.field(process, "v")
    for steps in (1, 3, 7):
        for end in (0.0, 0.1 * process.T):
            grid = torch.linspace(process.T, end, steps + 1, dtype=torch.float64)
            got = dc.sample(field, solver, x, grid=grid).x
            assert largest(got, GAUSS.flow(process, x, process.T, end)) < 1e-8, (steps, end)


@pytest.mark.item("9.20")
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_the_calibration_finds_the_statistics_of_gaussian_data(process):
    """A diagonal covariance leaves no statistical error: what is left is interpolation, 96 nodes."""
    x, field, solver = process.T * normal(32, 3), GAUSS.field(process, "v"), DPMSolverV3()
    found = dc.calibrate(solver, field, x)
    exact = gaussian(found["lam"])
    assert largest(found["l"], exact["l"]) < 1e-6
    assert largest(found["s"], exact["s"]) < 1e-4
    assert largest(found["b"], exact["b"]) < 1e-4
    for steps in (1, 3):
        got = dc.sample(field, dc.calibrated(solver, found), x, steps=steps).x
        assert largest(got, GAUSS.flow(process, x, process.T, 0.0)) < 3e-5


def test_the_diagonal_is_found_within_its_statistical_error():
    """Correlated data: J = sigma^2 V^-1, and a probe has the variance sum_(j != i) J_ij^2."""
    data = Gaussian(torch.zeros(2), cov=[[1.0, 0.6], [0.6, 0.5]])
    found = dc.calibrate(DPMSolverV3(calibration_levels=16), data.field(VP), normal(400, 2))
    for lam, diagonal in zip(found["lam"], found["l"], strict=True):
        at = instant(VP, VP.t_of_lam(lam))
        jacobian = at.sigma**2 * torch.linalg.inv(at.alpha**2 * data.cov + at.sigma**2 * torch.eye(2))
        allowed = 4 * float(jacobian[0, 1].abs()) / 20
        assert largest(diagonal, jacobian.diagonal()) < allowed + 1e-8


@pytest.mark.item("9.20")
@pytest.mark.parametrize("process", [VP, VE], ids=lambda p: type(p).__name__)
def test_s_and_b_are_the_regression_along_the_exact_flow(process):
    """At four nodes: least squares of df/dlam (differences on the exact flow) on f, for a mixture."""
    x = process.T * normal(60, 1)
    found = dc.calibrate(DPMSolverV3(calibration_levels=128), GOLDEN.field(process), x)
    l_of, time = Curves(found), process.T
    for k in (28, 56, 84, 112):
        levels, f = float(found["lam"][k]) + torch.tensor([-1e-3, 0.0, 1e-3], dtype=torch.float64), []
        for level, steps in zip(levels, (60, 1, 1), strict=True):
            at = instant(process, process.t_of_lam(level))
            x, time = GOLDEN.flow(process, x, time, float(at.t), steps=steps), float(at.t)
            f.append((GOLDEN.eps(x, at) * at.sigma - (1 - l_of.at(level).rest) * x) / at.alpha)
            g = GOLDEN.eps(x, at) * at.sigma / at.alpha
        line = torch.linalg.lstsq(torch.cat([f[1], torch.ones_like(x)], 1), (f[2] - f[0]) / 2e-3).solution.flatten()
        shrunk = float(line[0] * f[1].var() / (f[1].var() + RIDGE * g.var()))
        assert float(found["s"][k, 0]) == pytest.approx(shrunk, rel=0.01, abs=0.01)
        offset = float(line[1] + (line[0] - shrunk) * f[1].mean())
        assert float(found["b"][k, 0]) == pytest.approx(offset, rel=0.01, abs=0.01)


@pytest.fixture(scope="module")
def mixture_statistics():
    return {process: dc.calibrate(DPMSolverV3(), GOLDEN.field(process), process.T * normal(64, 1)) for process in (VP, FLOW)}


@pytest.mark.item("9.20", "R8")
@pytest.mark.parametrize("process", [VP, FLOW], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("points", "corrector"), WAYS)
def test_the_order_with_statistics_of_the_data(process, points, corrector, mixture_statistics):
    """Global order by regression, uniform in lam from .3 T to .01 T; the first step, of order 1, caps it at 2 (3 corrected)."""
    raw = DPMSolverV3(points=points, corrector=corrector)
    solver, ends = dc.calibrated(raw, mixture_statistics[process]), [0.3 * process.T, 0.01 * process.T]
    x = float(instant(process, ends[0]).alpha) * torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)[:, None]
    low, high = (float(instant(process, t).lam) for t in ends)
    want, found = GOLDEN.flow(process, x, *ends), []
    for steps in (80, 320):
        nodes = process.t_of_lam(torch.linspace(low, high, steps + 1, dtype=torch.float64))
        nodes[0], nodes[-1] = ends
        found.append(largest(dc.sample(GOLDEN.field(process), solver, x, grid=nodes).x, want))
    slope = math.log2(found[0] / found[1]) / 2
    assert raw.order == solver.order
    assert abs(slope - raw.order) < 0.2, found


def test_few_calls_on_a_mixture():
    """The table of the README: the median error is below that of dpmpp-2m (UniP-2) and UniPC-2 at 6, 8 and 10 calls."""
    draw = torch.Generator().manual_seed(1)
    weights = torch.rand(8, generator=draw) + 0.5
    data = Mixture(weights, 0.6 * torch.randn(8, 16, generator=draw), 0.05 + 0.25 * torch.rand(8, 16, generator=draw))
    field, x, levels = data.field(VP, "v"), normal(300, 16, 7), [float(instant(VP, 1.0).lam), 3.0]
    fine = VP.t_of_lam(torch.linspace(levels[0], 9.0, 200, dtype=torch.float64))
    want = dc.sample(field, ExpAdams(points=3, corrector=True, start="singlestep"), x, grid=fine).x
    raw = DPMSolverV3(calibration_levels=64)
    ready = dc.calibrated(raw, dc.calibrate(raw, field, normal(64, 16, 8)))

    def error(solver, calls):
        grid = torch.cat([VP.t_of_lam(torch.linspace(*levels, calls, dtype=torch.float64)), torch.zeros(1, dtype=torch.float64)])
        run = dc.sample(field, solver, x, grid=grid)
        assert run.nfe == calls
        return float((run.x - want).pow(2).mean(1).sqrt().median())

    for calls in (6, 8, 10):
        assert error(ready, calls) < 0.8 * min(error(UniPC(corrector=False), calls), error(UniPC(), calls))


def test_the_polynomials_between_the_nodes():
    """Degree 5 is exact, derivatives too; beyond the nodes Gaussian data go on as they are."""
    nodes = torch.linspace(-1, 2, 9, dtype=torch.float64)
    at = torch.linspace(-1, 2, 50, dtype=torch.float64)
    index, weight = near(nodes, at)
    assert largest((weight * nodes[index] ** 5).sum(0), at**5) < 1e-12
    assert largest(derivative(nodes, nodes**5), 5 * nodes**4) < 1e-11
    lam = torch.linspace(-12, 14, 60, dtype=torch.float64)
    known = Curves(gaussian(torch.linspace(-4, 6, 800, dtype=torch.float64))).at(lam)
    exact = gaussian(lam)
    exact = (STD**2 * torch.exp(2 * lam[:, None])).log()
    assert largest((known.rest / (1 - known.rest)).log()[lam < 8], exact[lam < 8]) < 1e-6


def test_batches_conditions_and_pooling():
    """The same sums in any batches, conditions split with the states; one statistic per time is the pooled one."""
    labels = torch.arange(12) % 3
    data = Mixture([0.5, 0.3, 0.2], [[-1.5, 0.0], [1.0, 1.0], [0.0, 2.0]], [0.3, 0.5, 0.2])
    field, x = data.field(VP, cond={"label": labels}), normal(12, 2)
    whole, parts = (dc.calibrate(DPMSolverV3(calibration_levels=12, calibration_batch=n), field, x) for n in (64, 5))
    assert all(largest(whole[k], parts[k]) < 1e-6 * max(1, float(whole[k].abs().max())) for k in whole)
    assert largest(whole["l"], dc.calibrate(DPMSolverV3(calibration_levels=12), data.field(VP), x)["l"]) > 0.05
    pooled = dc.calibrate(DPMSolverV3(calibration_levels=12, per="time"), field, x)
    assert pooled["s"].shape == (12,)
    assert largest(pooled["l"], whole["l"].mean(1)) < 1e-12


@pytest.mark.parametrize("prediction", ["x0", "velocity"])
def test_states_in_single_precision_give_the_same_samples(prediction):
    """Rounding spoils the statistics where sigma is small, but little depends on them there."""
    x, field, raw, runs = normal(64, 1), GOLDEN.field(VP, prediction), DPMSolverV3(calibration_levels=48), []
    for kind in (torch.float64, torch.float32):
        found = dc.calibrate(raw, field, x.to(kind))
        runs.append(dc.sample(field, dc.calibrated(raw, found), x, steps=8).x)
        assert float(found["s"].abs().max()) <= STEEPEST
    assert largest(*runs) < 2e-3


def test_what_cannot_be_run_says_why():
    with pytest.raises(
        dc.SpecError, match=r"diffcore calibrate RUN, or dc.calibrated\(solver, dc.calibrate\(solver, field, x\)\)"
    ):
        dc.sample(GOLDEN.field(VP), DPMSolverV3(), X)
    with pytest.raises(dc.IncompatibleError, match="one tensor"):
        dc.calibrate(DPMSolverV3(), GOLDEN.field(VP), {"a": X})
    ready = dc.calibrated(DPMSolverV3(), gaussian(torch.linspace(-4, 6, 20, dtype=torch.float64)))
    with pytest.raises(dc.IncompatibleError, match="per: time"):
        ready.plan(VP, torch.linspace(1, 0.1, 4, dtype=torch.float64)[:, None, None].expand(4, 2, 3))


PAGE = (Path(__file__).parents[1] / "README.md").read_text()
SPEC = YAML(typ="safe").load(re.search(r"```yaml\n(data:.*?)```", PAGE, re.S)[1])


def test_the_spec_of_the_readme_runs_and_saved_it_samples_the_same_bits(tmp_path, monkeypatch):
    pipeline = dc.assemble(SPEC)
    pipeline.train()
    first = pipeline.sample(4).x
    pipeline.save(tmp_path)
    assert torch.isfinite(first).all()
    plain = pipeline.sample(4, solver=pipeline.spec.solver.stand_in()).x
    assert largest(first, plain) > 1e-4
    loaded = dc.Pipeline.load(tmp_path)
    monkeypatch.setattr(DPMSolverV3, "calibrate", lambda *_: pytest.fail("it was calibrated again"))
    assert torch.equal(loaded.sample(4).x, first)
    (found,) = loaded.calibrations.values()
    assert len(loaded.spec.solver.why(found)) == 7

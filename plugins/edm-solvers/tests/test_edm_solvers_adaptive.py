"""Adaptive steps: error against tolerance, cost, samples that know nothing of each other, and the ends of a run."""

import itertools
import math
import sys

import pytest
import torch
from diffcore_edm_solvers.adaptive import Adaptive
from diffcore_edm_solvers.control import Tolerance
from diffcore_edm_solvers.ode_library import TorchDiffEq
from diffcore_edm_solvers.tableau import TABLEAUS

import diffcore as dc
from diffcore.testing import FiniteSet, Gaussian, Mixture, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

VP, FLOW, VE, GOLDEN = ReferenceVP(), ReferenceFlow(), ReferenceVE(), golden_mixture()
PROCESSES = [VP, FLOW, VE]
PAIRS = ["bogacki-shampine", "dormand-prince"]


def name(value):
    return type(value).__name__ if isinstance(value, dc.Process) else str(value)


def window(process, start=0.5, end=0.01):
    return [start * process.T, end * process.T]


def starts(process, n=9):
    at = instant(process, 0.5 * process.T)
    return (at.alpha**2 + at.sigma**2) ** 0.5 * torch.linspace(-1.5, 1.7, n, dtype=torch.float64)[:, None]


def run(solver, process, data=GOLDEN, x=None, grid=None, prediction="x0"):
    x = starts(process) if x is None else x
    return dc.sample(data.field(process, prediction), solver, x, grid=grid or window(process), keep_frames=True)


@pytest.mark.item("4.08", "9.23")
@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("method", PAIRS)
def test_the_error_falls_with_the_tolerance_as_the_orders_say(method, process):
    """The error is proportional to the tolerance (slope within .35), the steps to error^(-1 / p) (within .1)."""
    tolerances = [1e-5, 1e-6, 1e-7, 1e-8] if method == "bogacki-shampine" else [1e-6, 1e-7, 1e-8, 1e-9]
    exact, found, steps = GOLDEN.flow(process, starts(process), *window(process)), [], []
    for tolerance in tolerances:
        result = run(Adaptive(method=method, rtol=tolerance, atol=tolerance), process)
        found.append(float((result.x - exact).abs().median()))
        steps.append(float(result.frames[-1].own.accepted.double().mean()))
    assert all(a > b for a, b in itertools.pairwise(found)), found
    decades = math.log10(tolerances[0] / tolerances[-1])
    assert abs(math.log10(found[0] / found[-1]) / decades - 1) < 0.35, found
    assert abs(math.log10(steps[-1] / steps[0]) / math.log10(found[0] / found[-1]) - 1 / TABLEAUS[method].order) < 0.1, steps


@pytest.mark.parametrize("variable", ["t", "sigma", "lam", "angle"])
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_every_variable_reaches_the_exact_flow(process, variable):
    exact = GOLDEN.flow(process, starts(process), *window(process))
    result = run(Adaptive(variable=variable, rtol=1e-7, atol=1e-7), process, prediction="v")
    assert float((result.x - exact).abs().max()) < 1e-5


@pytest.mark.parametrize("method", PAIRS)
def test_the_counts_are_the_evaluations_made(method):
    """2 for the first step, then 3 or 6 per attempt; nfe is their mean, and calls at least their maximum."""
    result = run(Adaptive(method=method, rtol=1e-3, atol=1e-3), VE, x=starts(VE, 33))
    counts, stages = result.frames[-1].own, {"bogacki-shampine": 3, "dormand-prince": 6}[method]
    assert torch.equal(counts.evaluations, 2 + stages * (counts.accepted + counts.rejected))
    assert result.nfe == pytest.approx(float(counts.evaluations.double().mean()))
    assert result.calls >= int(counts.evaluations.max())
    assert int(counts.rejected.sum()) > 0
    assert int(counts.evaluations.max()) > int(counts.evaluations.min())


@pytest.mark.parametrize("method", PAIRS)
def test_a_sample_does_not_depend_on_the_others(method):
    """Among easy and hard ones or alone, the same state, steps and evaluations; conditions follow their samples."""
    solver, x = Adaptive(method=method, rtol=1e-4, atol=1e-4), starts(FLOW, 21)
    whole = run(solver, FLOW, x=x)
    for i in (0, 7, 10):
        alone = run(solver, FLOW, x=x[i : i + 1])
        assert float((alone.x - whole.x[i]).abs().max()) < 1e-12
        for a, b in zip(alone.frames[-1].own, whole.frames[-1].own, strict=True):
            assert int(a) == int(b[i])
    scales = torch.linspace(0.5, 1.5, 21, dtype=torch.float64)

    def net(x, t, scale):
        return GOLDEN.mean(x, FLOW.coeffs(t)) * scale[:, None]

    def field(rows):
        return dc.Field(dc.Denoiser(net, "x0", FLOW), cond={"scale": scales[rows]})

    together = dc.sample(field(slice(None)), solver, x, grid=window(FLOW)).x
    assert float((dc.sample(field([17]), solver, x[[17]], grid=window(FLOW)).x - together[17]).abs().max()) < 1e-12


def test_a_time_grid_per_sample():
    x, solver = starts(FLOW, 3), Adaptive(rtol=1e-6, atol=1e-6)
    grid = torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.4, 0.1], [0.0, 0.1, 0.1]], dtype=torch.float64)
    together = dc.sample(GOLDEN.field(FLOW), solver, x, grid=grid).x
    for i in range(3):
        alone = dc.sample(GOLDEN.field(FLOW), solver, x[i : i + 1], grid=grid[:, i].unique().flip(0)).x
        assert float((together[i] - alone).abs().max()) < 1e-10
    with pytest.raises(dc.SpecError, match="one time per sample"):
        dc.sample(GOLDEN.field(FLOW), solver, x, grid=grid[:, :, None].repeat(1, 1, 1, 1)[0])


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_a_stiff_mixture(process):
    """Components of width .003 beside one of .5: the slope turns within a thousandth of the run; most steps are spent there."""
    data = Mixture([0.5, 0.5], [[-1.0], [1.0]], [0.003, 0.5])
    exact = data.flow(process, starts(process, 7), *window(process, end=0.001))
    result = run(Adaptive(rtol=1e-6, atol=1e-6), process, data, starts(process, 7), window(process, end=0.001))
    counts = result.frames[-1].own
    assert float((result.x - exact).abs().median()) < 1e-4
    assert int(counts.evaluations.max()) > 1.3 * int(counts.evaluations.min())


@pytest.mark.parametrize("variable", ["t", "sigma", "lam", "angle"])
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_from_pure_noise_to_clean_data(process, variable):
    """T to 0: finite, and within a few jump^2 + tolerance of the exact flow of a Gaussian."""
    gauss, x = Gaussian(0.5, 0.4, shape=(1,)), starts(process)
    result = dc.sample(gauss.field(process, "v"), Adaptive(variable=variable, rtol=1e-5, atol=1e-5), x)
    assert float((result.x - gauss.flow(process, x, process.T, 0.0)).abs().max()) < 5e-4
    point = FiniteSet([[0.6]])
    assert float((dc.sample(point.field(process, "v"), Adaptive(variable=variable), x).x - 0.6).abs().max()) < 1e-3


def test_the_last_step_lands_on_the_end_and_frames_are_at_the_times_of_the_grid():
    seen = []
    grid = [0.5, 0.31, 0.0123]
    field = dc.Field(dc.Denoiser(lambda x, t: (seen.append(float(t.min())), GOLDEN.mean(x, VP.coeffs(t)))[1], "x0", VP))
    result = dc.sample(field, Adaptive(), starts(VP), grid=grid, keep_frames=True)
    assert [frame.t for frame in result.frames] == grid
    assert min(seen) == grid[-1]
    assert grid[1] in seen
    exact = GOLDEN.flow(VP, starts(VP), 0.5, 0.31)
    assert float((result.frames[1].x - exact).abs().max()) < 5e-3


@pytest.mark.item("4.09")
def test_there_and_back():
    solver, x = Adaptive(rtol=1e-8, atol=1e-8), starts(FLOW)
    back = run(solver, FLOW, x=run(solver, FLOW, x=x).x, grid=window(FLOW)[::-1]).x
    assert float((back - x).abs().max()) < 1e-4


def test_runs_that_cannot_end_say_so():
    with pytest.raises(dc.NumericsError, match=r"9 of 9 samples have not arrived after max_steps = 3; raise it"):
        run(Adaptive(max_steps=3, rtol=1e-9, atol=1e-9), VP)
    broken = dc.Field(dc.Denoiser(lambda x, t: x * torch.nan, "x0", VP))
    with pytest.raises(dc.NumericsError, match=r"steps that vanish|finite"):
        dc.sample(broken, Adaptive(), starts(VP), grid=window(VP))


def test_trees_float32_and_gradients():
    """Leaves share their steps; the gradient of the end by the start is that of the exact flow."""

    def net(x, t):
        return {
            k: GOLDEN.mean(v.flatten(0)[:, None], FLOW.coeffs(t.repeat_interleave(v[0].numel()))).view_as(v) for k, v in x.items()
        }

    x = {"a": starts(FLOW, 4), "b": starts(FLOW, 8).reshape(4, 2)}
    y = dc.sample(dc.Field(dc.Denoiser(net, "x0", FLOW)), Adaptive(rtol=1e-7, atol=1e-7), x, grid=window(FLOW)).x
    for key in x:
        exact = GOLDEN.flow(FLOW, x[key].reshape(-1, 1), *window(FLOW)).view_as(x[key])
        assert float((y[key] - exact).abs().max()) < 1e-5
    low = run(Adaptive(), VP, x=starts(VP).float())
    assert low.x.dtype == torch.float32
    assert float((low.x - run(Adaptive(), VP).x).abs().max()) < 1e-3
    gauss, start = Gaussian(0.5, 0.4, shape=(1,)), starts(FLOW).requires_grad_()
    (grad,) = torch.autograd.grad(
        dc.sample(gauss.field(FLOW), Adaptive(rtol=1e-7, atol=1e-7), start, grid=window(FLOW)).x.sum(), start
    )
    spread = [(instant(FLOW, t).alpha ** 2 * 0.16 + instant(FLOW, t).sigma ** 2) ** 0.5 for t in window(FLOW)]
    assert float((grad - spread[1] / spread[0]).abs().max()) < 1e-5


def test_the_norm_and_the_controller():
    tolerance = Tolerance(rtol=0.1, atol=1.0, k=5)
    x, e = torch.full((2, 4), 10.0).double(), torch.tensor([[2.0, 2, 2, 2], [0, 0, 0, 4]]).double()
    assert torch.allclose(tolerance.norm(e, x, -x / 2), torch.tensor([1.0, 1.0]).double())
    assert torch.allclose(tolerance.norm({"a": e, "b": 0 * e}, {"a": x, "b": x}), torch.tensor([0.5**0.5] * 2).double())
    assert float(tolerance.norm(e * torch.nan, x)[0]) == torch.inf
    one = torch.ones(3).double()
    factors = tolerance.factor(torch.tensor([1.0, 0.1, 32.0]).double(), one, torch.tensor([True, True, False]))
    assert torch.allclose(factors, torch.tensor([0.9, 0.9 * 10**0.14, 0.45]).double())


# --- torchdiffeq ------------------------------------------------------------------------------------------------------


LIBRARY = [(m, "t") for m in ("dopri5", "dopri8", "bosh3", "adaptive_heun", "fehlberg2")]


@pytest.mark.item("4.08", "9.23")
@pytest.mark.parametrize(("method", "variable"), [*LIBRARY, ("dopri5", "sigma"), ("dopri5", "lam"), ("dopri5", "angle")])
def test_torchdiffeq_reaches_the_exact_flow(method, variable):
    pytest.importorskip("torchdiffeq")
    gauss, tolerance = Gaussian(0.5, 0.4, shape=(1,)), 1e-5 if method == "adaptive_heun" else 1e-6
    for process in PROCESSES:
        x = starts(process)
        solver = TorchDiffEq(method=method, variable=variable, rtol=tolerance, atol=tolerance)
        result = dc.sample(gauss.field(process, "v"), solver, x, grid=window(process))
        assert float((result.x - gauss.flow(process, x, *window(process))).abs().max()) < 300 * tolerance
        assert result.nfe == result.calls > 5


def test_torchdiffeq_from_noise_to_data_in_trees_and_float32():
    pytest.importorskip("torchdiffeq")
    x = starts(VP).float()
    y = dc.sample(GOLDEN.field(VP), TorchDiffEq(), {"a": x}["a"]).x
    assert y.dtype == torch.float32
    assert float((y - dc.sample(GOLDEN.field(VP), Adaptive(rtol=1e-7, atol=1e-7), x.double()).x).abs().median()) < 1e-3
    field = dc.Field(dc.Denoiser(lambda x, t: {k: GOLDEN.mean(v, FLOW.coeffs(t)) for k, v in x.items()}, "x0", FLOW))
    tree = dc.sample(field, TorchDiffEq(), {"b": starts(FLOW), "a": -starts(FLOW)}, grid=window(FLOW)).x
    for key, start in (("b", starts(FLOW)), ("a", -starts(FLOW))):
        assert float((tree[key] - GOLDEN.flow(FLOW, start, *window(FLOW))).abs().median()) < 1e-3


def test_torchdiffeq_absent_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(dc.IncompatibleError, match=r"run: pip install 'diffcore-edm-solvers\[torchdiffeq\]'"):
        run(TorchDiffEq(), VP)


def test_torchdiffeq_refuses_a_grid_per_sample():
    pytest.importorskip("torchdiffeq")
    with pytest.raises(dc.SpecError, match="one grid for all"):
        dc.sample(GOLDEN.field(FLOW), TorchDiffEq(), starts(FLOW, 2), grid=torch.tensor([[0.5, 0.4], [0.1, 0.1]]).double())

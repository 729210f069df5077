"""Equalities with other solvers and with formulas written out, the ends of a run, churn, and states and grids of every kind."""

import itertools
import math
import re
from pathlib import Path

import mpmath
import pytest
import torch
from diffcore_edm_solvers.edm_stochastic import EDMStochastic
from diffcore_edm_solvers.exp_runge_kutta import ExpRungeKutta
from diffcore_edm_solvers.runge_kutta import RungeKutta
from diffcore_edm_solvers.tableau import TABLEAUS
from ruamel.yaml import YAML

import diffcore as dc
from diffcore.numerics.span import phi
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

VP, FLOW, VE, GOLDEN = ReferenceVP(), ReferenceFlow(), ReferenceVE(), golden_mixture()
PROCESSES = [VP, FLOW, VE]
X = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]
INNER = [0.7, 0.45, 0.3, 0.12, 0.05]
TO_DATA = [1.0, 0.7, 0.3, 0.05, 0.0]


@pytest.fixture(scope="module")
def registry():
    return dc.Registry.load()


def name(value):
    return type(value).__name__


def run(solver, process, grid, prediction="x0", **kwargs):
    times = [v * process.T for v in grid]
    return dc.sample(GOLDEN.field(process, prediction), solver, X, grid=times, **kwargs)


def equal(a, b, grid, process, tolerance=1e-11, **kwargs):
    return float((run(a, process, grid, **kwargs).x - run(b, process, grid, **kwargs).x).abs().max()) < tolerance


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_special_cases_are_the_solvers_of_that_name(process, registry):
    """euler, heun, rk4 in t, where no step is at an end; euler in sigma is DDIM, heun in sigma EDM's, to the data too."""
    make = registry.make
    assert equal(RungeKutta(method="euler", variable="t"), make("solver", "euler"), INNER, process)
    assert equal(RungeKutta(method="heun", variable="t"), make("solver", "heun"), INNER, process)
    assert equal(RungeKutta(method="rk4", variable="t"), make("solver", "rk4"), INNER, process)
    assert equal(RungeKutta(method="euler", variable="sigma"), make("solver", "ddim"), TO_DATA, process)
    assert equal(RungeKutta(method="heun", variable="sigma"), make("solver", "edm-heun"), TO_DATA, process)


def test_in_edm_time_and_sigma_are_one_variable():
    for method in TABLEAUS:
        assert equal(RungeKutta(method=method, variable="t"), RungeKutta(method=method, variable="sigma"), INNER, VE)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_exponential_methods_of_other_names(process, registry):
    """third with eps is DPM-Solver-3. DPM++ 2S is the exponential midpoint rule with b_2 = phi_1: shown by that formula."""
    assert equal(ExpRungeKutta(method="third", prediction="eps"), registry.make("solver", "dpm-solver-3"), INNER, process)
    t, s = (instant(process, v * process.T) for v in (0.3, 0.12))
    u = instant(process, float(process.t_of_lam((t.lam + s.lam) / 2)))
    d, h = GOLDEN.denoiser(process), float(s.lam - t.lam)
    k1 = d(X, t).mean
    y = u.sigma / t.sigma * X + u.alpha * h / 2 * float(phi(1, torch.tensor(-h / 2, dtype=torch.float64))) * k1
    weak = s.sigma / t.sigma * X + s.alpha * h * float(phi(1, torch.tensor(-h, dtype=torch.float64))) * d(y, u).mean
    found = run(registry.make("solver", "dpmpp-2s"), process, [0.3, 0.12]).x
    assert float((found - weak).abs().max()) < 1e-11
    strict = run(ExpRungeKutta(method="midpoint"), process, [0.3, 0.12]).x
    assert float((strict - weak).abs().max()) > 1e-4


def test_the_two_midpoint_rules_differ_by_h_cubed(registry):
    """b_2 = 2 phi_2 or phi_1: 2 phi_2(-h) - phi_1(-h) = h / 6 + ..., times h times a change of x* of order h."""
    gaps = []
    low = float(instant(VP, 0.3).lam)
    for h in (0.08, 0.04, 0.02):
        grid = [0.3, float(VP.t_of_lam(torch.tensor(low + h, dtype=torch.float64)))]
        gaps.append(
            float(
                (run(ExpRungeKutta(method="midpoint"), VP, grid).x - run(registry.make("solver", "dpmpp-2s"), VP, grid).x)
                .abs()
                .max()
            )
        )
    assert abs(math.log2(gaps[0] / gaps[1]) - 3) < 0.1
    assert abs(math.log2(gaps[1] / gaps[2]) - 3) < 0.1


@pytest.mark.item("9.14", "R7")
@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("prediction", ["x0", "eps"])
def test_the_step_of_exponential_heun_written_out(process, prediction):
    """Monograph 9.14 in both forms: y from the first slope, then c_1 = phi_1 and c_2 = phi_2 of it and the difference."""
    t, s = (instant(process, v * process.T) for v in (0.3, 0.2))
    h, d = float(s.lam - t.lam), GOLDEN.denoiser(process)
    z = -h if prediction == "x0" else h
    first, second = math.expm1(z) / z, (math.expm1(z) - z) / z**2
    keep, size, sign = (s.sigma / t.sigma, s.alpha, 1) if prediction == "x0" else (s.alpha / t.alpha, s.sigma, -1)
    k1 = d(X, t).read(prediction)
    y = keep * X + sign * size * h * first * k1
    want = y + sign * size * h * second * (d(y, s).read(prediction) - k1)
    assert float((run(ExpRungeKutta(prediction=prediction), process, [0.3, 0.2]).x - want).abs().max()) < 1e-12


@pytest.mark.item("9.12")
def test_phi_against_many_digits():
    mpmath.mp.dps = 120
    for k in (1, 2, 3, 4):
        for z in [sign * v for sign in (1, -1) for v in (1e-12, 1e-8, 1e-3, 0.3, 1.49, 1.51, 2.0, 8.0, 20.0, 40.0)]:
            want = (mpmath.exp(z) - sum(mpmath.mpf(z) ** j / mpmath.factorial(j) for j in range(k))) / mpmath.mpf(z) ** k
            assert abs(float(phi(k, torch.tensor(z, dtype=torch.float64)) / float(want)) - 1) < 1e-12, (k, z)


ALL = [RungeKutta(method=m, variable=v) for m in TABLEAUS for v in ("t", "sigma", "lam", "angle")]
ALL += [ExpRungeKutta(method=m, prediction=p) for m in ("midpoint", "heun", "third", "krogstad") for p in ("x0", "eps")]


@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("solver", ALL, ids=repr)
def test_the_step_to_clean_data_is_the_posterior_mean_where_a_slope_would_be_infinite(solver, process):
    """Finite with every prediction; all but open methods in sigma and angle return E[x_0 | x_t] itself, in one evaluation."""
    for prediction in ("x0", "v", "edm"):
        result = run(solver, process, [0.02, 0.0], prediction)
        assert bool(result.x.isfinite().all())
        if result.nfe == 1 and solver != RungeKutta(method="euler", variable="angle"):
            mean = GOLDEN.mean(X, instant(process, 0.02 * process.T))
            assert float((result.x - mean).abs().max()) < 1e-9
    inside = isinstance(solver, RungeKutta) and solver.variable in ("sigma", "angle") and solver.tableau.c[-1] < 1
    assert result.nfe == (len(solver.shares()) if inside else 1)


@pytest.mark.parametrize("solver", ALL, ids=repr)
def test_from_pure_noise_to_clean_data(solver):
    """alpha = 0 to sigma = 0 on the straight path: the error falls with the steps, nothing is infinite."""
    gauss = Gaussian(0.5, 0.4, shape=(1,))
    exact, field = gauss.flow(FLOW, X, 1.0, 0.0), gauss.field(FLOW, "velocity")
    grids = (torch.linspace(1, 0, n + 1, dtype=torch.float64) for n in (10, 40))
    found = [float((dc.sample(field, solver, X, grid=grid).x - exact).abs().max()) for grid in grids]
    assert found[1] < max(found[0] / 3, 1e-5), found


# --- churn ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_heun_with_churn_is_the_sampler_of_edm(process, registry):
    fields = {"s_churn": 3.0, "s_min": 0.1, "s_max": 5.0, "s_noise": 1.01}
    ours, other = EDMStochastic(**fields), registry.make("solver", "edm-heun", **fields)
    assert equal(ours, other, TO_DATA, process, seed=5)
    assert not equal(ours, EDMStochastic(**{**fields, "s_churn": 0.0}), TO_DATA, process, 1e-3, seed=5)


@pytest.mark.item("9.15", "R10")
@pytest.mark.parametrize("method", ["euler", "heun", "midpoint"])
def test_a_step_of_the_published_algorithm(method):
    """R10 by hand, in sigma: gamma = min(S_churn / N, sqrt 2 - 1) within [S_min, S_max], capped, and 0 outside."""
    for churn, s_min, gamma in ((0.5, 0.0, 0.25), (9.0, 0.0, 2**0.5 - 1), (0.5, 5.0, 0.0), (0.5, 3.0, 0.25)):
        solver = EDMStochastic(method=method, s_churn=churn, s_min=s_min, s_noise=1.003)
        grid, field = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64), GOLDEN.field(VE)
        plan = solver.plan(VE, grid)
        z = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
        found = solver.step(field, X, plan.rows(field, X)[0], None, z).x
        hat = 3.0 * (1 + gamma)
        x = X + (hat**2 - 9) ** 0.5 * 1.003 * z

        def d(x, sigma):
            return (x - GOLDEN.mean(x, instant(VE, sigma))) / sigma

        k, h = d(x, hat), 1.0 - hat
        if method == "heun":
            k = (k + d(x + h * k, 1.0)) / 2
        elif method == "midpoint":
            k = d(x + h / 2 * k, hat + h / 2)
        assert float((found - (x + h * k)).abs().max()) < 1e-12
        assert float((plan.noise[0] > 0) == (gamma > 0))


def test_churn_does_not_depend_on_the_schedule():
    """The straight path's samples, x / alpha at equal sigma / alpha, are those of EDM's process with the same noise."""
    rho = torch.tensor([4.0, 2.0, 0.7, 0.2], dtype=torch.float64)
    x, flow = X * 4, FLOW.coeffs(rho / (1 + rho))
    for method in ("euler", "heun", "midpoint"):
        solver = EDMStochastic(method=method, s_churn=1.0)
        edm = dc.sample(GOLDEN.field(VE), solver, x, grid=rho, seed=2).x
        straight = dc.sample(GOLDEN.field(FLOW), solver, flow.alpha[0] * x, grid=flow.t, seed=2).x
        assert float((straight / flow.alpha[-1] - edm).abs().max()) < 1e-10


def test_the_moments_of_many_churned_samples():
    """Gaussian data, 200 steps, 40000 samples: mean and variance of N(.5, .8^2) at sigma = .05 within 4.5 standard errors."""
    data, n = Gaussian(0.5, 0.8, shape=(40000,)), 40000
    grid = torch.linspace(8 ** (1 / 3), 0.05 ** (1 / 3), 201, dtype=torch.float64) ** 3
    x = 8.0 * dc.Draw(1, range(1)).normal((n,)).double() + 0.5 + 0.8 * dc.Draw(2, range(1)).normal((n,)).double()
    for method in ("heun", "midpoint"):
        y = dc.sample(data.field(VE), EDMStochastic(method=method, s_churn=20.0), x, grid=grid, seed=3).x
        assert abs(float(y.mean()) - 0.5) < 4.5 * 0.8 / n**0.5
        assert abs(float(y.var()) / (0.64 + 0.0025) - 1) < 4.5 * (2 / n) ** 0.5


# --- states, grids, refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver", [RungeKutta(method="rk4", variable=v) for v in ("t", "sigma", "lam", "angle")] + [ExpRungeKutta()], ids=repr
)
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_there_and_back(solver, process):
    """Falling, then rising over the same times: the start again, with an error of the order of the steps."""
    down = torch.linspace(0.5, 0.1, 81, dtype=torch.float64) * process.T
    field = GOLDEN.field(process)
    there = dc.sample(field, solver, X, grid=down).x
    back = dc.sample(field, solver, there, grid=down.flip(0)).x
    assert float((back - X).abs().max()) < (1e-5 if solver.order == 4 else 3e-2)
    assert float((there - X).abs().max()) > 0.1


@pytest.mark.parametrize(
    "solver", [RungeKutta(method="rk4", variable=v) for v in ("t", "sigma", "lam", "angle")] + [ExpRungeKutta()], ids=repr
)
def test_known_pixels_are_shown_to_the_network_as_they_are(solver):
    """Entries at rest at clean data reach a network that mixes entries unchanged and finite, at every stage."""
    seen = []

    def net(x, t):
        seen.append(x[:, :2].clone())
        return 0.5 * x.mean(1, keepdim=True).expand_as(x)

    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4)
    for prediction in ("x0", "v", "eps"):
        for process in PROCESSES if prediction != "eps" else (VP, VE):
            grid = torch.linspace(0.8, 0.1, 4, dtype=torch.float64)[:, None, None].repeat(1, 2, 4) * process.T
            grid[:, :, :2] = 0.0
            field = dc.Field(dc.Denoiser(net, prediction, process))
            y = dc.sample(field, solver, x, grid=grid).x
            assert bool(y.isfinite().all())
            assert torch.equal(y[:, :2], x[:, :2])
            assert all(torch.allclose(v, x[:, :2], atol=1e-12) for v in seen)


def test_refusals():
    @dc.component
    class Shifted(ReferenceFlow):
        def coeffs(self, t):
            return super().coeffs(t)._replace(shift=t, dshift=torch.ones_like(t))

    with pytest.raises(dc.IncompatibleError, match="shifts the mean"):
        RungeKutta().plan(Shifted(), torch.tensor([0.5, 0.2]).double())
    with pytest.raises(dc.SpecError, match="cannot start at sigma = 0"):
        run(RungeKutta(variable="t"), FLOW, [0.0, 0.5])
    with pytest.raises(dc.SpecError, match="must fall strictly"):
        run(EDMStochastic(), FLOW, [0.1, 0.5])


def test_the_examples_of_the_readme(registry):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        solver = registry.make("solver", dict(YAML(typ="safe").load(block)["solver"]))
        x = dc.sample(GOLDEN.field(VP), solver, VP.prior((1,), dc.Draw(0, range(3))).double()).x
        assert bool(x.isfinite().all())


@dc.component
class Turning(dc.AffineProcess):
    """alpha = cos t, sigma = sin t: the time is the angle, and v is the velocity."""

    @property
    def T(self):
        return math.pi / 2

    def coeffs(self, t):
        return dc.Coeffs(t, t.cos(), t.sin(), -t.sin(), t.cos())

    def t_of_lam(self, lam):
        return (-lam).exp().atan()


@pytest.mark.parametrize("method", TABLEAUS)
def test_where_time_is_the_angle_both_variables_are_one(method):
    """On the circle t = phi and r = 1."""
    assert equal(RungeKutta(method=method, variable="angle"), RungeKutta(method=method, variable="t"), INNER, Turning())


def test_the_angle_has_an_inside_at_both_ends():
    """Midpoint from pure noise to clean data: second order over the whole run, on Gaussian data."""
    data, x = Gaussian(0.4, 0.7), torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    exact, found = 0.4 + 0.7 * x, []
    for n in (20, 40, 80):
        nodes = Turning().t_of_lam(-torch.linspace(math.pi / 2, 0, n + 1, dtype=torch.float64)[1:-1].tan().log())
        grid = torch.cat([nodes.new_tensor([math.pi / 2]), nodes, nodes.new_tensor([0.0])])
        result = dc.sample(data.field(Turning()), RungeKutta(method="midpoint", variable="angle"), x, grid=grid)
        assert result.nfe == 2 * n
        found.append(float((result.x - exact).abs().max()))
    assert [math.log2(a / b) for a, b in itertools.pairwise(found)] == pytest.approx([2, 2], abs=0.1)

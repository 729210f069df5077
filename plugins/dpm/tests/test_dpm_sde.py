"""The SDE solvers on Gaussian data, where a run is a linear map of its start and its noise: exact moments, no sampling."""

import math

import pytest
import torch
from diffcore_dpm.dpmpp_2m_sde import DPMpp2MSDE
from diffcore_dpm.dpmpp_3m_sde import DPMpp3MSDE
from diffcore_dpm.dpmpp_sde import DPMppSDE

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

VP, FLOW, VE = ReferenceVP(), ReferenceFlow(), ReferenceVE()
PROCESSES = [VP, FLOW, VE]
SOLVERS = [DPMpp2MSDE(), DPMpp2MSDE(variant="heun"), DPMpp3MSDE(), DPMppSDE(), DPMppSDE(eta=0.6), DPMpp2MSDE(eta=2.0)]
MEAN, STD = 0.5, 0.4
GAUSS = Gaussian(MEAN, STD, shape=(1,))


def lam_grid(process, start, end, steps):
    low, high = (float(instant(process, v * process.T).lam) for v in (start, end))
    nodes = process.t_of_lam(torch.linspace(low, high, steps + 1, dtype=torch.float64))
    nodes[0], nodes[-1] = start * process.T, end * process.T
    return nodes


def pair(solver, process, x):
    """How many noises a step takes."""
    z = solver.draws(process, x, dc.Draw(0, range(1)).at(1))
    return len(z) if isinstance(z, tuple) else 0


def moments(solver, process, nodes):
    """Mean and variance of the samples: entry j of the state carries a unit impulse on input j alone."""
    count = pair(solver, process, torch.zeros(1, 1))
    each, steps = max(count, 1), len(nodes) - 1
    width = 2 + each * steps
    inputs = torch.cat([torch.zeros(1, width - 1), torch.eye(width - 1)]).double()  # [nothing, start, noises] x inputs
    plan, x = solver.plan(process, nodes), inputs[:, 0][None].clone()
    field, carry = Gaussian(MEAN, STD, shape=(width,)).field(process), solver.init(x)
    for i, row in enumerate(plan.rows(field, x)):
        z = tuple(inputs[:, 1 + each * i + k][None].clone() for k in range(each))
        x, carry = solver.step(field, x, row, carry, z if count else z[0])[:2]
    rest, weights = x[0, 0], x[0, 1:] - x[0, 0]
    at = instant(process, float(nodes[0]))
    spread = float(at.alpha) ** 2 * STD**2 + float(at.sigma) ** 2
    return float(rest + weights[0] * at.alpha * MEAN), float(weights[0] ** 2 * spread + (weights[1:] ** 2).sum())


def exact(process, t):
    at = instant(process, t)
    return float(at.alpha) * MEAN, float(at.alpha) ** 2 * STD**2 + float(at.sigma) ** 2


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_weak_order_two_on_gaussian_data(process, solver):
    """The variance by regression over 40, 80, 160 steps; the mean is exact, for it lies on the path where m is constant."""
    counts, errors = [40, 80, 160], []
    for n in counts:
        nodes = lam_grid(process, 0.6, 0.05, n)
        (m, v), (mean, variance) = moments(solver, process, nodes), exact(process, float(nodes[-1]))
        assert abs(m - mean) < 1e-13
        errors.append(abs(v / variance - 1))
    assert errors[-1] < 2e-3
    assert math.log(errors[0] / errors[-1]) / math.log(4) > 1.85, errors


def test_the_two_noises_of_a_midpoint_step_share_one_path():
    """The noise of x_s is that of y, decayed, and a fresh second half: together the variance of the whole step."""
    nodes, solver = lam_grid(VP, 0.6, 0.05, 1), DPMppSDE()
    e = {k: float(v[0]) for k, v in solver.plan(VP, nodes).entries.items() if isinstance(v, torch.Tensor)}
    h = float(instant(VP, 0.05).lam - instant(VP, 0.6).lam)
    sigma = float(instant(VP, 0.05).sigma)
    assert e["first"] ** 2 + e["second"] ** 2 == pytest.approx(sigma**2 * -math.expm1(-2 * h), rel=1e-12)
    assert e["first"] == pytest.approx(sigma * math.exp(-h / 2) * math.sqrt(-math.expm1(-h)), rel=1e-12)
    assert e["noise"] == pytest.approx(math.hypot(e["first"], e["second"]), rel=1e-12)


@pytest.mark.parametrize("eta", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_one_step_keeps_the_marginal_of_a_known_point(process, eta):
    """x_t = alpha_t x_0 + sigma_t eps and x* = x_0 give alpha_s x_0 and variance sigma_s^2, for every noise rate."""
    nodes = torch.linspace(0.9, 0.0, 7, dtype=torch.float64) * process.T
    t, s = process.pairs(nodes)
    for solver in (DPMpp2MSDE(eta=eta), DPMpp3MSDE(eta=eta), DPMppSDE(eta=eta)):
        e = solver.plan(process, nodes).entries
        total = e["gain"] + sum(e[k] for k in ("w1", "w2", "w_u") if k in e)
        assert torch.allclose(e["keep"] * t.alpha + total, s.alpha, rtol=1e-12, atol=1e-14)
        assert torch.allclose(e["keep"] ** 2 * t.sigma**2 + e["noise"] ** 2, s.sigma**2, rtol=1e-12, atol=1e-14)
        assert float(e["noise"][-1]) == 0


def test_the_first_step_of_2m_sde_is_the_published_one():
    """exp(-eta h) sigma_s / sigma_t, alpha_s (1 - e^(-(1 + eta) h)), sigma_s sqrt(1 - e^(-2 eta h))."""
    field, x = golden_mixture().field(VE), torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    t, s, eta = 2.0, 0.7, 0.8
    h = math.log(t / s)
    z = dc.Draw(3, range(5)).at(1).normal_like(x)
    m = golden_mixture().mean(x, instant(VE, t))
    want = s / t * math.exp(-eta * h) * x - math.expm1(-h - eta * h) * m + s * math.sqrt(-math.expm1(-2 * eta * h)) * z
    for solver in (DPMpp2MSDE(eta=eta), DPMpp3MSDE(eta=eta)):
        assert float((dc.sample(field, solver, x, grid=[t, s], seed=3).x - want).abs().max()) < 1e-12


def test_the_midpoint_sde_step_is_the_published_one():
    """Two evaluations of the mixture, on one Brownian path, written out under VE."""
    mixture, x = golden_mixture(), torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    t, s = 2.0, 0.5
    u = 1.0
    draw = dc.Draw(7, range(5)).at(1)
    one, two = (draw.fold(k).normal_like(x) for k in (1, 2))
    b = math.sqrt(1 - (u / t) ** 2)
    y = (u / t) ** 2 * x + (1 - (u / t) ** 2) * mixture.mean(x, instant(VE, t)) + u * b * one
    want = (s / t) ** 2 * x + (1 - (s / t) ** 2) * mixture.mean(y, instant(VE, u))
    want = want + s * (s / u * b * one + math.sqrt(1 - (s / u) ** 2) * two)
    got = dc.sample(mixture.field(VE), DPMppSDE(), x, grid=[t, s], seed=7).x
    assert float((got - want).abs().max()) < 1e-12


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_samples_of_a_mixture_have_its_moments(solver):
    """4000 samples in 60 steps to t = 0; within 4 standard errors of the exact mean and variance, plus .02 of bias."""
    mixture = golden_mixture()
    x = VP.prior((1,), dc.Draw(1, range(4000))).double()
    low, high = -5.0, 4.0
    nodes = torch.cat([VP.t_of_lam(torch.linspace(low, high, 60, dtype=torch.float64)), torch.zeros(1, dtype=torch.float64)])
    nodes[0] = 1.0
    got = dc.sample(mixture.field(VP, "v"), solver, x, grid=nodes, seed=2).x[:, 0]
    mean, variance = (float(v) for v in mixture.average())
    assert abs(float(got.mean()) - mean) < 4 * math.sqrt(variance / 4000) + 0.02
    assert abs(float(got.var()) / variance - 1) < 4 * math.sqrt(2 / 4000) + 0.02


def test_noise_belongs_to_the_sample_and_calls_are_counted():
    field, x = golden_mixture().field(VP), torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None]
    whole = dc.sample(field, DPMppSDE(), x, steps=5, seed=9)
    part = dc.sample(field, DPMppSDE(), x[4:], steps=5, seed=9, ids=[4, 5]).x
    assert float((whole.x[4:] - part).abs().max()) < 1e-13
    plan = DPMppSDE().plan(VP, whole.grid)
    assert whole.nfe == sum(map(len, plan.asks)) == 9


def test_the_midpoint_sde_step_carries_trees_and_tensor_rows():
    """A dict as state keeps its shapes, and rows of tensors give the samples of rows of floats."""
    solver, state = DPMppSDE(), {"a": torch.ones(2, 3).double(), "b": torch.zeros(2, 2).double()}
    field = dc.Field(dc.Denoiser(lambda x, t: dc.tree_map(lambda v: 0.3 * v, x), "x0", VP))
    got = dc.sample(field, solver, state, steps=4, seed=1).x
    assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in state.items()}
    nodes, x = torch.linspace(1, 0, 5, dtype=torch.float64), torch.ones(2, 3).double()
    plan, ends = solver.plan(VP, nodes), []
    for tensors in (False, True):
        y, draw = x, dc.Draw(4, range(2))
        for i, row in enumerate(plan.rows(field, x, tensors=tensors)):
            z = solver.draws(VP, x, draw.at(i + 1))
            y = solver.step(field, y, row, None, z).x
        ends.append(y)
    assert float((ends[0] - ends[1]).abs().max()) < 1e-12

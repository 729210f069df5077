"""Formulas recomputed here from the publications, equalities between methods, and exact recursions on Gaussian data."""

import itertools
import math

import pytest
import torch
from diffcore_solvers.ancestral import Ancestral
from diffcore_solvers.ddim import DDIM
from diffcore_solvers.dpmpp import DPMpp2M
from diffcore_solvers.edm import EDMHeun
from diffcore_solvers.euler import Euler
from diffcore_solvers.euler_maruyama import EulerMaruyama
from diffcore_solvers.heun import Heun
from diffcore_solvers.rk4 import RK4

import diffcore as dc
from diffcore.testing import FiniteSet, Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

VP, VE, FLOW, GOLDEN = ReferenceVP(), ReferenceVE(), ReferenceFlow(), golden_mixture()
X = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]
ALL = [Euler(), Heun(), RK4(), DDIM(), DDIM(eta=0.7), EDMHeun(), EDMHeun(s_churn=5.0), DPMpp2M(), EulerMaruyama(), Ancestral()]


@dc.component
class Trig(dc.AffineProcess):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2)."""

    def coeffs(self, t):
        q = math.pi / 2
        return dc.Coeffs(t, torch.cos(q * t), torch.sin(q * t), -q * torch.sin(q * t), q * torch.cos(q * t))


def grid(*times):
    return torch.tensor(times, dtype=torch.float64)


def numbers(process, *times):
    """alpha and sigma as floats, one pair per time."""
    return [(float(c.alpha), float(c.sigma)) for c in (instant(process, t) for t in times)]


def moments(process, x, t):
    """E[x_0|x_t] and E[eps|x_t] of the golden mixture."""
    return GOLDEN.moments(x, instant(process, t))


SIGNAL_AT_T = [(p, name) for p in (VP, VE) for name in ("eps", "score")]
READABLE = [(p, name) for p in (VP, FLOW, VE, Trig()) for name in ("x0", "v", "velocity", "edm")] + SIGNAL_AT_T


@pytest.mark.item("9.03")
@pytest.mark.parametrize(("process", "prediction"), READABLE, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_ddim_agrees_with_its_four_published_forms(process, prediction):
    t, s = 0.6, 0.35
    (at, st), (as_, ss) = numbers(process, t, s)
    x0, eps = moments(process, X, t)
    score, h = -eps / st, math.log(as_ / ss) - math.log(at / st)
    forms = [
        as_ / at * X - ss * math.expm1(h) * eps,
        ss / st * X - as_ * math.expm1(-h) * x0,
        as_ / at * X + st * ss * math.expm1(h) * score,
        as_ * x0 + ss * eps,
    ]
    got = dc.sample(GOLDEN.field(process, prediction), DDIM(), X, grid=grid(t, s)).x
    for form in forms:
        assert float((got - form).abs().max()) < 1e-12


@pytest.mark.item("9.06", "R1")
def test_ddim_variance_at_the_published_levels():
    """alpha .6 -> .9 under VP: eta = 1 has variance .16493; with t and s exchanged it would be -1.25."""
    times = VP.t_of_lam(torch.tensor([math.log(a / math.sqrt(1 - a * a)) for a in (0.6, 0.9)], dtype=torch.float64))
    plan = DDIM(eta=1.0).plan(VP, times)
    assert abs(float(plan.noise[0]) ** 2 - 0.16493) < 1e-5
    assert abs(float(plan.noise[0]) ** 2 - 0.19 * (1 - (0.36 * 0.19) / (0.81 * 0.64))) < 1e-12


@pytest.mark.item("9.06", "R1")
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("process", [VP, FLOW, VE], ids=lambda p: type(p).__name__)
def test_ddim_keeps_the_marginals_for_every_eta(process, eta):
    """x_t = alpha_t x_0 + sigma_t eps and the exact x_0 give alpha_s x_0 and variance sigma_s^2."""
    times = torch.linspace(process.T, 0.0, 9, dtype=torch.float64)
    plan, (t, s) = DDIM(eta=eta).plan(process, times), process.pairs(times)
    keep, gain, c = plan.entries["keep"], plan.entries["gain"], plan.noise
    assert torch.allclose(keep**2 * t.sigma**2 + c**2, s.sigma**2, atol=1e-15, rtol=1e-14)
    assert torch.allclose(keep * t.alpha + gain, s.alpha, atol=1e-15, rtol=1e-14)
    assert bool((c >= 0).all())
    assert bool((c <= s.sigma).all())
    assert float(c[-1]) == 0


@pytest.mark.item("9.06", "R1")
@pytest.mark.parametrize("process", [VP, FLOW, VE], ids=lambda p: type(p).__name__)
def test_ddim_with_eta_one_is_ancestral_sampling(process):
    field = GOLDEN.field(process)
    one, other = (dc.sample(field, s, process.T * X, steps=12, seed=3).x for s in (DDIM(eta=1.0), Ancestral()))
    assert float((one - other).abs().max()) < 1e-12


@pytest.mark.item("2.09", "4.16", "2.15", "4.18")
def test_ancestral_is_the_ddpm_posterior():
    """beta_i, abar_i of a DDPM chain read off the process, mean and variance of Ho et al. 2020, equation 7."""
    t, s = 0.5, 0.46
    (at, _), (as_, _) = numbers(VP, t, s)
    abar, abar_prev = at**2, as_**2
    beta = 1 - abar / abar_prev
    mean_x0 = math.sqrt(abar_prev) * beta / (1 - abar)
    mean_x = math.sqrt(1 - beta) * (1 - abar_prev) / (1 - abar)
    noise = dc.Draw(4, range(len(X))).at(1).normal_like(X)
    x0, _ = moments(VP, X, t)
    want = mean_x0 * x0 + mean_x * X + math.sqrt((1 - abar_prev) / (1 - abar) * beta) * noise
    for solver in (Ancestral(), DDIM(eta=1.0)):
        got = dc.sample(GOLDEN.field(VP), solver, X, grid=grid(t, s), seed=4).x
        assert float((got - want).abs().max()) < 1e-12


@pytest.mark.item("9.16")
def test_2m_weights_on_even_steps_are_those_of_adams_bashforth():
    lam = torch.linspace(-1.0, 2.0, 7, dtype=torch.float64)
    plan = DPMpp2M().plan(VP, VP.t_of_lam(lam))
    full = plan.entries["now"] + plan.entries["before"]
    assert torch.allclose(plan.entries["now"][1:] / full[1:], torch.tensor(1.5, dtype=torch.float64), rtol=1e-9)
    assert torch.allclose(plan.entries["before"][1:] / full[1:], torch.tensor(-0.5, dtype=torch.float64), rtol=1e-9)
    assert float(plan.entries["before"][0]) == 0


@pytest.mark.item("9.16", "R5")
@pytest.mark.parametrize("process", [VP, FLOW, VE], ids=lambda p: type(p).__name__)
def test_2m_follows_algorithm_2_of_the_paper(process):
    """Lu et al. 2022: D = (1 + 1/2r) x0_(i-1) - (1/2r) x0_(i-2) with r = h_(i-1) / h_i, written out in a loop."""
    times = [0.9, 0.7, 0.6, 0.3, 0.2, 0.05]
    levels = numbers(process, *times)
    lam = [math.log(a / s) for a, s in levels]
    x, data = X, []
    for i in range(1, len(times)):
        data.append(moments(process, x, times[i - 1])[0])
        h = lam[i] - lam[i - 1]
        estimate = data[-1]
        if i > 1:
            r = (lam[i - 1] - lam[i - 2]) / h
            estimate = (1 + 1 / (2 * r)) * data[-1] - 1 / (2 * r) * data[-2]
        x = levels[i][1] / levels[i - 1][1] * x - levels[i][0] * (math.exp(-h) - 1) * estimate
    got = dc.sample(GOLDEN.field(process, "v"), DPMpp2M(), X, grid=times).x
    assert float((got - x).abs().max()) < 1e-12


@pytest.mark.item("9.23", "A3")
@pytest.mark.parametrize("solver", [Euler(), Heun(), RK4()], ids=lambda s: type(s).__name__)
def test_classical_methods_follow_their_tableaux(solver):
    """The Butcher tableau applied to the exact velocity."""
    inner, weights = {
        Euler: ([[]], [1]),
        Heun: ([[], [1]], [1 / 2, 1 / 2]),
        RK4: ([[], [1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    }[type(solver)]
    times, x = [0.8, 0.5, 0.3], X
    for t, s in itertools.pairwise(times):
        h, slopes = s - t, []
        for row in inner:
            y = x + h * sum((a * k for a, k in zip(row, slopes, strict=True)), torch.zeros_like(x))
            slopes.append(GOLDEN.velocity(y, instant(VP, t + sum(row) * h)))
        x = x + h * sum(b * k for b, k in zip(weights, slopes, strict=True))
    got = dc.sample(GOLDEN.field(VP), solver, X, grid=times).x
    assert float((got - x).abs().max()) < 1e-12


@pytest.mark.item("9.04")
@pytest.mark.parametrize("process", [FLOW, VE], ids=lambda p: type(p).__name__)
def test_euler_is_ddim_where_alpha_and_sigma_are_affine_in_time(process):
    field = GOLDEN.field(process)
    start = 0.9 * process.T
    one, other = (dc.sample(field, s, X, start=start, steps=9).x for s in (Euler(), DDIM()))
    assert float((one - other).abs().max()) < 1e-12


@pytest.mark.item("9.04")
def test_euler_is_not_ddim_on_the_circle():
    """One step of the trigonometric path: the gap is of second order in the step, and not zero."""
    field, gaps = GOLDEN.field(Trig()), []
    for h in (0.02, 0.01, 0.005):
        one, other = (dc.sample(field, s, X, grid=grid(0.5, 0.5 - h)).x for s in (Euler(), DDIM()))
        gaps.append(float((one - other).abs().max()) / h**2)
    assert gaps[-1] > 0.1
    assert max(gaps) / min(gaps) < 1.1


@pytest.mark.item("9.01", "9.03", "A2")
@pytest.mark.parametrize("process", [VP, FLOW, VE], ids=lambda p: type(p).__name__)
def test_one_step_is_exact_for_a_single_point(process):
    """x* is the point whatever x_t: every solver that integrates the linear part exactly lands on it."""
    point = FiniteSet(torch.tensor([[0.7, -0.3]], dtype=torch.float64))
    x = torch.tensor([[1.0, 2.0], [-0.5, 0.1]], dtype=torch.float64)
    t, s = 0.9 * process.T, 0.2 * process.T
    (at, st), (as_, ss) = numbers(process, t, s)
    between = as_ * point.points + ss / st * (x - at * point.points)
    for solver in (DDIM(), DPMpp2M(), EDMHeun()):
        assert torch.allclose(dc.sample(point.field(process), solver, x, grid=grid(t, s)).x, between, atol=1e-12, rtol=0)
    for solver in (DDIM(), DDIM(eta=1.0), DPMpp2M(), EDMHeun(), Ancestral(), EulerMaruyama()):
        got = dc.sample(point.field(process), solver, x, grid=grid(t, 0.0)).x
        assert torch.allclose(got, point.points.expand_as(x), atol=1e-12, rtol=0), type(solver).__name__


@pytest.mark.parametrize("solver", [DDIM(), DDIM(eta=1.0), DPMpp2M(), EDMHeun(), Ancestral(), EulerMaruyama()], ids=repr)
def test_a_single_step_to_the_data_returns_the_posterior_mean(solver):
    got = dc.sample(GOLDEN.field(VP), solver, X, steps=1).x
    assert float((got - moments(VP, X, 1.0)[0]).abs().max()) < 1e-12


def kernel_of(solver, field, process, times):
    """(A, b, c) of every step x_s = A x + b + c z of a solver on one-dimensional Gaussian data, read off by probing it."""
    plan = solver.plan(process, times)
    probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for row in plan.rows(field, probe):
        still, moved = (solver.step(field, probe, row, None, torch.full_like(probe, z)).x for z in (0.0, 1.0))
        yield float(still[1] - still[0]), float(still[0]), float((moved - still)[0])


def propagate(kernels, mean, variance):
    for a, b, c in kernels:
        mean, variance = a * mean + b, a * a * variance + c * c
    return mean, variance


def anderson(gauss, process, times):
    """The Euler-Maruyama recursion of dx = (f x - g^2 score) dt + g dw, with the score of the Gaussian."""
    m, d2 = float(gauss.m.squeeze()), float(gauss.std.squeeze()) ** 2
    for t, s in itertools.pairwise(times):
        c = instant(process, t)
        f, v = float(c.dalpha / c.alpha), float(c.alpha**2 * d2 + c.sigma**2)
        g2 = float(2 * c.sigma * c.dsigma) - 2 * f * float(c.sigma) ** 2
        step = float(t - s)
        yield 1 - step * (f + g2 / v), step * g2 / v * float(c.alpha) * m, math.sqrt(g2 * step)


@pytest.mark.item("4.03")
@pytest.mark.parametrize("process", [VP, FLOW, VE], ids=lambda p: type(p).__name__)
def test_euler_maruyama_follows_the_reverse_sde_of_a_gaussian(process):
    gauss = Gaussian(0.5, 0.4, shape=(1,))
    times = torch.linspace(0.8 * process.T, 0.1 * process.T, 11, dtype=torch.float64)
    got = list(kernel_of(EulerMaruyama(), gauss.field(process), process, times))
    for mine, theirs in zip(got, anderson(gauss, process, times), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-12)


@pytest.mark.item("4.03")
@pytest.mark.parametrize("solver", [EulerMaruyama(), Ancestral(), DDIM(eta=1.0)], ids=repr)
@pytest.mark.parametrize("process", [VP, FLOW], ids=lambda p: type(p).__name__)
def test_stochastic_solvers_reach_the_marginal_with_weak_order_one(process, solver):
    """Mean and variance after N steps, from the exact marginal at t to that at s: both errors halve with the step."""
    gauss, (t, s) = Gaussian(0.5, 0.4, shape=(1,)), (0.6, 0.2)
    c = instant(process, s)
    exact = torch.tensor([float(c.alpha) * 0.5, float(c.alpha) ** 2 * 0.16 + float(c.sigma) ** 2])
    errors = []
    for n in (64, 128, 256):
        begin = instant(process, t)
        mean, variance = float(begin.alpha) * 0.5, float(begin.alpha) ** 2 * 0.16 + float(begin.sigma) ** 2
        times = torch.linspace(t, s, n + 1, dtype=torch.float64)
        found = propagate(kernel_of(solver, gauss.field(process), process, times), mean, variance)
        errors.append((torch.tensor(found) - exact).abs())
    assert float(errors[-1].max()) < 5e-3
    rate = torch.log2(errors[-2][1] / errors[-1][1])
    assert abs(float(rate) - 1) < 0.1, errors


def paper_heun(x, levels, churn, low, high, noise_factor, draw):
    """Algorithm 2 of Karras et al. 2022 on the golden mixture; returns the sample and the levels the denoiser saw."""
    seen, count = [], len(levels) - 1

    def denoise(y, sigma):
        seen.append(sigma)
        return moments(VE, y, sigma)[0]

    for i, (sigma, following) in enumerate(itertools.pairwise(levels)):
        gamma = min(churn / count, math.sqrt(2) - 1) if low <= sigma <= high else 0.0
        assert gamma <= math.sqrt(2) - 1
        hat = sigma + gamma * sigma
        if gamma > 0:
            x = x + math.sqrt(hat**2 - sigma**2) * noise_factor * draw.at(i + 1).normal_like(x)
        slope = (x - denoise(x, hat)) / hat
        moved = x + (following - hat) * slope
        if following != 0:
            slope = (slope + (moved - denoise(moved, following)) / following) / 2
            moved = x + (following - hat) * slope
        x = moved
    return x, seen


LEVELS = [10.0, 6.0, 3.0, 1.4, 0.7, 0.3, 0.1, 0.0]


@pytest.mark.item("9.15", "R10")
@pytest.mark.parametrize("churn", [0.0, 1.0, 40.0])
def test_edm_heun_follows_algorithm_2_of_the_paper(churn):
    options = {"s_min": 0.2, "s_max": 5.0, "s_noise": 1.007}
    want, seen = paper_heun(10 * X, LEVELS, churn, 0.2, 5.0, 1.007, dc.Draw(5, range(len(X))))
    net = GOLDEN.net(VE)
    field = dc.Field(dc.Denoiser(net, "x0", VE))
    result = dc.sample(field, EDMHeun(s_churn=churn, **options), 10 * X, grid=LEVELS, seed=5)
    assert float((result.x - want).abs().max()) < 1e-12
    assert net.seen == pytest.approx(seen, rel=1e-12)
    assert result.nfe == len(seen) == 2 * 7 - 1


@pytest.mark.parametrize("churn", [0.0, 3.0])
def test_edm_heun_is_the_same_sampler_under_every_affine_process(churn):
    """y = x / alpha at equal sigma / alpha: VP and VE give the same samples from the same noise."""
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    times = torch.cat([VP.t_of_lam(-levels[:-1].log()), torch.zeros(1, dtype=torch.float64)])
    solver = EDMHeun(s_churn=churn, s_max=5.0)
    on_ve = dc.sample(GOLDEN.field(VE), solver, 10 * X, grid=levels, seed=2).x
    on_vp = dc.sample(GOLDEN.field(VP), solver, 10 * X * float(instant(VP, times[0]).alpha), grid=times, seed=2).x
    assert float((on_ve - on_vp).abs().max()) < 1e-10


@dc.component
class Open(ReferenceVE):
    """VE whose inverse answers beyond T too."""

    def t_of_lam(self, lam):
        return torch.exp(-lam)


def test_churn_stays_below_the_level_of_the_process():
    net = GOLDEN.net(Open())
    dc.sample(dc.Field(dc.Denoiser(net, "x0", Open())), EDMHeun(s_churn=100.0), 10 * X, grid=LEVELS)
    assert net.seen[0] == 10.0
    assert net.seen[2] == pytest.approx(6 * math.sqrt(2), rel=1e-12)


@pytest.mark.item("9.15")
def test_no_churn_is_deterministic_and_churn_is_not():
    field = GOLDEN.field(VE)
    for churn, equal in ((0.0, True), (2.0, False)):
        one, other = (dc.sample(field, EDMHeun(s_churn=churn), 10 * X, grid=LEVELS, seed=seed).x for seed in (0, 1))
        assert torch.equal(one, other) is equal


@pytest.mark.parametrize("solver", ALL, ids=repr)
def test_the_plan_has_no_nan_or_infinity(solver):
    """From pure noise (alpha = 0) to data (sigma = 0), in one step and in many."""
    for process in (VP, FLOW, VE, Trig()):
        for steps in (1, 2, 5):
            plan = solver.plan(process, torch.linspace(process.T, 0.0, steps + 1, dtype=torch.float64))
            for name, entry in plan.entries.items():
                if isinstance(entry, torch.Tensor):
                    assert bool(entry.isfinite().all()), (type(process).__name__, steps, name)


def test_a_moving_mean_is_refused_with_advice():
    @dc.component
    class Bridge(dc.AffineProcess):
        def coeffs(self, t):
            one = torch.ones_like(t)
            return dc.Coeffs(t, 1 - t, t, -one, one, shift=t, dshift=one)

    with pytest.raises(dc.IncompatibleError, match=r"Bridge shifts the mean.*euler, heun or rk4"):
        DDIM().plan(Bridge(), grid(1.0, 0.5))

"""Where two renditions of the book's formulas differ from their derivation: numbers that decide (Lai et al. 2025).

Each test computes the printed form beside the derived one; the derived one is what the components implement.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

import diffcore as dc
from diffcore.testing import Gaussian, LinearInverse, Oracle, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

DOUBLE = torch.float64
VP, VE, FLOW, GOLDEN = ReferenceVP(), ReferenceVE(), ReferenceFlow(), golden_mixture()
REGISTRY = dc.Registry.load()
X = torch.linspace(-1.5, 1.5, 9, dtype=DOUBLE)[:, None]


def solver(name, **fields):
    return REGISTRY.make("solver", name, **fields)


def run(solver, process, nodes, data=GOLDEN, x=X):
    return dc.sample(data.field(process), solver, x, grid=nodes).x


def uniform_lam(n):
    """n steps of VP from .3 to .01, even in lam."""
    lam = torch.linspace(*(float(instant(VP, t).lam) for t in (0.3, 0.01)), n + 1, dtype=DOUBLE)
    nodes = VP.t_of_lam(lam)
    nodes[0], nodes[-1] = 0.3, 0.01
    return nodes


@pytest.mark.item("9.06", "R1")
def test_the_noise_of_ddim_has_the_new_level_on_top():
    """Section 9.2. c = eta (s_t / s_s) sqrt(s_s^2 - (a_s / a_t)^2 s_t^2): .16493 from a = .6 to .9, the posterior variance.

    With the two times exchanged it would be the root of -1.25.
    """
    (a_s, s_s), (a_t, s_t) = ((a, math.sqrt(1 - a * a)) for a in (0.6, 0.9))
    variance = (s_t / s_s) ** 2 * (s_s**2 - (a_s / a_t * s_t) ** 2)
    assert abs(variance - 0.16493) < 1e-5
    assert abs(s_t**2 - (a_t / a_s) ** 2 * s_s**2 + 1.25) < 1e-12
    joint = torch.tensor([[s_t**2, a_s / a_t * s_t**2], [a_s / a_t * s_t**2, s_s**2]], dtype=DOUBLE)  # of x_t, x_s given x_0
    assert abs(float(joint[0, 0] - joint[0, 1] ** 2 / joint[1, 1]) - variance) < 1e-12
    levels = VP.t_of_lam(torch.tensor([a_s / s_s, a_t / s_t], dtype=DOUBLE).log())
    assert abs(float(solver("ddim", eta=1.0).plan(VP, levels).noise[0]) ** 2 - variance) < 1e-10


@pytest.mark.item("9.04")
def test_eulers_method_on_the_velocity_is_ddim_only_on_straight_schedules():
    """Section 9.2. One step on Gaussian data: equal for (1 - t, t) and (1, t); a gap of constant h^2 for VP and the circle."""
    data = Gaussian(0.3, 0.6, shape=(1,))
    for process, equal in ((FLOW, True), (VE, True), (VP, False), (REGISTRY.make("process", "trig"), False)):
        gaps = []
        for h in (0.04, 0.02, 0.01):
            nodes = process.T * torch.tensor([0.5, 0.5 - h], dtype=DOUBLE)
            one, other = (run(solver(name), process, nodes, data) for name in ("euler", "ddim"))
            gaps.append(float((one - other).abs().max()) / h**2)
        assert (max(gaps) < 1e-9) is equal
        assert equal or (gaps[-1] > 0.1 and max(gaps) / min(gaps) < 1.25)


@pytest.mark.item("9.14", "R3")
def test_exponential_heun_is_not_dpm_solver_2():
    """Section 9.4. Both are of order 2; their difference is too, and is far above rounding."""
    heun, two = solver("exp-runge-kutta", method="heun", prediction="eps"), solver("dpm-solver-2")
    gaps = [float((run(heun, VP, uniform_lam(n)) - run(two, VP, uniform_lam(n))).abs().max()) for n in (40, 80, 160)]
    assert gaps[-1] > 1e-6
    assert abs(math.log2(gaps[1] / gaps[2]) - 2) < 0.2, gaps


@pytest.mark.item("R3")
def test_the_exact_second_coefficient_is_not_the_midpoint_rule():
    """Section 9.4. General gamma at 1/2: phi_2 = (e^h - h - 1) / h against (e^h - 1) / 2; they differ by h^2 / 12 relatively."""
    for h in (0.1, 0.01):
        exact, midpoint = (math.exp(h) - h - 1) / h, math.expm1(h) / 2
        assert abs((exact - midpoint) / h**2 + 1 / 12) < 0.1 * h + 1e-2
    t, s = instant(VP, 0.3), instant(VP, 0.2)
    h, eps = float(s.lam - t.lam), GOLDEN.eps
    m = instant(VP, float(VP.t_of_lam((t.lam + s.lam) / 2)))
    u = m.alpha / t.alpha * X - m.sigma * math.expm1(h / 2) * eps(X, t)
    base = s.alpha / t.alpha * X - s.sigma * math.expm1(h) * eps(X, t)
    change = eps(u, m) - eps(X, t)
    forms = [base - s.sigma * c * 2 * change for c in (math.expm1(h) / 2, (math.exp(h) - h - 1) / h)]
    got = run(solver("dpm-solver-2"), VP, torch.tensor([0.3, 0.2], dtype=DOUBLE))
    assert float((got - forms[0]).abs().max()) < 1e-12
    assert float((got - forms[1]).abs().max()) > 1e-4


def test_the_correction_towards_a_measurement_has_a_plus_sign():
    """Section 8.4. grad log N(y; H x, s^2) = +H^T (y - H x) / s^2: a small step along it shrinks the residual."""
    h, y = torch.tensor([[1.0, 2.0]], dtype=DOUBLE), torch.tensor([0.7], dtype=DOUBLE)
    problem = LinearInverse(Gaussian([0.5, -1.0], cov=[[1.0, 0.3], [0.3, 0.5]]), h, 0.3)
    x = torch.tensor([[0.2, 0.4], [-1.0, 0.3]], dtype=DOUBLE)
    at = VP.coeffs(torch.tensor(1e-9, dtype=DOUBLE))  # almost clean data
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(problem.log_likelihood(leaf, at, y).sum(), leaf)
    pull = (y - x @ h.T) @ h
    assert float((slope - pull / 0.09).abs().max()) < 1e-4 * float(slope.abs().max())

    def residual(z):
        return (y - z @ h.T).abs()

    assert bool((residual(x + 0.01 * pull) < residual(x)).all())
    assert bool((residual(x - 0.01 * pull) > residual(x)).all())


def test_the_tangent_of_a_trigonometric_consistency_function():
    """Section 11.3. f = cos(s) x - sin(s) sd F(x / sd, s): df/ds = -cos(s) (sd F - dx/ds) - sin(s) (x + sd dF/ds), dF/ds the
    total derivative along the path; with the gradient of F in its place it is not."""
    sd, x0, z = 0.5, torch.tensor([0.4, -0.2], dtype=DOUBLE), torch.tensor([0.3, 0.9], dtype=DOUBLE)
    mix = torch.tensor([[0.7, -0.4], [0.2, 1.1]], dtype=DOUBLE)

    def network(x, s):
        return torch.tanh(x @ mix + s)

    def path(s):
        return torch.cos(s) * x0 + sd * torch.sin(s) * z

    def f(s):
        return torch.cos(s) * path(s) - torch.sin(s) * sd * network(path(s) / sd, s)

    s = torch.tensor(0.8, dtype=DOUBLE)

    def jacobian(function):
        return torch.autograd.functional.jacobian(function, s)

    x, dx, out = path(s), jacobian(path), network(path(s) / sd, s)
    total = jacobian(lambda u: network(path(u) / sd, u))
    spatial = torch.autograd.functional.jacobian(lambda y: network(y, s), x / sd).sum(0)
    found = [-torch.cos(s) * (sd * out - dx) - torch.sin(s) * (x + sd * change) for change in (total, spatial)]
    assert float((jacobian(f) - found[0]).abs().max()) < 1e-12
    assert float((jacobian(f) - found[1]).abs().max()) > 0.1


def test_the_trajectory_function_at_equal_times_takes_one_step_to_the_data():
    """Section 11.5. g of Psi_{s->t} = (t / s) x + (1 - t / s) g tends to x - s v as t -> s, not to x - v."""
    data, s, gaps = Gaussian(0.3, 0.6, shape=(1,)), 0.5, []
    v = data.velocity(X, instant(FLOW, s))
    for t in (s - 1e-2, s - 1e-3):
        g = (data.flow(FLOW, X, s, t) - t / s * X) / (1 - t / s)
        gaps.append(float((g - (X - s * v)).abs().max()))
        assert float((g - (X - v)).abs().max()) > 0.3
    assert gaps[0] < 0.02
    assert abs(gaps[0] / gaps[1] - 10) < 1


@pytest.mark.item("1.01")
def test_the_divergence_that_starts_from_the_model_is_the_reverse_one():
    """Section 10.2. Likelihood descends KL(p_data || p): its gradient in the model's mean is that of -E_data log p, not that
    of KL(p || p_data), which two Gaussians of unlike spread tell apart."""
    m = torch.tensor(0.8, dtype=DOUBLE, requires_grad=True)
    data, model = Normal(torch.tensor(0.0).double(), 1.0), Normal(m, 0.5)
    x = torch.linspace(-9, 9, 4001, dtype=DOUBLE)
    likelihood = -torch.trapezoid(data.log_prob(x).exp() * model.log_prob(x), x)
    slopes = [float(torch.autograd.grad(v, m)[0]) for v in (likelihood, kl_divergence(data, model), kl_divergence(model, data))]
    assert abs(slopes[0] - slopes[1]) < 1e-8
    assert abs(slopes[0] - slopes[2]) > 1


def test_a_squared_gap_of_scores_that_are_both_held_has_no_gradient():
    """Section 10.2. E_{p_w}[(s_w - s) dx/dw] is the gradient of KL(p_w || p), for x = w z; |s_w - s|^2 with both
    scores held has none at all."""
    w = torch.tensor(0.6, dtype=DOUBLE, requires_grad=True)
    z = Normal(torch.tensor(0.0).double(), 1.0)
    nodes = torch.linspace(-9, 9, 4001, dtype=DOUBLE)
    p = z.log_prob(nodes).exp()
    want = float(torch.autograd.grad(kl_divergence(Normal(0 * w, w), z), w)[0])
    gap = (-nodes * w / w**2 + nodes * w).detach()  # the scores of N(0, w^2) and N(0, 1) at x = w z, held
    found = torch.trapezoid(p * gap * (nodes * w), nodes)
    assert abs(float(torch.autograd.grad(found, w)[0]) - want) < 1e-9
    assert not torch.trapezoid(p * gap**2, nodes).requires_grad
    assert abs(want) > 0.5


def test_the_schroedinger_bridge_tends_to_transport_only_when_scaled():
    """Section 7.3. SB = min KL(plan || Brownian motion of variance eps) from N(0, .5) to N(0, 2): 2 eps SB -> W2^2, SB -> inf."""
    a, b, found = 0.5, 2.0, []
    for eps in (1e-1, 1e-2, 1e-3):
        c = (math.sqrt(eps**2 + 4 * a * b) - eps) / 2

        def cost(c, eps=eps):
            zero = torch.zeros(2, dtype=DOUBLE)
            plan, motion = (torch.tensor(v, dtype=DOUBLE) for v in ([[a, c], [c, b]], [[a, a], [a, a + eps]]))
            return float(kl_divergence(MultivariateNormal(zero, plan), MultivariateNormal(zero, motion)))

        assert cost(c) < min(cost(c - 1e-3), cost(c + 0.3 * (math.sqrt(a * b) - c)))
        found.append((cost(c), 2 * eps * cost(c)))
    distance = (math.sqrt(b) - math.sqrt(a)) ** 2
    assert found[-1][0] > 50 * found[0][0]
    gaps = [abs(scaled - distance) for _, scaled in found]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.01


@pytest.mark.item("4.09")
def test_the_flow_of_gaussian_data_to_isotropic_noise_is_optimal():
    """Section 7.5. Its map to N(0, I) is S^(-1/2) (x - m), the optimal one, for any covariance; that of flow between two
    Gaussians that do not commute is not (`flows`)."""
    cov = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=DOUBLE)
    data, x = Gaussian([0.5, -1.0], cov=cov), torch.tensor([[0.3, 0.1], [-1.0, 2.0], [1.5, -0.4]], dtype=DOUBLE)
    values, basis = torch.linalg.eigh(cov)
    best = (x - data.m) @ (basis / values.sqrt()) @ basis.T
    assert float((Oracle.flow(data, FLOW, x, 0.0, 1.0, steps=400) - best).abs().max()) < 1e-8


@pytest.mark.item("4.03")
def test_the_reverse_sde_uses_its_coefficients_at_the_time_it_is_at():
    """Section 4.1. Run from T to 0 with drift and noise at time t, N(.3, .5^2) is found again (mean and variance by recursion);
    with those of the time elapsed, T - t, it is not."""
    data, n = Gaussian(0.3, 0.5, shape=(1,)), 1000
    grid = torch.linspace(1, 0.01, n + 1, dtype=DOUBLE)
    ends = []
    for clock in (grid, 1.01 - grid):
        mean, variance, probe = 0.0, 1.0, torch.tensor([[0.0], [1.0]], dtype=DOUBLE)
        for t, h in zip(clock[:-1], -grid.diff(), strict=True):
            c = VP.coeffs(t)
            g2 = float(-2 * c.sigma**2 * c.dlam)
            moved = probe - float(h) * (float(c.dalpha / c.alpha) * probe - g2 * data.score(probe, c))
            slope = float(moved[1] - moved[0])
            mean, variance = slope * mean + float(moved[0]), slope**2 * variance + g2 * float(h)
        ends.append((mean, variance))
    c = instant(VP, 0.01)
    want = float(c.alpha) * 0.3, float(c.alpha) ** 2 * 0.25 + float(c.sigma) ** 2
    assert abs(ends[0][0] - want[0]) < 2e-3
    assert abs(ends[0][1] / want[1] - 1) < 0.02
    assert abs(ends[1][1] / want[1] - 1) > 0.3


@pytest.mark.item("3.15", "R12")
def test_annealed_langevin_starts_at_the_largest_level_and_ends_with_the_smallest():
    """Algorithm 3.1. Data of variance .25, levels 10 .. .01: p_10 is near N(0, 100) (KL < 1e-5) and far from N(0, 1); the levels
    that run are all ten, so that what is left of the noise is that of the last."""
    levels = Normal(torch.zeros(2).double(), torch.tensor([10.0, 1.0]).double())
    cost = kl_divergence(Normal(torch.zeros(2).double(), math.sqrt(100.25)), levels)
    assert float(cost[0]) < 1e-5
    assert float(cost[1]) > 40
    process = REGISTRY.make("process", "ncsn", levels=10, sigma_min=0.01, sigma_max=10.0)
    x = process.prior((4096,), dc.Draw(1, range(4), block=4))
    assert abs(float(x.std()) / 10 - 1) < 4.5 / (2 * x.numel()) ** 0.5
    data, annealed = Gaussian(0.0, 0.5, shape=(1,)), solver("annealed-langevin", inner=1)
    field = data.field(process)
    dc.sample(field, annealed, X, grid=process.default_grid(10, 10.0), seed=1)
    used = [float(process.coeffs(torch.tensor(t, dtype=DOUBLE)).sigma) for t in field.base.net.seen]
    assert used[0] == pytest.approx(10.0)
    assert used[-1] == pytest.approx(0.01)


def test_the_last_time_of_a_consistency_run_is_not_zero():
    """Section 11.2. f(x, t) = m + (x - m) d / sqrt(d^2 + t^2) is x at t = 0: a list that ends at 0 repeats its end."""
    m, d = 0.3, 0.5

    def f(x, t):
        return m + (x - m) * d / math.sqrt(d**2 + t**2)

    assert torch.allclose(f(X, 0.0), X, rtol=0, atol=1e-15)
    z = torch.randn(9, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    x = f(10 * X, 10.0)
    x = f(x + 1.0 * z, 1.0)
    assert torch.allclose(f(x + 0.0 * z, 0.0), x, rtol=0, atol=1e-15)


@pytest.mark.item("3.07", "4.06")
def test_a_half_in_front_of_a_loss_changes_its_value_and_not_its_minimiser():
    """Chapters 3 and 4 write the half, chapter 6 does not. Only with it does the likelihood-weighted loss integrate to the
    divergence: -d/dt KL(p_t || q_t) = g^2 / 2 E|s_p - s_q|^2 for two Gaussians under VP."""
    one, other, t, h = Gaussian(0.4, 0.7, shape=(1,)), Gaussian(-0.2, 0.5, shape=(1,)), 0.3, 1e-5

    def kl(time):
        c = instant(VP, time)
        laws = (Normal(c.alpha * g.m, (c.alpha**2 * g.std**2 + c.sigma**2).sqrt()) for g in (one, other))
        return float(kl_divergence(*laws))

    c, x = instant(VP, t), torch.linspace(-8, 8, 4001, dtype=DOUBLE)[:, None]
    gap = (one.score(x, c) - other.score(x, c)) ** 2
    error = float(torch.trapezoid((one.log_prob(x, c).exp() * gap[:, 0]), x[:, 0]))
    rate = -(kl(t + h) - kl(t - h)) / (2 * h) / float(-2 * c.sigma**2 * c.dlam * error)
    assert abs(rate - 0.5) < 1e-6


@pytest.mark.item("4.10", "R13")
def test_the_divergence_is_added_to_the_log_density_of_the_noise():
    """Section 4.2. N(0, d^2) at x = 0 under VE: log p_0(0) = log p_T(0) + int div v, that is + .5 log(1 + T^2 / d^2)."""
    d, end = 0.5, 10.0
    grown = 0.5 * math.log((d**2 + end**2) / d**2)
    t = torch.linspace(0, end, 200_001, dtype=DOUBLE)
    assert abs(float(torch.trapezoid(t / (d**2 + t**2), t)) - grown) < 1e-6  # v = t x / (d^2 + t^2)
    zero, wide = (float(Normal(0.0, s).log_prob(torch.tensor(0.0))) for s in (d, math.sqrt(d**2 + end**2)))
    assert abs(wide + grown - zero) < 1e-6
    assert abs(wide - grown - zero) > 1


def test_the_special_cases_of_dpm_solver_v3_are_those_of_the_noise_over_alpha():
    """Section 9.7 of the first edition. N = sigma eps - l x; f = N / alpha = e^-lam eps with l = 0 and eps constant: df/dlam =
    -f, so (l, s, b) = (0, -1, 0); N itself has dN/dlam = -alpha^2 N under VP."""
    t = torch.tensor(0.3, dtype=DOUBLE)
    alpha, sigma, lam = (lambda u, k=k: getattr(VP.coeffs(u), k) for k in ("alpha", "sigma", "lam"))

    def rate(function):
        return float(torch.autograd.functional.jacobian(function, t) / torch.autograd.functional.jacobian(lam, t))

    assert abs(rate(lambda u: sigma(u) / alpha(u)) + float(sigma(t) / alpha(t))) < 1e-12
    assert abs(rate(sigma) + float(alpha(t) ** 2 * sigma(t))) < 1e-12
    assert abs(rate(sigma) + float(sigma(t))) > 0.1


@pytest.mark.item("9.20")
def test_the_linear_part_of_dpm_solver_v3_decays():
    """Section 9.7 of the first edition. For N(0, d^2) the noise sigma eps* = l x with l = sigma^2 / V, so the whole step is the
    linear part, x_t = (alpha_t / alpha_s) e^(L_s - L_t) x_s, L = int l dlam: sqrt(V_t / V_s). Of the other sign it is not."""
    d2, (low, high) = 0.36, (float(instant(VP, t).lam) for t in (0.6, 0.1))
    lam = torch.linspace(low, high, 20_001, dtype=DOUBLE)
    moved = float(torch.trapezoid(1 / (1 + d2 * (2 * lam).exp()), lam))
    a, b = instant(VP, 0.6), instant(VP, 0.1)
    want = float(((b.alpha**2 * d2 + b.sigma**2) / (a.alpha**2 * d2 + a.sigma**2)).sqrt())
    assert abs(float(b.alpha / a.alpha) * math.exp(-moved) - want) < 1e-8
    assert abs(float(b.alpha / a.alpha) * math.exp(moved) - want) > 1


def picard(rate, window, tolerance, tested):
    """Sweeps of x' = rate(t) x on 40 Euler steps: the states, and how many sweeps; `tested`: the last node of a window too."""
    n, low, sweeps = 40, 0, 0
    x, known = torch.ones(n + 1, dtype=DOUBLE), 0
    while low < n:
        top = min(low + window, n)  # without the limit nodes beyond the last would be asked for
        x[known + 1 : top + 1] = x[known]
        moves = rate[low:top] * x[low:top] / n
        new = x[low] + moves.cumsum(0)
        changed = ((new - x[low + 1 : top + 1]).abs() > tolerance)[: None if tested else -1].nonzero()
        x[low + 1 : top + 1], known, sweeps = new, top, sweeps + 1
        low += int(changed[0]) + 1 if len(changed) else top - low
    return x, sweeps


@pytest.mark.item("9.21", "R25")
def test_the_last_node_of_a_window_need_not_be_tested_but_the_last_index_must_be_kept():
    """ParaDiGMs. A node is final when the drifts before it have settled, so the end of a window is as good untested: both rules
    give the same states."""
    t = torch.arange(40, dtype=DOUBLE) / 40
    for rate in (-3 * t, 2 * torch.cos(7 * t), 4 * (t > 0.7).double()):
        exact = torch.cat([torch.ones(1, dtype=DOUBLE), (1 + rate / 40).cumprod(0)])
        for window, tolerance in itertools.product((3, 8, 40), (1e-3, 1e-6)):
            for tested in (True, False):
                found, sweeps = picard(rate, window, tolerance, tested)
                assert float((found - exact).abs().max()) < 20 * tolerance
                assert sweeps <= 40

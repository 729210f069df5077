"""Conversions, exact posteriors, probability-flow ODE and reverse kernel of every path on data with closed forms."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffcore_paths.flow import Flow
from diffcore_paths.trig import Trig

import diffcore as dc
from diffcore.testing import FiniteSet, Gaussian, golden_mixture

ROWS = ["x0", "eps", "score", "v", "velocity", "edm"]
NORMAL = dc.Draw(3, range(64), block=64)


@pytest.mark.item("6.04")
@pytest.mark.parametrize("have", ROWS)
def test_every_target_is_read_from_every_other(case, have):
    x0, eps = (NORMAL.fold(i).normal((5,), torch.float64)[:9] for i in (1, 2))
    c, close = case.process.coeffs(case.times()), {"rtol": 1e-10, "atol": 1e-10}
    xt = dc.lincomb((c.alpha, x0), (c.sigma, eps))
    there = dc.Posterior(xt, dc.combine(have, c, x0, eps), have, c)
    for want in ROWS:
        expected = dc.combine(want, c, x0, eps)
        torch.testing.assert_close(there.read(want), expected, **close)
        torch.testing.assert_close(dc.Posterior(xt, there.read(want), want, c).read(have), there.value, **close)
        a, b = dc.convert(c, dc.row(have, c), dc.row(want, c))
        torch.testing.assert_close(dc.lincomb((a, xt), (b, there.value)), expected, **close)


@pytest.mark.item("4.19")
@pytest.mark.parametrize("prediction", ["x0", "velocity", "v"])
def test_gaussian_posterior(case, prediction):
    # fixture a: V = a^2 d^2 + s^2, x* = (a d^2 x + s^2 m) / V, eps* = s (x - a m) / V
    m, d, x = 0.7, 0.4, NORMAL.normal((3,), torch.float64)
    for t in case.times().tolist():
        a, s = (v.item() for v in case.exact(torch.tensor(t, dtype=torch.float64)))
        v = a**2 * d**2 + s**2
        found = Gaussian(m, d, shape=(3,)).field(case.process, prediction).posterior(x, t)
        torch.testing.assert_close(found.mean, (a * d**2 * x + s**2 * m) / v, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.eps, s * (x - a * m) / v, rtol=1e-10, atol=1e-10)


def test_mixture_score_is_the_gradient_of_the_log_density(case):
    oracle, x = golden_mixture((1,)), NORMAL.normal((1,), torch.float64).requires_grad_()
    for t in case.times().tolist():
        alpha, sigma = case.exact(torch.tensor(t, dtype=torch.float64))
        (score,) = torch.autograd.grad(oracle.log_prob(x, dc.Coeffs(t, alpha, sigma, 0.0, 0.0)).sum(), x)
        found = oracle.field(case.process, "velocity").posterior(x.detach(), t).score
        torch.testing.assert_close(found, score, rtol=1e-9, atol=1e-9)


@pytest.mark.item("5.11", "5.12")
def test_finite_set_velocity(case):
    # fixture c: w_i = softmax(-|x - a x^i|^2 / 2 s^2), v* = sum_i w_i (a' x^i + (s'/s) (x - a x^i))
    points = torch.tensor([[-1.0, 0.5], [0.2, 0.3], [1.0, -1.0]], dtype=torch.float64)
    x = NORMAL.normal((2,), torch.float64)
    for t in case.times().tolist():
        c = case.process.coeffs(torch.tensor(t, dtype=torch.float64))
        apart = x[:, None] - c.alpha * points
        w = (-(apart**2).sum(-1) / (2 * c.sigma**2)).softmax(1)[..., None]
        expected = (w * (c.dalpha * points + c.dsigma / c.sigma * apart)).sum(1)
        found = FiniteSet(points).field(case.process, "x0").velocity(x, t)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.item("5.05", "5.07")
def test_velocity_carries_the_mixture_density(case):
    # continuity along a path: d/dt log p + v d/dx log p + dv/dx = 0, the t-derivative through the process
    oracle, process = golden_mixture((1,)), case.process
    for time in case.times(n=5).tolist():
        t = torch.tensor(time, dtype=torch.float64, requires_grad=True)
        x = torch.linspace(-2, 2, 11, dtype=torch.float64)[:, None].requires_grad_()
        log_p = oracle.log_prob(x, process.coeffs(t))
        rate = torch.stack([torch.autograd.grad(one, t, retain_graph=True)[0] for one in log_p])
        (slope,) = torch.autograd.grad(log_p.sum(), x)
        v = oracle.field(process, "x0").velocity(x, time)
        (divergence,) = torch.autograd.grad(v.sum(), x)
        residual = rate[:, None] + v.detach() * slope + divergence
        scale = rate.abs().max() + (v.detach() * slope).abs().max()
        assert residual.abs().max() < 1e-8 * scale


def _runge_kutta(v, x, times):
    for t, s in itertools.pairwise(times.tolist()):
        h = s - t
        k1 = v(x, t)
        k2 = v(x + h / 2 * k1, t + h / 2)
        k3 = v(x + h / 2 * k2, t + h / 2)
        k4 = v(x + h * k3, s)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


@pytest.mark.item("4.04", "4.19")
def test_flow_map_of_a_gaussian(case):
    # a_s m + sqrt(V_s / V_t) (x - a_t m), from lam = -3.5 to 3.5, by Runge-Kutta evenly in lam
    m, d, process = 0.7, 0.4, case.process
    times = case.times(high=-3.5, low=3.5, n=301)
    (a_t, a_s), (s_t, s_s) = case.exact(times[[0, -1]])
    x = NORMAL.normal((2,), torch.float64) * s_t
    v = [a**2 * d**2 + s**2 for a, s in ((a_t, s_t), (a_s, s_s))]
    found = _runge_kutta(Gaussian(m, d, shape=(2,)).field(process, "velocity").velocity, x, times)
    torch.testing.assert_close(found, a_s * m + (v[1] / v[0]) ** 0.5 * (x - a_t * m), rtol=1e-7, atol=1e-7)


@pytest.mark.item("4.12")
def test_equal_signal_to_noise_means_equal_posterior_and_velocity(case, cases):
    # y = (alpha_Q / alpha_P) x at equal lam: one family of ODEs in other coordinates, VP and VE first of all
    oracle, p = golden_mixture((1,)), case.process.coeffs(case.times(low=-1.0))
    x = NORMAL.normal((1,), torch.float64)[:9]
    here = oracle.field(case.process, "x0").posterior(x, p)
    for other in (o.process for o in cases.values()):
        q = other.coeffs(other.t_of_lam(p.lam))
        scale, pace = q.alpha / p.alpha, p.dlam / q.dlam
        stretch = q.dalpha / q.alpha * pace - p.dalpha / p.alpha
        y = dc.lincomb((scale, x))
        there = oracle.field(other, "x0").posterior(y, q)
        torch.testing.assert_close(there.mean, here.mean, rtol=1e-8, atol=1e-10)
        moved = dc.lincomb((scale, here.velocity), (scale * stretch, x))
        torch.testing.assert_close(dc.lincomb((pace, there.velocity)), moved, rtol=1e-8, atol=1e-8)


@pytest.mark.item("6.11", "6.12")
def test_scaled_flow_and_rotated_circle(case):
    # x = c x_flow at tau = s/(a+s), c = a+s;  x = R x_trig at the angle atan2(s, a), R = sqrt(a^2 + s^2)
    c = case.process.coeffs(case.times())
    total, radius = c.alpha + c.sigma, torch.hypot(c.alpha, c.sigma)
    flow = Flow().coeffs(c.sigma / total)
    trig = Trig().coeffs(torch.atan2(c.sigma, c.alpha) * 2 / torch.pi)
    for size, at in ((total, flow), (radius, trig)):
        torch.testing.assert_close(size * at.alpha, c.alpha, rtol=1e-14, atol=0)
        torch.testing.assert_close(size * at.sigma, c.sigma, rtol=1e-14, atol=0)


@pytest.mark.item("4.16")
def test_reverse_kernel_is_gaussian_conditioning(case):
    # (x_s, x_t) | x_0 is Gaussian with covariance a_{t|s} sigma_s^2: condition it on x_t
    process, times = case.process, case.times()
    x0, xt = torch.tensor([[0.3, -1.1], [0.9, 0.2]], dtype=torch.float64).split(1)
    alpha, sigma = case.exact(times)
    for i, j in itertools.combinations(range(len(times)), 2):
        s, t = (process.coeffs(times[k : k + 1]).map(float) for k in (i, j))
        shared = alpha[j] / alpha[i] * sigma[i] ** 2
        mean = alpha[i] * x0 + shared / sigma[j] ** 2 * (xt - alpha[j] * x0)
        std = (sigma[i] ** 2 - shared**2 / sigma[j] ** 2) ** 0.5
        known = dc.Posterior(xt, x0, "x0", t)
        torch.testing.assert_close(process.reverse(xt, t, s, known, torch.zeros_like(xt)), mean, rtol=1e-10, atol=1e-12)
        moved = process.reverse(xt, t, s, known, torch.ones_like(xt)) - mean
        torch.testing.assert_close(moved, std.expand_as(xt), rtol=1e-9, atol=1e-12)
    pair = process.coeffs(times[1:]), process.coeffs(times[:-1])
    shared = alpha[1:] / alpha[:-1] * sigma[:-1] ** 2
    noise = (sigma[:-1] ** 2 - shared**2 / sigma[1:] ** 2) ** 0.5
    torch.testing.assert_close(process.reverse_noise(*pair), noise, rtol=1e-9, atol=0)


@pytest.mark.item("4.18")
def test_reverse_step_to_clean_data_returns_the_mean(case):
    process, xt, x0 = case.process, NORMAL.normal((3,), torch.float64), torch.ones(64, 3, dtype=torch.float64)
    for time in (0.01 * process.T, 0.5 * process.T, process.T):
        t, s = (process.coeffs(torch.tensor(u, dtype=torch.float64)).map(float) for u in (time, 0.0))
        step = process.reverse(xt, t, s, dc.Posterior(xt, x0, "x0", t), torch.ones_like(xt))
        torch.testing.assert_close(step, x0, rtol=1e-14, atol=0)


ZERO_TERMINAL = ("flow", "trig", "cosine")


@pytest.mark.item("4.15")
@pytest.mark.parametrize("prediction", ROWS)
def test_predictions_that_say_nothing_of_the_data_are_refused(cases, prediction):
    for name, case in cases.items():
        if name in ZERO_TERMINAL and prediction in ("eps", "score"):
            with pytest.raises(dc.IncompatibleError, match=f"'{prediction}' cannot be used with .* the signal is gone"):
                dc.Denoiser(lambda x, t: x, prediction, case.process)
        else:
            dc.Denoiser(lambda x, t: x, prediction, case.process)

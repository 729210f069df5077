"""Statements of the book by the component that is named for them: its own numbers against the statement (Lai et al. 2025)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

import diffcore as dc
from diffcore.testing import FiniteSet, Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

DOUBLE = torch.float64
R = dc.Registry.load()
VP, VE, FLOW = ReferenceVP(), ReferenceVE(), ReferenceFlow()
X = torch.linspace(-1.5, 1.5, 7, dtype=DOUBLE)[:, None]
MEAN, COV = (0.3, -0.2), ((0.5, 0.2), (0.2, 0.3))


def normals(n, *shape, seed=0):
    return dc.Draw(seed, range(n), block=n).normal(shape, DOUBLE)


def nats(p, q):
    return float(kl_divergence(*(MultivariateNormal(g.m, covariance_matrix=g.cov) for g in (p, q))))


def order_of(errors, steps):
    return math.log(errors[0] / errors[-1]) / math.log(steps[-1] / steps[0])


# --- 1.01: divergences -------------------------------------------------------------------------------------------------


@pytest.mark.item("1.01")
def test_kl_of_a_model_is_what_its_likelihood_lacks():
    """KL(p || q) = E_p[log p] - E_p[log q] of two Gaussians, from 4000 samples of p (4 s.e.): the likelihood decides."""
    p, found = Gaussian(MEAN, cov=COV), []
    data, x = R.make("data", "gaussian", mean=MEAN, cov=COV), p.sample(4000, dc.Draw(1, range(4000), block=4000))
    models = [Gaussian([0.9, 0.4], cov=[[1.0, -0.3], [-0.3, 0.6]]), Gaussian([1.5, 1.0], cov=[[1.0, -0.3], [-0.3, 0.6]])]
    for q in models:
        got = R.make("metric", "kl").measure(dc.Evaluation(samples=x, reference=x, data=data, field=q.field(VP)))
        each = p.log_prob(x) - q.log_prob(x)
        assert abs(got["KL"].value - nats(p, q)) < 4 * float(each.std()) / 4000**0.5 < 0.08 * nats(p, q)
        found.append((got["KL"].value, float(q.log_prob(x).mean())))
    (near, likely), (far, unlikely) = found
    assert far - near == pytest.approx(likely - unlikely, rel=1e-9), "KL and likelihood differ by the entropy of the data"


@pytest.mark.item("1.01")
def test_both_directions_from_neighbours_are_the_formula():
    """(d / m) sum_i log(nu_i / rho_i) + log(m' / (m - 1)), from the k-th distance to the other set and to the own."""
    real, fake, k = normals(300, 2), 1.3 * normals(300, 2, seed=1) + 0.8, 5
    got = R.make("metric", "knn-kl", k=k).measure(dc.Evaluation(samples=fake, reference=torch.cat([real, fake])))

    def formula(x, y):
        rho, nu = torch.cdist(x, x).sort(1).values[:, k], torch.cdist(x, y).sort(1).values[:, k - 1]
        return 2 * float((nu / rho).log().mean()) + math.log(len(y) / (len(x) - 1))

    assert got["kNN-KL"].value == pytest.approx(formula(real, fake), rel=1e-9)
    assert got["kNN-reverse-KL"].value == pytest.approx(formula(fake, real), rel=1e-9)
    assert got["kNN-KL"].value > 0.3


# --- 3.08, 6.01: the denoising loss ------------------------------------------------------------------------------------


class Seen(nn.Module):
    """a net of x that keeps what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.null_cond = answer, {}

    def forward(self, x, t):
        self.x, self.t = x, t
        return self.answer(x, t)


@pytest.mark.item("3.08")
def test_the_denoising_loss_is_the_squared_distance_to_the_score_of_the_kernel():
    """mean over entries of |s(x_t) - (x_0 - x_t) / sigma^2|^2 under alpha = 1: the score of N(x_t; x_0, sigma^2)."""
    net, x0 = Seen(lambda x, t: 0.7 - x / 4), normals(32, 3)
    law = R.make("time_law", "lognormal", mean=-0.3, std=0.6)
    found = R.make("loss", "denoising", target="score", time_law=law)(dc.Denoiser(net, "score", VE), x0, dc.Draw(5, range(32)))
    want = (net.answer(net.x, net.t) - (x0 - net.x) / net.t[:, None] ** 2).square().mean(1)
    torch.testing.assert_close(found, want, rtol=1e-10, atol=0)


@pytest.mark.item("6.01", "3.07", "5.06")
@pytest.mark.parametrize("target", ["x0", "score", "velocity"])
def test_the_loss_given_the_data_and_the_marginal_loss_differ_by_a_constant(target):
    """E|f - target|^2 - E|f* - target|^2 = E|f - f*|^2, f* the exact posterior expectation: 4 s.e. of 8192, three views."""
    data, n, off = FiniteSet([[0.9, -0.4], [-0.7, 0.3], [0.1, 0.8]]), 8192, 1.5
    x0, draw = data.sample(n, dc.Draw(2, range(n), block=n)), dc.Draw(3, range(n), block=n)
    loss = R.make("loss", "denoising", target=target, time_law=R.make("time_law", "logit-normal", mean=0.5, std=0.5))
    exact = data.net(VP, target)
    right, wrong = (loss(dc.Denoiser(Seen(f), target, VP), x0, draw) for f in (exact, lambda x, t: exact(x, t) + off))
    gap = wrong - right
    error = float(gap.std()) / n**0.5
    assert abs(float(gap.mean()) - off**2) < 4 * error < 0.09 * off**2


# --- 4.07, 4.08: solvers -----------------------------------------------------------------------------------------------


def step_of(solver, process, t, s, x, z, data):
    """One step with the given noise."""
    field, plan = data.field(process), solver.plan(process, torch.tensor([t, s], dtype=DOUBLE))
    return solver.step(field, x, plan.rows(field, x)[0], solver.init(x), z).x


@pytest.mark.item("4.07", "A4")
@pytest.mark.parametrize("process", [VP, VE], ids=["vp", "ve"])
def test_euler_maruyama_is_the_discretised_reverse_sde_and_leaves_the_ancestral_step_at_second_order(process):
    """x - h (f x - g^2 score) + g sqrt(h) z with f = alpha' / alpha, g^2 = 2 sigma sigma' - 2 f sigma^2; the gap falls as h^2."""
    data, z, gaps = golden_mixture(), torch.linspace(1, -1, 7, dtype=DOUBLE)[:, None], []
    em, ancestral = R.make("solver", "euler-maruyama"), R.make("solver", "ancestral")
    for h in (0.02, 0.01, 0.005):
        t, h = 0.5 * process.T, h * process.T
        at = instant(process, t)
        f, g2 = at.dalpha / at.alpha, 2 * at.sigma * at.dsigma - 2 * at.dalpha / at.alpha * at.sigma**2
        want = X - h * (f * X - g2 * data.score(X, at)) + (g2 * h) ** 0.5 * z
        found = step_of(em, process, t, t - h, X, z, data)
        torch.testing.assert_close(found, want, rtol=0, atol=1e-12)
        still = torch.zeros_like(z)
        gaps.append(
            float(
                (step_of(em, process, t, t - h, X, still, data) - step_of(ancestral, process, t, t - h, X, still, data))
                .abs()
                .max()
            )
        )
    assert abs(order_of(gaps, (1, 2, 4)) - 2) < 0.15


@pytest.mark.item("4.08", "4.04")
@pytest.mark.parametrize("process", [VP, FLOW], ids=["vp", "flow"])
def test_euler_converges_to_the_exact_flow_with_order_one(process):
    """x + (s - t) v(x, t) by hand, and the flow map of Gaussian data to the first order."""
    data, errors, solver = Gaussian(0.4, 0.7, shape=(1,)), [], R.make("solver", "euler")
    one = step_of(solver, process, 0.5, 0.4, X, None, data)
    torch.testing.assert_close(one, X - 0.1 * data.velocity(X, instant(process, 0.5)), rtol=0, atol=1e-12)
    want = data.flow(process, X, 0.5, 0.05)
    for n in (40, 80, 160):
        grid = torch.linspace(0.5, 0.05, n + 1, dtype=DOUBLE)
        errors.append(float((dc.sample(data.field(process), solver, X, grid=grid).x - want).abs().max()))
    assert abs(order_of(errors, (40, 80, 160)) - 1) < 0.1


# --- C1, C4: paths -----------------------------------------------------------------------------------------------------


@pytest.mark.item("C1")
def test_the_square_along_a_sampled_path_obeys_itos_formula():
    """d(X^2) = 2 X dX + g^2 dt along runs of `euler-maruyama`: what the chain rule leaves is int g^2 dt = sigma_t^2 - sigma_s^2.

    Pathwise: X_end^2 - X_0^2 - 2 sum X dX = sum (dX)^2, whose mean is the integral (4 s.e. of 512) and whose spread falls.
    """
    data, solver, ends = Gaussian(0.0, 1.0, shape=(1,)), R.make("solver", "euler-maruyama"), (2.0, 0.5)
    x0, spreads = normals(512, 1), []
    for n in (64, 256):
        grid = torch.linspace(*ends, n + 1, dtype=DOUBLE)
        run = dc.sample(data.field(VE), solver, 5**0.5 * x0, grid=grid, seed=7, keep_frames=True)
        path = torch.cat([frame.x for frame in run.frames], 1)
        dx = path.diff(dim=1)
        left = path[:, -1] ** 2 - path[:, 0] ** 2 - 2 * (path[:, :-1] * dx).sum(1)
        bound = 4 * float(left.std()) / 512**0.5 + 3.75 * 4 / n
        assert abs(float(left.mean()) - (ends[0] ** 2 - ends[1] ** 2)) < bound < 0.12 * 3.75 * 64 / min(n, 64)
        spreads.append(float(left.std()))
    assert abs(spreads[0] / spreads[1] - 2) < 0.3


def chain_of(solver, field, grid, start):
    """The Gaussian at the end of a chain whose step kernels are linear in x_t, from the Gaussian at its start."""
    probe = torch.tensor([[0.0], [1.0]], dtype=DOUBLE)
    mean, variance = float(start.mean), float(start.variance)
    for row in solver.plan(VP, grid).rows(field, probe):
        ends = dc.kernel(field, solver, probe, row, None)
        slope = float(ends.mean[1] - ends.mean[0])
        mean, variance = slope * mean + float(ends.mean[0]), slope**2 * variance + float(ends.std) ** 2
    return torch.distributions.Normal(torch.tensor(mean, dtype=DOUBLE), variance**0.5)


@pytest.mark.item("C4")
def test_the_likelihood_of_the_samplers_chain_is_an_average_over_noising_paths():
    """p(x_0) = E_q[p(x_T) prod p(x_s | x_t) / q(x_t | x_s)], p the step kernels of `ancestral` (4 s.e. of 40 000).

    On Gaussian data each kernel is linear in x_t, so the chain is a Gaussian in closed form: with many steps that of the data.
    """
    data, solver, n, count = Gaussian(0.4, 0.7, shape=(1,)), R.make("solver", "ancestral"), 8, 40_000
    grid = torch.linspace(0.6, 0.02, n + 1, dtype=DOUBLE)
    field, draw, at = data.field(VP), dc.Draw(2, range(count), block=count), VP.coeffs(grid)
    first = torch.full((count, 1), 0.9, dtype=DOUBLE)
    rows = solver.plan(VP, grid).rows(field, first)
    x, log_weight = first, torch.zeros(count, dtype=DOUBLE)
    for i in reversed(range(n)):
        t, s = at.at(i), at.at(i + 1)
        a, v = float(t.alpha / s.alpha), float(t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2)
        y = a * x + v**0.5 * draw.fold(i).normal((1,), DOUBLE)
        back = dc.kernel(field, solver, y, rows[i], None).log_prob(x)
        log_weight += back - torch.distributions.Normal(a * x, v**0.5).log_prob(y)[:, 0]
        x = y
    start = torch.distributions.Normal(float(at.alpha[0]) * 0.4, float(at.alpha[0] ** 2 * 0.49 + at.sigma[0] ** 2) ** 0.5)
    weight = (log_weight + start.log_prob(x)[:, 0]).exp()
    want = math.exp(float(chain_of(solver, field, grid, start).log_prob(first[0])))
    assert abs(float(weight.mean()) - want) < 4 * float(weight.std()) / count**0.5 < 0.09 * want
    assert float((log_weight + start.log_prob(x)[:, 0]).mean()) < math.log(want), "the log of the weights averages to the bound"
    fine, end = chain_of(solver, field, torch.linspace(0.6, 0.02, 401, dtype=DOUBLE), start), VP.coeffs(grid[-1])
    assert float(fine.mean) == pytest.approx(float(end.alpha) * 0.4, rel=2e-2)
    assert float(fine.variance) == pytest.approx(float(end.alpha**2 * 0.49 + end.sigma**2), rel=2e-2)

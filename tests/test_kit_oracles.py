"""The oracles against quadrature, automatic differentiation and conditioning of joint Gaussians."""

from __future__ import annotations

import pytest
import torch

import diffcore as dc
from diffcore.testing import (
    REFERENCES,
    FiniteSet,
    Gaussian,
    LinearInverse,
    Mixture,
    Oracle,
    ReferenceFlow,
    ReferenceVP,
    golden_mixture,
    instant,
)

DOUBLE = torch.float64
COV = [[1.0, 0.3], [0.3, 0.5]]
VP, FLOW = ReferenceVP(), ReferenceFlow()


def grid(n=5, d=1, scale=2.0):
    return scale * torch.linspace(-1, 1, n * d, dtype=DOUBLE).reshape(n, d)


def close(a, b, tolerance=1e-10):
    assert float((a - b).abs().max()) < tolerance


@pytest.mark.parametrize("process", REFERENCES, ids=lambda p: type(p).__name__)
def test_mixture_posterior_mean_by_quadrature(process):
    """E[x_0|x_t] = int x_0 p(x_t|x_0) p(x_0) dx_0 / p(x_t), trapezoid on 20001 points."""
    data, x = golden_mixture(), grid(7)
    at = instant(process, 0.4 * process.T)
    x0 = torch.linspace(-6, 6, 20001, dtype=DOUBLE)
    prior = data.log_prob(x0[:, None]).exp()
    likelihood = torch.exp(-((x - at.alpha * x0) ** 2) / (2 * at.sigma**2))
    weight = prior * likelihood
    close(data.mean(x, at)[:, 0], (weight * x0).sum(1) / weight.sum(1), 1e-9)
    marginal = weight.sum(1) * 12 / 20000 / (2 * torch.pi * at.sigma**2) ** 0.5
    close(data.log_prob(x, at), marginal.log(), 1e-9)


ORACLES = {
    "gaussian": Gaussian([0.5, -1.0], [0.6, 1.2]),
    "correlated": Gaussian([0.5, -1.0], cov=COV),
    "mixture": Mixture([0.2, 0.5, 0.3], [[0.0, 1.0], [1.0, -1.0], [-1.5, 0.3]], [0.3, 0.5, 0.2]),
    "finite": FiniteSet([[0.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]),
}


@pytest.mark.item("D3")
@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("process", REFERENCES, ids=lambda p: type(p).__name__)
def test_score_is_the_gradient_of_log_prob_and_mean_is_tweedies(name, process):
    data, x = ORACLES[name], grid(6, 2).requires_grad_()
    at = instant(process, 0.3 * process.T)
    (gradient,) = torch.autograd.grad(data.log_prob(x, at).sum(), x)
    close(data.score(x.detach(), at), gradient)
    close(data.mean(x.detach(), at), (x.detach() + at.sigma**2 * gradient) / at.alpha)
    close(data.eps(x.detach(), at), -at.sigma * gradient)


def test_correlated_gaussian_by_conditioning_the_joint():
    """(x_0, x_t) is jointly Gaussian: E[x_0|x_t] = m + C a (a^2 C + s^2 I)^-1 (x_t - a m)."""
    data, x, at = ORACLES["correlated"], grid(6, 2), instant(VP, 0.4)
    cov, mean = torch.tensor(COV, dtype=DOUBLE), torch.tensor([0.5, -1.0], dtype=DOUBLE)
    gain = at.alpha * cov @ torch.linalg.inv(at.alpha**2 * cov + at.sigma**2 * torch.eye(2, dtype=DOUBLE))
    close(data.mean(x, at), mean + (x - at.alpha * mean) @ gain.T)
    close(data.cov, cov)


@pytest.mark.item("4.04")
@pytest.mark.parametrize("process", REFERENCES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("name", ["gaussian", "correlated"])
def test_gaussian_flow_map_solves_the_ode(process, name):
    data, x = ORACLES[name], grid(4, 2)
    t, s = 0.3 * process.T, 0.02 * process.T
    close(data.flow(process, x, t, s), Oracle.flow(data, process, x, t, s), 1e-8)
    close(data.flow(process, data.flow(process, x, t, s), s, t), x)


@pytest.mark.item("4.04")
@pytest.mark.parametrize("process", REFERENCES, ids=lambda p: type(p).__name__)
def test_quantile_transport_solves_the_ode(process):
    data, x = golden_mixture(), grid(5)
    t, s = 0.3 * process.T, 0.02 * process.T
    close(data.flow(process, x, t, s), Oracle.flow(data, process, x, t, s), 1e-7)


@pytest.mark.parametrize("prediction", ["x0", "eps", "score", "v", "velocity", "edm"])
@pytest.mark.parametrize("name", ORACLES)
def test_exact_networks_agree_for_every_prediction(name, prediction):
    data, x, at = ORACLES[name], grid(6, 2), instant(VP, 0.35)
    found = data.denoiser(VP, prediction)
    with dc.Meter() as meter:
        close(found(x, 0.35).mean, data.mean(x, at))
        close(found(x, torch.full((6,), 0.35, dtype=DOUBLE)).velocity, data.velocity(x, at), 1e-9)
    assert (meter.calls, meter.rows, len(found.net.seen)) == (2, 12, 2)


@pytest.mark.parametrize("name", ["gaussian", "finite", "mixture"])
def test_times_per_sample_and_per_pixel(name):
    """A time per sample is row by row; for independent entries a time per pixel is entry by entry."""
    data, x, t = ORACLES[name], grid(3, 2), torch.tensor([0.1, 0.4, 0.8], dtype=DOUBLE)
    rows = torch.cat([data.mean(x[i : i + 1], instant(VP, t[i])) for i in range(3)])
    close(data.mean(x, instant(VP, t)), rows)
    close(data.mean(x, instant(VP, t[:, None].expand(3, 2))), rows)
    if name == "gaussian":
        each = torch.tensor([[0.1, 0.7]] * 3, dtype=DOUBLE)
        want = torch.stack([data.mean(x, instant(VP, 0.1))[:, 0], data.mean(x, instant(VP, 0.7))[:, 1]], 1)
        close(data.mean(x, instant(VP, each)), want)


@pytest.mark.parametrize("name", ORACLES)
def test_samples_have_the_moments(name):
    """Mean and second moment within 4.5 standard errors, n = 4000."""
    data, n = ORACLES[name], 4000
    x = data.sample(n, dc.Draw(3, range(n), block=500))
    if name == "mixture":
        mean, variance = data.average()
    elif name == "finite":
        mean, variance = data.points.mean(0), data.points.var(0, correction=0)
    else:
        mean, variance = data.m, data.cov.diagonal()
    assert bool(((x.mean(0) - mean).abs() < 4.5 * (variance / n) ** 0.5).all())
    spread = (x - mean) ** 2
    assert bool(((spread.mean(0) - variance).abs() < 4.5 * spread.std(0) / n**0.5 + 1e-12).all())


def test_labels_choose_components_and_the_null_label_is_the_mixture():
    data, x, at = ORACLES["mixture"], grid(4, 2), instant(FLOW, 0.5)
    alone = Gaussian(data.means[1], data.stds[1])
    label = torch.tensor([1, 3, 1, 3])
    mean = data.mean(x, at, label)
    close(mean[::2], alone.mean(x[::2], at))
    close(mean[1::2], data.mean(x[1::2], at))
    assert data.net(FLOW).null_cond == {"label": 3}
    close(data.responsibilities(x, at).sum(1), torch.ones(4, dtype=DOUBLE))


def test_posterior_mean_at_the_ends():
    """At sigma = 0 the posterior is x / alpha, for a finite set the nearest point; at alpha = 0 it is the data mean."""
    x = grid(5, 2)
    for name in ("gaussian", "correlated", "mixture"):
        close(ORACLES[name].mean(x, instant(FLOW, 0.0)), x)
    points = ORACLES["finite"].points
    nearest = points[torch.cdist(x, points).argmin(1)]
    close(ORACLES["finite"].mean(x, instant(FLOW, 0.0)), nearest)
    close(ORACLES["finite"].mean(x, instant(FLOW, 1.0)), points.mean(0).expand(5, 2))
    close(ORACLES["mixture"].mean(x, instant(FLOW, 1.0)), ORACLES["mixture"].average()[0].expand(5, 2))


def test_linear_inverse_problem_by_bayes_rule_of_scores():
    """grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t), and the posterior by conditioning the joint."""
    prior, h = Gaussian([0.5, -1.0], cov=COV), torch.tensor([[1.0, 2.0]], dtype=DOUBLE)
    problem, y, at = LinearInverse(prior, h, 0.3), torch.tensor([0.7], dtype=DOUBLE), instant(VP, 0.4)
    posterior, x = problem.posterior(y), grid(5, 2).requires_grad_()
    (likelihood,) = torch.autograd.grad(problem.log_likelihood(x, at, y).sum(), x)
    x = x.detach()
    close(posterior.score(x, at), prior.score(x, at) + likelihood, 1e-9)
    cov = torch.tensor(COV, dtype=DOUBLE)
    gain = cov @ h.T @ torch.linalg.inv(h @ cov @ h.T + 0.09)
    close(posterior.m, prior.m + gain @ (y - h @ prior.m))
    close(posterior.cov, cov - gain @ h @ cov)
    x0 = prior.sample(2000)
    off = problem.observe(x0) - x0 @ h.T
    assert abs(float(off.std()) / 0.3 - 1) < 4.5 / 4000**0.5


def test_full_covariance_refuses_a_time_per_pixel():
    with pytest.raises(dc.DiffcoreError, match="per-pixel"):
        ORACLES["correlated"].mean(grid(3, 2), instant(VP, torch.full((3, 2), 0.5)))


def test_float32_states_come_back_in_float32():
    data = golden_mixture((3,))
    x = grid(4, 3).float()
    found = data.denoiser(VP)(x, 0.3).mean
    assert found.dtype == torch.float32
    close(found.double(), data.mean(x.double(), instant(VP, 0.3)), 1e-5)

"""Moments of x_0 given x_t from derivatives of a score, against the posterior of a mixture, which is a mixture again."""

import math

import pytest
import torch
from diffcore_energy.density import log_ratio
from diffcore_energy.tweedie import posterior_covariance, posterior_mean, third_cumulant

from diffcore.testing import FiniteSet, ReferenceFlow, ReferenceVE, ReferenceVP

PROCESSES = {"vp": (ReferenceVP(), 0.3), "flow": (ReferenceFlow(), 0.5), "ve": (ReferenceVE(), 0.7)}


@pytest.fixture(params=PROCESSES)
def case(request, mixture):
    """Denoiser, oracle, coefficients, points, and weights, means, variances of the posterior's components."""
    process, t = PROCESSES[request.param]
    at = process.coeffs(torch.tensor(t, dtype=torch.float64))
    x = torch.tensor([[0.3, -0.1], [-0.6, 0.4], [1.2, 0.9]], dtype=torch.float64)
    spread = at.alpha**2 * mixture.stds**2 + at.sigma**2
    means = mixture.means + at.alpha * mixture.stds**2 / spread * (x[:, None] - at.alpha * mixture.means)
    variances = (mixture.stds**2 * at.sigma**2 / spread).expand_as(means)
    return mixture.denoiser(process, "velocity"), mixture, at, t, x, (mixture.responsibilities(x, at), means, variances)


@pytest.mark.item("3.09")
def test_the_posterior_mean(case):
    """3.09, 1e-10, with 1 / alpha in its place."""
    _, oracle, at, _, x, (r, means, _) = case
    assert torch.allclose(posterior_mean(x, oracle.score(x, at), at), (r[..., None] * means).sum(1), rtol=0, atol=1e-10)


@pytest.mark.item("3.10")
def test_the_posterior_covariance(case):
    """3.10: sum_k r_k (C_k + (m_k - m)(m_k - m)^T), 1e-8."""
    model, _, _, t, x, (r, means, variances) = case
    d = means - (r[..., None] * means).sum(1, keepdim=True)
    want = torch.einsum("bk,bki,bkj->bij", r, d, d) + torch.diag_embed((r[..., None] * variances).sum(1))
    assert torch.allclose(posterior_covariance(model, x, t), want, rtol=0, atol=1e-8)


@pytest.mark.item("3.10")
def test_the_third_cumulant(case):
    """3.10: sum_k r_k (d d d + three terms C_k d), 1e-8."""
    model, _, _, t, x, (r, means, variances) = case
    d = means - (r[..., None] * means).sum(1, keepdim=True)
    pair = torch.einsum("bk,bkij,bkl->bijl", r, torch.diag_embed(variances), d)
    want = torch.einsum("bk,bki,bkj,bkl->bijl", r, d, d, d) + pair + pair.permute(0, 1, 3, 2) + pair.permute(0, 3, 1, 2)
    assert float(want.abs().max()) > 1e-3
    assert torch.allclose(third_cumulant(model, x, t), want, rtol=0, atol=1e-8)


@pytest.mark.item("1.05", "3.02")
def test_a_density_from_its_score(case):
    """3.02: 64 nodes, 1e-6; with the partition function gone."""
    model, oracle, at, t, x, _ = case
    y = x.flip(0) + 0.5
    assert torch.allclose(log_ratio(model, x, y, t, nodes=64), oracle.log_prob(x, at) - oracle.log_prob(y, at), rtol=0, atol=1e-6)


@pytest.mark.item("3.16")
def test_score_and_noise_are_one(case):
    """3.16: s = -eps / sigma."""
    model, oracle, at, t, x, _ = case
    assert torch.allclose(model(x, t).eps, -at.sigma * oracle.score(x, at), rtol=0, atol=1e-12)


@pytest.mark.item("3.17")
def test_the_score_of_data_on_a_line_explodes_across_it():
    """3.17: a point at distance h from data on a line has a normal score of -h / sigma^2: slope -2 in sigma."""
    line = FiniteSet(torch.stack([torch.linspace(-1, 1, 201).double(), torch.zeros(201).double()], 1))
    x, process = torch.tensor([[0.1, 0.05]], dtype=torch.float64), ReferenceVE()
    normal = [float(line.score(x, process.coeffs(torch.tensor(s).double()))[0, 1]) for s in (0.02, 0.04)]
    assert normal == pytest.approx([-0.05 / 0.02**2, -0.05 / 0.04**2])
    assert math.log2(normal[0] / normal[1]) == pytest.approx(2)

"""The process in closed form, and the fine solution that makes the data, on a Gaussian whose flow is known."""

from __future__ import annotations

import pytest
import torch
from diffcore_galaxies.process import GalaxyVP
from diffcore_galaxies.samples import fine

import diffcore as dc

T = torch.linspace(0.02, 10, 60, dtype=torch.float64)


def test_it_is_the_sde_with_rate_one():
    """alpha'/alpha = -1/2 and g^2 = (sigma^2)' + sigma^2 = 1; alpha^2 + sigma^2 = 1."""
    c = GalaxyVP().coeffs(T)
    one = torch.ones_like(T)
    for found, want in (
        (c.dalpha / c.alpha, -one / 2),
        (2 * c.sigma * c.dsigma + c.sigma**2, one),
        (c.alpha**2 + c.sigma**2, one),
    ):
        assert torch.allclose(found, want, rtol=0, atol=1e-13)


def test_it_is_the_installed_vp_with_rate_ten_on_unit_time():
    try:
        vp = dc.Registry.load().make("process", "vp", beta_min=10.0, beta_max=10.0)
    except dc.DiffcoreError as error:
        pytest.skip(str(error))
    ours, theirs = GalaxyVP().coeffs(T), vp.coeffs(T / 10)
    assert torch.allclose(ours.alpha, theirs.alpha, rtol=1e-12, atol=0)
    assert torch.allclose(ours.sigma, theirs.sigma, rtol=1e-12, atol=0)
    assert torch.equal(GalaxyVP().embed_time(T), vp.embed_time(T / 10))


def test_the_velocity_is_the_drift_of_the_original():
    """dx/dt = -(x + score) / 2, and the network sees x itself and t / 10, whatever sigma_data."""
    seen = []

    def net(x, t):
        seen.append((x, t))
        return x**2

    x = torch.linspace(-2, 3, 8, dtype=torch.float64).reshape(2, 4)
    for sigma_data in (0.5, 1.0):
        denoiser = dc.Denoiser(net, dc.Reading("score", "feature", "unit", sigma_data=sigma_data), process=GalaxyVP())
        for t in (0.02, 1.0, 9.0):
            velocity = dc.Field(denoiser).velocity(x, t)
            assert torch.allclose(velocity, -(x + x**2) / 2, rtol=1e-12, atol=1e-12)
            assert torch.equal(seen[-1][0], x)
            assert torch.allclose(seen[-1][1], torch.full((2,), t / 10, dtype=torch.float64), rtol=1e-6)


def test_the_fine_solution_is_of_fourth_order():
    """N(m, d^2) data: x_s = alpha_s m + sqrt(v_s / v_t) (x_t - alpha_t m), v = alpha^2 d^2 + sigma^2, then the posterior mean."""
    process, m, d = GalaxyVP(), 1.5, 0.6
    start, end = (process.coeffs(torch.tensor(t, dtype=torch.float64)) for t in (process.T, process.min_time))
    v0, v1 = (c.alpha**2 * d**2 + c.sigma**2 for c in (start, end))

    def net(x, t):
        c = process.coeffs(10 * t.double()).map(lambda value: dc.expand(value, x))
        return -(x - c.alpha * m) / (c.alpha**2 * d**2 + c.sigma**2)

    denoiser = dc.Denoiser(net, dc.Reading("score", "feature", "unit"), process=process)
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    state = end.alpha * m + (v1 / v0).sqrt() * (x - start.alpha * m)
    want = m + end.alpha * d**2 / v1 * (state - end.alpha * m)
    errors = [float((fine(denoiser, process, x, n) - want).abs().max()) for n in (10, 20, 40)]
    assert errors[2] < 1e-5
    assert errors[0] / errors[1] > 12
    assert errors[1] / errors[2] > 12

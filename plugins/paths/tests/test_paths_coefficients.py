"""alpha, sigma, their derivatives and the inverse of lam, against 60-digit closed forms and the published SDEs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffcore_paths.cosine import Cosine
from diffcore_paths.edm import EDM
from diffcore_paths.flow import Flow
from diffcore_paths.sub_vp import SubVP
from diffcore_paths.trig import Trig
from diffcore_paths.ve import VE
from diffcore_paths.vp import VP

import diffcore as dc

FRACTIONS = [1e-15, 1e-12, 1e-9, 1e-6, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1 - 1e-6, 1 - 1e-9, 1 - 2**-52]
# float32 exponentials of B or 2 L t carry the rounding of their argument, up to 17 here
PRECISION = {torch.float64: 3e-15, torch.float32: 2e-6}
ZERO_TERMINAL = (Flow, Trig, Cosine)


def at(process, fractions, dtype=torch.float64):
    return (torch.tensor(fractions, dtype=torch.float64) * process.T).to(dtype)


@pytest.mark.item("5.11", "5.13")
@pytest.mark.parametrize("dtype", list(PRECISION))
def test_alpha_and_sigma_have_full_relative_precision(case, dtype):
    t = at(case.process, FRACTIONS, dtype)
    t = t[t < case.process.T]
    c = case.process.coeffs(t)
    for got, exact in zip((c.alpha, c.sigma), case.exact(t.double()), strict=True):
        assert got.dtype == dtype
        assert ((got.double() - exact).abs() / exact).max() < PRECISION[dtype]


@pytest.mark.item("5.13")
@pytest.mark.parametrize("dtype", list(PRECISION))
def test_ends_are_exact_and_without_nan(process, dtype):
    c = process.coeffs(at(process, [0.0, 1.0], dtype))
    assert c.alpha[0] == 1
    assert c.sigma[0] == 0
    assert c.lam[0] == math.inf
    values = torch.stack([*c[1:5], c.lam, c.dlam])
    assert not values.isnan().any()
    finite = torch.stack([*c[1:4]]).isfinite().all()
    assert finite, "only sigma' may be infinite, at t = 0"
    if isinstance(process, ZERO_TERMINAL) and getattr(process, "alpha_end", 0) == 0:
        assert c.alpha[1] == 0
        assert c.sigma[1] == 1


def test_cosine_stops_at_alpha_end():
    for end in (4.9e-5, 0.01, 0.3):
        got = Cosine(alpha_end=end).coeffs(torch.tensor(1.0, dtype=torch.float64))
        assert abs(float(got.alpha) / end - 1) < 1e-14


def test_clipped_ddpm_leaves_the_alpha_that_cosine_names():
    # Nichol and Dhariwal: beta_i = min(1 - abar_i / abar_{i-1}, .999) on a thousand steps
    alphas = Cosine().coeffs(torch.arange(1001, dtype=torch.float64) / 1000).alpha
    beta = (1 - (alphas[1:] / alphas[:-1]) ** 2).clamp(max=0.999)
    assert abs(float((1 - beta).prod().sqrt()) / 4.93e-5 - 1) < 1e-3


@pytest.mark.item("5.13")
def test_derivatives_are_those_of_autograd(process):
    t = at(process, FRACTIONS[3:]).requires_grad_()
    c = process.coeffs(t)
    for value, derivative in ((c.alpha, c.dalpha), (c.sigma, c.dsigma)):
        if not value.requires_grad:
            assert bool((derivative == 0).all())
            continue
        (slope,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(derivative.detach(), slope, rtol=1e-10, atol=1e-10)


@pytest.mark.item("4.11", "4.12", "4.13", "4.14")
def test_kernel_gives_the_published_sde(case):
    t = at(case.process, [1e-4, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
    c, (f, g2) = case.process.coeffs(t), case.sde(t)
    drift = c.dalpha / c.alpha
    torch.testing.assert_close(drift, f, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(2 * c.sigma * c.dsigma - 2 * drift * c.sigma**2, g2, rtol=1e-10, atol=0)
    torch.testing.assert_close(-2 * c.sigma**2 * c.dlam, g2, rtol=1e-10, atol=0)
    assert (g2 > 0).all()


@pytest.mark.item("4.02", "4.14", "C2", "4.01", "4.11", "4.12", "4.13")
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.95])
def test_published_sde_integrates_to_the_kernel(case, fraction):
    # m' = f m and P' = 2 f P + g^2: alpha = exp(int f), sigma^2 = alpha^2 int g^2 / alpha^2, by Gauss-Legendre
    end = fraction * case.process.T
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(200))
    u, w = (nodes + 1) / 2 * end, weights / 2 * end
    c = case.process.coeffs(torch.tensor(end, dtype=torch.float64))
    f, g2 = case.sde(u)
    assert abs(math.exp(float((f * w).sum())) / float(c.alpha) - 1) < 1e-10
    growth = g2 / case.process.coeffs(u).alpha ** 2
    assert abs(float((growth * w).sum()) * float(c.alpha) ** 2 / float(c.sigma) ** 2 - 1) < 1e-10


def test_lam_falls_strictly(process):
    near = torch.logspace(-15, -2, 60, dtype=torch.float64)
    fractions = torch.cat([near, torch.linspace(0.011, 0.989, 200, dtype=torch.float64), 1 - near.flip(0)[:-12]])
    c = process.coeffs(fractions * process.T)
    assert (c.lam.diff() < 0).all()
    assert (c.dlam < 0).all()


@pytest.mark.item("4.13")
def test_sub_vp_has_less_variance_than_vp():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    less, more = SubVP().coeffs(t), VP().coeffs(t)
    assert (less.sigma <= more.sigma).all()
    torch.testing.assert_close(less.alpha, more.alpha, rtol=0, atol=0)
    torch.testing.assert_close(less.sigma, more.sigma**2, rtol=1e-14, atol=0)


@pytest.mark.item("4.12")
def test_variance_preserving_paths_preserve_variance():
    for process in (VP(), Trig(), Cosine(), Cosine(alpha_end=0.1)):
        c = process.coeffs(torch.linspace(0, 1, 101, dtype=torch.float64))
        torch.testing.assert_close(c.alpha**2 + c.sigma**2, torch.ones(101, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.item("9.10")
def test_t_of_lam_inverts_lam_over_the_whole_range(process):
    t = at(process, [1e-300, *FRACTIONS, 1.0])
    lam = process.coeffs(t).lam
    assert ((process.t_of_lam(lam) - t).abs() / t).max() < 1e-10
    inside = lam[1:-1]
    torch.testing.assert_close(process.coeffs(process.t_of_lam(inside)).lam[3:-4], inside[3:-4], rtol=1e-12, atol=1e-12)


def test_t_of_lam_is_what_bisection_finds(process):
    lam = process.coeffs(at(process, FRACTIONS)).lam
    bisected = dc.AffineProcess.t_of_lam(process, lam)
    assert (process.t_of_lam(lam) / bisected - 1).abs().max() < 1e-10


def test_t_of_lam_stays_within_the_process(process):
    t = process.t_of_lam(torch.tensor([math.inf, 1e3, -1e3, -math.inf]))
    assert t.dtype == torch.float64
    assert t[0] == 0
    assert 0 <= t[1] < 1e-100
    torch.testing.assert_close(t[2:], torch.full((2,), process.T, dtype=torch.float64), rtol=1e-15, atol=0)
    assert process.t_of_lam(0.5).shape == ()


def test_fingerprints_tell_processes_and_parameters_apart(cases):
    other = [VP(beta_min=0.2), VP(beta_max=19.0), SubVP(beta_max=19.0), VE(sigma_min=0.02), VE(sigma_max=49.0)]
    other += [EDM(sigma_max=79.0), Cosine(s=0.01), Cosine(alpha_end=4.9e-5)]
    prints = [case.process.fingerprint() for case in cases.values()] + [process.fingerprint() for process in other]
    assert all(len(p) == len(prints[0]) and np.isfinite(p).all() for p in prints)
    gaps = [max(abs(a - b) for a, b in zip(p, q, strict=True)) for i, p in enumerate(prints) for q in prints[:i]]
    assert min(gaps) > 1e-6


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 1, 4, 5)])
@pytest.mark.parametrize("dtype", list(PRECISION))
def test_any_shape_of_time(process, shape, dtype):
    t = torch.linspace(0.1, 0.9, max(math.prod(shape), 1), dtype=dtype)[: math.prod(shape)].reshape(shape) * process.T
    c = process.coeffs(t)
    assert all(v.shape == shape and v.dtype == dtype for v in c[:5])
    flat = process.coeffs(t.flatten())
    for got, one in zip(c[1:5], flat[1:5], strict=True):
        torch.testing.assert_close(got.flatten(), one, rtol=1e-6, atol=0)


def test_coefficients_are_one_graph(process):
    t = at(process, [0.0, 0.2, 0.7, 1.0])
    torch._dynamo.reset()
    compiled = torch.compile(process.coeffs, backend="eager", fullgraph=True)(t)
    for got, eager in zip(compiled[1:5], process.coeffs(t)[1:5], strict=True):
        torch.testing.assert_close(got, eager, rtol=0, atol=0)


def test_everything_is_finite_from_min_time_on(process):
    assert 0 < process.min_time < process.T
    c = process.coeffs(torch.tensor([process.min_time], dtype=torch.float64))
    assert all(bool(v.isfinite().all()) for v in (*c[1:5], c.lam, c.dlam))


@pytest.mark.item("4.11")
def test_ve_time_of_a_noise_level_of_other_code():
    # code without the offset calls sigma(t) = s(t): its level s is found by t_of_lam(-log s)
    s = 0.01 * 5000 ** torch.linspace(0.01, 0.99, 20, dtype=torch.float64)
    found = VE().coeffs(VE().t_of_lam(-s.log())).sigma
    torch.testing.assert_close(found, s, rtol=1e-13, atol=0)


@pytest.mark.parametrize(("steps", "start", "rho"), [(18, 80.0, 7.0), (5, 80.0, 3.0), (6, 10.0, 7.0), (1, 80.0, 7.0)])
def test_edm_grid_is_that_of_karras(steps, start, rho):
    process = EDM(rho=rho)
    grid = process.default_grid(steps, start)
    ends = start ** (1 / rho), 0.002 ** (1 / rho)
    formula = [(ends[0] + i / max(steps - 1, 1) * (ends[1] - ends[0])) ** rho for i in range(steps)] + [0.0]
    torch.testing.assert_close(grid, torch.tensor(formula, dtype=torch.float64), rtol=1e-13, atol=0)
    assert grid[0] == start
    assert (grid.diff() < 0).all()


@pytest.mark.item("D1")
def test_edm_time_feature_is_a_quarter_log_and_finite_at_zero():
    t = torch.tensor([0.0, 0.001, 0.002, 1.0, 80.0], dtype=torch.float64)
    low = math.log(0.002) / 4
    expected = torch.tensor([low, low, low, 0.0, math.log(80) / 4], dtype=torch.float64)
    torch.testing.assert_close(EDM().embed_time(t), expected, rtol=1e-15, atol=0)

"""What integrating the linear part exactly gains: variation of constants, DDIM against Euler, and DDIM's own error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffcore_solvers.ddim import DDIM
from diffcore_solvers.euler import Euler

import diffcore as dc
from diffcore.testing import FiniteSet, Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

DOUBLE = torch.float64
VP, VE, FLOW = ReferenceVP(), ReferenceVE(), ReferenceFlow()
ALL = pytest.mark.parametrize("process", [VP, FLOW, VE], ids=lambda p: type(p).__name__)
X = torch.linspace(-2, 2, 7, dtype=DOUBLE)[:, None]


def step(solver, field, x, t, s):
    return dc.sample(field, solver, x, grid=torch.tensor([t, s], dtype=DOUBLE)).x


@pytest.mark.item("9.01", "9.10", "A2")
@ALL
def test_variation_of_constants_along_the_exact_path(process):
    """x_s / alpha_s = x_t / alpha_t - int e^-lam eps* dlam and x_s / sigma_s = x_t / sigma_t + int e^lam x* dlam.

    By Gauss-Legendre quadrature of the exact predictions of Gaussian data along their exact path, 1e-10.
    """
    data, t, s = Gaussian(0.5, 0.7, shape=(1,)), 0.6 * process.T, 0.1 * process.T
    nodes, weights = np.polynomial.legendre.leggauss(60)
    a, b = instant(process, t), instant(process, s)
    low, high = float(a.lam), float(b.lam)
    noise, mean = 0.0, 0.0
    for lam, w in zip((low + high) / 2 + (high - low) / 2 * nodes, weights * (high - low) / 2, strict=True):
        time = float(process.t_of_lam(torch.tensor(lam, dtype=DOUBLE)))
        y, at = data.flow(process, X, t, time), instant(process, time)
        noise = noise + w * math.exp(-lam) * data.eps(y, at)
        mean = mean + w * math.exp(lam) * data.mean(y, at)
    want = data.flow(process, X, t, s)
    for found in (b.alpha * (X / a.alpha - noise), b.sigma * (X / a.sigma + mean)):
        assert float((found - want).abs().max()) < 1e-10


@pytest.mark.item("9.02")
def test_the_linear_factor_of_euler_is_off_by_half_the_square_of_the_exponent():
    """With eps* = 0 the ODE is x' = f x: DDIM multiplies by e^a, a = int f, Euler by 1 + a; (e^a - 1 - a) / a^2 -> 1/2."""
    field, ratios = dc.Field(dc.Denoiser(lambda x, t: 0 * x, "eps", VP)), []
    for h in (0.04, 0.02, 0.01):
        t, s = instant(VP, 0.3 + h / 2), instant(VP, 0.3 - h / 2)
        a = float((s.alpha / t.alpha).log())
        exact = math.exp(a) * X
        assert float((step(DDIM(), field, X, 0.3 + h / 2, 0.3 - h / 2) - exact).abs().max()) < 1e-13
        left = step(Euler(), field, X, 0.3 + h / 2, 0.3 - h / 2)
        factor = 1 - h * float(t.dalpha / t.alpha)
        assert float((left - factor * X).abs().max()) < 1e-13
        ratios.append((math.exp(a) - 1 - a) / a**2)
    assert [abs(r - 0.5) for r in ratios] == sorted((abs(r - 0.5) for r in ratios), reverse=True)
    assert abs(ratios[-1] - 0.5) < 0.02


@pytest.mark.item("9.02")
def test_without_a_linear_part_both_are_one_method():
    """alpha = 1: f = 0, and (e^a - 1) / a -> 1: DDIM is Euler's step, also for steps of lam of 1e-9."""
    field = golden_mixture().field(VE)
    for s in (1.9, 2 - 1e-9):
        one, other = (step(solver, field, X, 2.0, s) for solver in (DDIM(), Euler()))
        assert float((one - other).abs().max()) < 1e-14


@pytest.mark.item("9.05")
@pytest.mark.parametrize("process", [FLOW, VE], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("h", [0.3, 0.1, 0.01])
def test_the_error_of_a_step_is_the_curvature_of_the_exact_path(process, h):
    """|x_s - Psi(x_t)| <= h^2 / 2 sup |dv/dt| on the exact path, and near it for short steps; v is the velocity in tau."""
    data = Gaussian(0.5, 0.4, shape=(1,))
    t, s = 0.6 * process.T, (0.6 - h) * process.T
    gap = (step(DDIM(), data.field(process), X, t, s) - data.flow(process, X, t, s)).abs()[:, 0]
    times = torch.linspace(t, s, 201, dtype=DOUBLE)
    path = torch.stack([data.flow(process, X, t, float(u))[:, 0] for u in times])
    v = torch.stack([data.velocity(y[:, None], instant(process, float(u)))[:, 0] for y, u in zip(path, times, strict=True)])
    speed = (v.diff(dim=0) / (times[1] - times[0])).abs().max(0).values
    bound = (h * process.T) ** 2 / 2 * speed
    assert bool((gap <= 1.001 * bound + 1e-12).all())
    assert float((gap / bound).max()) > (0.9 if h == 0.01 else 0.1)


@pytest.mark.item("9.05")
@ALL
def test_straight_paths_have_no_error(process):
    """Data at one point: x / alpha is affine in sigma / alpha, and so is one step of any length."""
    point = FiniteSet([[0.7]])
    t, s = 0.9 * process.T, 0.05 * process.T
    many = dc.sample(point.field(process), DDIM(), X, grid=torch.linspace(t, s, 40, dtype=DOUBLE)).x
    assert float((step(DDIM(), point.field(process), X, t, s) - many).abs().max()) < 1e-12


@pytest.mark.item("9.07")
@ALL
def test_ddim_is_the_flow_given_the_data_and_its_tangent_the_conditional_velocity(process):
    """Psi(x | x_0) = (sigma_s / sigma_t) x + (alpha_s - alpha_t sigma_s / sigma_t) x_0; d/ds = alpha' x_0 + sigma' eps, 1e-8."""
    x0, time = 0.7, 0.4 * process.T
    t = instant(process, time)

    def conditional(s):
        at = process.coeffs(s)
        return at.sigma / t.sigma * X + (at.alpha - t.alpha * at.sigma / t.sigma) * x0

    field = FiniteSet([[x0]]).field(process)
    for s in (0.35, 0.1):
        end = torch.tensor(s * process.T, dtype=DOUBLE)
        assert float((step(DDIM(), field, X, time, float(end)) - conditional(end)).abs().max()) < 1e-12
        tangent = torch.autograd.functional.jacobian(conditional, end)
        at = process.coeffs(end)
        target = at.dalpha * x0 + at.dsigma * (X - t.alpha * x0) / t.sigma
        assert float((tangent.reshape(X.shape) - target).abs().max()) < 1e-8
        short = 1e-5 * process.T
        there = conditional(end)
        moved = (step(DDIM(), field, there, float(end), float(end) - short) - there) / -short
        assert float((moved - target).abs().max()) < 1e-3 * float(1 + target.abs().max())

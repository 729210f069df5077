"""Likelihood weighting against the KL divergence of Gaussians, its time law, and the SDE behind a kernel."""

import math

import numpy as np
import pytest
import torch
from diffcore_score_sde.sde import diffusion_square, drift
from diffcore_score_sde.time_law import LikelihoodImportance
from diffcore_score_sde.weighting import Likelihood
from scipy import integrate as quadrature

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, instant

VP, VE, FLOW = ReferenceVP(), ReferenceVE(), ReferenceFlow()
ALL = [VP, VE, FLOW]
DATA, MODEL = Gaussian([0.4], 0.7), Gaussian([-0.2], 0.5)


def name(value):
    return type(value).__name__


def kl(process, t):
    """KL(p_t | q_t) of the two Gaussians."""
    at = instant(process, t)
    v, w = (float(at.alpha**2 * d.std**2 + at.sigma**2) for d in (DATA, MODEL))
    gap = float(at.alpha) * float(DATA.m - MODEL.m)
    return 0.5 * (v / w + gap**2 / w - 1 + math.log(w / v))


def expected_loss(process, t, target):
    """E over x_t ~ p_t of weight * (target of the model - target of the data)^2, by Gauss-Hermite quadrature."""
    at = instant(process, t)
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    spread = float((at.alpha**2 * DATA.std**2 + at.sigma**2) ** 0.5)
    x = torch.as_tensor(nodes * spread + float(at.alpha) * float(DATA.m))[:, None]
    wrong, right = (d.denoiser(process)(x, t).read(target) for d in (MODEL, DATA))
    error = float(((wrong - right) ** 2 * torch.as_tensor(weights)[:, None]).sum()) / math.sqrt(2 * math.pi)
    return float(Likelihood()(at, dc.row(target, at))) * error


@pytest.mark.item("4.06")
@pytest.mark.parametrize("target", ["x0", "eps", "score", "v", "velocity"])
@pytest.mark.parametrize("process", ALL, ids=name)
def test_half_the_weighted_loss_is_the_rate_at_which_the_kl_falls(process, target):
    """d KL(p_t | q_t) / dt = -1/2 g^2 E|s_p - s_q|^2, whatever target the loss measures."""
    for t in (0.1 * process.T, 0.4 * process.T, 0.8 * process.T):
        h = 1e-4 * process.T
        rate = (kl(process, t - 2 * h) - 8 * kl(process, t - h) + 8 * kl(process, t + h) - kl(process, t + 2 * h)) / (12 * h)
        assert abs(0.5 * expected_loss(process, t, target) + rate) < 1e-7 * (1 + abs(rate))


@pytest.mark.item("4.06", "C3")
@pytest.mark.parametrize("process", ALL, ids=name)
def test_half_the_integrated_loss_is_the_kl_divergence(process):
    first, last = 1e-4 * process.T, 0.999 * process.T
    total = quadrature.quad(lambda t: 0.5 * expected_loss(process, t, "eps"), first, last, epsabs=1e-9, limit=300)[0]
    assert abs(total - (kl(process, first) - kl(process, last))) < 1e-6


@pytest.mark.item("4.02", "4.14", "C2")
@pytest.mark.parametrize("process", ALL, ids=name)
def test_the_kernel_solves_the_moment_equations_of_its_sde(process):
    """m' = f m and P' = 2 f P + g^2, integrated, give alpha and sigma^2; g^2 = -2 sigma^2 lam' >= 0."""
    first, last = 0.02 * process.T, 0.95 * process.T

    def rates(t, y):
        at = instant(process, t)
        f = float(drift(at))
        return [f * y[0], 2 * f * y[1] + float(diffusion_square(at))]

    start, end = instant(process, first), instant(process, last)
    found = quadrature.solve_ivp(rates, (first, last), [float(start.alpha), float(start.sigma) ** 2], rtol=1e-12, atol=1e-14)
    assert abs(found.y[0, -1] - float(end.alpha)) < 1e-10 * process.T
    assert abs(found.y[1, -1] - float(end.sigma) ** 2) < 1e-10 * process.T**2
    c = process.coeffs(torch.linspace(0.05, 0.95, 19).double() * process.T)
    assert torch.allclose(diffusion_square(c), -2 * c.sigma**2 * c.dlam, rtol=1e-9)
    assert bool((diffusion_square(c) > 0).all())


@pytest.mark.item("4.15")
def test_no_finite_drift_reaches_pure_noise():
    """VP's bounded f leaves alpha_T > 0; flow matching reaches alpha_T = 0 and its f = -1 / (1 - t) is unbounded."""
    assert float(instant(VP, 1.0).alpha) > 1e-3
    assert float(instant(FLOW, 1.0).alpha) == 0
    assert abs(float(drift(instant(FLOW, 1 - 1e-6))) * 1e-6 + 1) < 1e-6


@pytest.mark.parametrize("process", ALL, ids=name)
@pytest.mark.parametrize("bound", [7.0, 2.0])
def test_the_law_is_uniform_in_lam_within_the_bound_and_in_t_beyond(process, bound):
    """Its density -du/dt over -lam' is constant inside, and continuous."""
    law = LikelihoodImportance(bound=bound)
    u = torch.linspace(0.001, 0.999, 1201).double()
    t = law.quantile(process, u)
    assert bool((t.diff() > 0).all())
    middle = (t[1:] + t[:-1]) / 2
    density = u.diff() / t.diff()
    c = process.coeffs(middle)
    inside = (c.lam.abs() < 0.97 * bound) & (t[1:] - t[:-1] < 0.02 * process.T)
    level = density / -c.dlam
    assert int(inside.sum()) > 300
    assert float(level[inside].std() / level[inside].mean()) < 1e-2
    for sign in (1, -1):
        beyond = sign * c.lam > bound * 1.03
        if int(beyond.sum()) > 3:
            assert float(density[beyond].std() / density[beyond].mean()) < 1e-6
            joint = process.coeffs(process.t_of_lam(torch.tensor(sign * bound).double()))
            assert abs(float(density[beyond][0] / (level[inside].mean() * -joint.dlam)) - 1) < 1e-2
    ends = law.quantile(process, torch.tensor([0.0, 1.0]).double())
    assert float((ends - torch.tensor([0.0, process.T]).double()).abs().max()) < 1e-9 * process.T


@pytest.mark.item("4.06")
def test_under_the_law_the_plain_noise_loss_is_the_weighted_one():
    """VP within its range of lam: E_law[e^2] * (lam_0 - lam_T) * 2 = int g^2 / sigma^2 e^2 dt (4 s.e.)."""

    @dc.component
    class Cut(ReferenceVP):
        min_time = 1e-3

    process, n = Cut(), 20000
    t = LikelihoodImportance()(process, dc.Draw(1, range(n)))
    u = 1e-3 + (1 - 1e-3) * dc.Draw(2, range(n)).uniform()
    ends = process.coeffs(torch.tensor([1e-3, 1.0]).double()).lam

    def error(t):
        at = process.coeffs(t)
        v, w = (at.alpha**2 * float(d.std) ** 2 + at.sigma**2 for d in (DATA, MODEL))
        gap = at.sigma**2 * (v * (1 / w - 1 / v) ** 2 + (at.alpha * float(DATA.m - MODEL.m) / w) ** 2)
        return gap, Likelihood()(at, dc.row("eps", at))

    plain = error(t)[0] * 2 * float(ends[0] - ends[1])
    gap, weight = error(u)
    weighted = gap * weight * (1 - 1e-3)
    want = 2 * (kl(process, 1e-3) - kl(process, 1.0))
    assert abs(float(plain.mean()) - want) < 4 * float(plain.std()) / n**0.5
    assert abs(float(weighted.mean()) - want) < 4 * float(weighted.std()) / n**0.5
    assert float(weight.std()) > float(weight.mean())  # where the error is equal at all levels, all variance is the weight's


def test_a_process_without_coefficients_is_refused():
    class Bare(dc.Process):
        pass

    with pytest.raises(dc.IncompatibleError, match="needs 'affine'"):
        LikelihoodImportance()(Bare(), dc.Draw(0, range(3)))

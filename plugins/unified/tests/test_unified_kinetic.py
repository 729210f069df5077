"""6.13, 6.14: kinetic energies, and the schedule of least marginal energy."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_unified.kinetic import Kinetic, conditional_energy, marginal_energy

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow

MEAN, STDS = 0.3, (0.2, 0.9)


class Sine(dc.AffineProcess):
    """r = sin^2(pi t / 2) on the straight line."""

    def coeffs(self, t):
        r, rate = torch.sin(math.pi * t / 2) ** 2, math.pi / 2 * torch.sin(math.pi * t)
        return dc.Coeffs(t, 1 - r, r, -rate, rate)


class Slow(dc.AffineProcess):
    """The straight line at even speed in twice the time."""

    @property
    def T(self):
        return 2.0

    def coeffs(self, t):
        half = torch.full_like(t, 0.5)
        return dc.Coeffs(t, 1 - t / 2, t / 2, -half, half)


class Bent(dc.AffineProcess):
    """Another process with its clock perturbed: t + a sin(2 pi t)."""

    def __init__(self, inner, a):
        self.inner, self.a = inner, a

    def coeffs(self, t):
        c = self.inner.coeffs(t + self.a * torch.sin(2 * math.pi * t))
        rate = 1 + 2 * math.pi * self.a * torch.cos(2 * math.pi * t)
        return dc.Coeffs(t, c.alpha, c.sigma, c.dalpha * rate, c.dsigma * rate)


@pytest.mark.item("6.13")
def test_conditional_energy_of_the_straight_line():
    """linear 1, sin^2(pi t / 2) pi^2 / 8, and no perturbed clock below 1."""
    assert conditional_energy(ReferenceFlow()) == pytest.approx(1, rel=1e-12)
    assert conditional_energy(Slow(), 0.4) == pytest.approx(1, rel=1e-12)
    assert conditional_energy(Sine(), 0.4) == pytest.approx(math.pi**2 / 8, rel=1e-12)
    assert conditional_energy(Bent(ReferenceFlow(), 0.05)) == pytest.approx(1 + (2 * math.pi * 0.05) ** 2 / 2, rel=1e-10)


def test_the_marginal_energy_is_that_of_the_exact_velocity():
    """E|v(x_t, t)|^2 of the oracle, by its moments: mean^2 + variance of a velocity linear in x."""
    process, data = Sine(), Gaussian([MEAN, MEAN], list(STDS))
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)[1:-1]
    at, one = process.coeffs(t), torch.ones(len(t), 2, dtype=torch.float64)
    b = data.velocity(0 * one, at)
    k, v = data.velocity(one, at) - b, at.alpha[:, None] ** 2 * data.std**2 + at.sigma[:, None] ** 2
    power = ((k * at.alpha[:, None] * MEAN + b) ** 2 + k**2 * v).mean(1)
    assert float(torch.trapezoid(power, t)) == pytest.approx(marginal_energy(process, MEAN, STDS), rel=1e-4)


@pytest.mark.item("6.13")
def test_the_schedule_has_constant_speed_and_least_energy():
    """r' kappa(r) = length; energy = length^2, below flow and sine; perturbing the clock raises it to second order."""
    process = Kinetic(mean=MEAN, stds=STDS)
    at = process.coeffs(torch.linspace(0, 1, 501, dtype=torch.float64))
    torch.testing.assert_close(at.dsigma * process.speed(at.sigma), torch.full_like(at.t, process.length), rtol=1e-12, atol=0)
    least = marginal_energy(process, MEAN, STDS)
    assert least == pytest.approx(process.length**2, rel=1e-11)
    assert least < 0.99 * min(marginal_energy(p, MEAN, STDS) for p in (ReferenceFlow(), Sine()))
    rise = [marginal_energy(Bent(process, a), MEAN, STDS) / least - 1 for a in (-0.02, 0.02, 0.04)]
    assert rise[0] == pytest.approx((2 * math.pi * 0.02) ** 2 / 2, rel=1e-4)
    assert rise[1] == pytest.approx(rise[0], rel=1e-4)
    assert rise[2] == pytest.approx(4 * rise[1], rel=1e-3)


@pytest.mark.parametrize(("mean", "stds"), [(0.3, (0.5,)), (0.01, (0.3,)), (0.05, (0.1, 1.0)), (1.0, (5.0, 0.01))])
def test_the_clock_is_inverted(mean, stds):
    """t -> r -> t, for smooth and for nearly singular speeds, and both ends exactly."""
    process = Kinetic(mean=mean, stds=stds)
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)[1:-1]
    at = process.coeffs(t)
    torch.testing.assert_close(process.t_of_lam(at.lam), t, rtol=1e-9, atol=1e-11)
    ends = process.coeffs(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert (ends.alpha.tolist(), ends.sigma.tolist()) == ([1.0, 0.0], [0.0, 1.0])


def test_the_clock_is_read_where_the_times_are():
    process, t = Kinetic(mean=MEAN, stds=STDS), torch.zeros(3, dtype=torch.float64, device="meta")
    assert {v.device.type for v in process.coeffs(t)[:5]} == {"meta"}
    assert process.t_of_lam(t).device.type == "meta"


def test_samples_move_at_constant_speed():
    """On its own data the root mean square velocity is the length at ten times (4096 samples: 5 %)."""
    process, data = Kinetic(mean=MEAN, stds=STDS), Gaussian([MEAN, MEAN], list(STDS))
    field, x0 = data.field(process), data.sample(4096)
    speeds = []
    for t in torch.linspace(0.05, 0.95, 10, dtype=torch.float64):
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2)).double()
        at = process.coeffs(t)
        speeds.append(float(field.velocity(at.alpha * x0 + at.sigma * eps, float(t)).square().mean() ** 0.5))
    assert max(abs(s / process.length - 1) for s in speeds) < 0.05  # 4096 samples


@pytest.mark.item("6.13")
def test_unit_target_norm():
    """E|v|^2 = D + tr Cov + |mean|^2 for the straight line: the constant of the conditional energy."""
    data, n = Gaussian([MEAN, MEAN], list(STDS)), 200_000
    x0 = data.sample(n)
    v = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)).double() - x0
    norm = v.square().sum(1)
    want = 2 + sum(d * d for d in STDS) + 2 * MEAN**2
    assert abs(float(norm.mean()) - want) < 4 * float(norm.std()) / n**0.5


@pytest.mark.item("6.14")
def test_only_the_straight_line_is_without_curvature(make):
    """6.14: alpha'' = sigma'' = 0 for flow alone (and edm), by differences of the derivatives."""
    bent = {}
    for name in ("flow", "edm", "vp", "trig", "cosine", "ve"):
        process = make("process", name)
        t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64) * process.T
        up, down = process.coeffs(t + 1e-4), process.coeffs(t - 1e-4)
        bent[name] = float(((up.dalpha - down.dalpha).abs() + (up.dsigma - down.dsigma).abs()).max())
    assert bent["flow"] == bent["edm"] == 0
    assert min(bent[n] for n in ("vp", "trig", "cosine", "ve")) > 1e-4


def test_bad_fields_are_refused():
    for fields in ({"mean": 0.0}, {"stds": ()}, {"stds": (0.5, 0.0)}):
        with pytest.raises(dc.SpecError, match=next(iter(fields))):
            Kinetic(**fields)


def test_quadrature_is_exact_to_degree_nine():
    from diffcore_unified.quadrature import over

    low, high = torch.tensor([0.0, -1.0], dtype=torch.float64), torch.tensor([2.0, 0.5], dtype=torch.float64)
    for k in range(10):
        want = (high ** (k + 1) - low ** (k + 1)) / (k + 1)
        torch.testing.assert_close(over(lambda x, k=k: x**k, low, high), want, rtol=1e-13, atol=1e-13)

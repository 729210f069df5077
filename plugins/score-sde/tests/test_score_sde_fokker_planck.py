"""The Fokker-Planck residual: zero for the score of an evolving density, positive for planted ones, unbiased with probes."""

import math

import pytest
import torch
from diffcore_score_sde.fokker_planck import FokkerPlanckResidual, residual
from diffcore_score_sde.likelihood import probes_like

import diffcore as dc
from diffcore.testing import Gaussian, Mixture, ReferenceFlow, ReferenceVE, ReferenceVP, instant

VP, VE, FLOW = ReferenceVP(), ReferenceVE(), ReferenceFlow()
ALL = [VP, VE, FLOW]
PLANE = Mixture([0.3, 0.7], [[-0.8, 0.4], [0.6, -0.2]], [[0.3, 0.5], [0.4, 0.25]])


def name(value):
    return type(value).__name__


def planted(process, change):
    """The exact score of the mixture times or plus something, as a field."""

    def net(x, t):
        at = process.coeffs(t.double())
        score = change(PLANE.score(x, at), x, dc.expand(t, x))
        alpha, sigma = (dc.expand(v, x) for v in (at.alpha, at.sigma))
        return dc.combine("velocity", at, (x + sigma**2 * score) / alpha, -sigma * score)

    return dc.Field(dc.Denoiser(net, "velocity", process))


def field_residual(field, process, n=12):
    t = torch.linspace(0.1, 0.9, n).double() * process.T
    x = process.corrupt(PLANE.sample(n), t, dc.Draw(0, range(n))).xt
    return residual(field, x, t, *probes_like(x, "exact", 1, dc.Draw(0, range(n))))


@pytest.mark.item("4.05")
@pytest.mark.parametrize("process", ALL, ids=name)
def test_it_vanishes_for_the_exact_score(process):
    for prediction in ("x0", "velocity"):
        assert float(field_residual(PLANE.field(process, prediction), process).abs().max()) < 1e-8


@pytest.mark.parametrize("process", ALL, ids=name)
def test_it_sees_a_scaled_score_a_shifted_one_and_one_that_does_not_evolve(process):
    still = instant(process, 0.5 * process.T)
    for change in (
        lambda s, x, t: 1.1 * s,
        lambda s, x, t: s + 0.2,
        lambda s, x, t: s + 0.1 * t * x,
        lambda s, x, t: PLANE.score(x, still),
    ):
        assert float(field_residual(planted(process, change), process).abs().max()) > 1e-3


@pytest.mark.item("4.05")
def test_it_is_the_published_equation():
    """d_t s - grad(g^2 (div s + |s|^2) / 2 - f <x, s>) for the planted Gaussian score s = -c(t) x, c not of any solution.

    -c' x + grad(g^2 (D c - c^2 |x|^2) / 2 - f c |x|^2) = (-c' - g^2 c^2 - 2 f c) x.
    """
    t = torch.tensor([0.3, 0.6]).double()
    x = torch.tensor([[0.5, -1.0], [1.5, 0.2]]).double()
    field = dc.Field(dc.Denoiser(lambda x, t: -dc.expand(1 + t**2, x) * x, "score", VP))
    got = residual(field, x, t, *probes_like(x, "exact", 1, dc.Draw(0, range(2))))
    c = VP.coeffs(t)
    f, g2, level = c.dalpha / c.alpha, -2 * c.sigma**2 * c.dlam, 1 + t**2
    want = (-2 * t - g2 * level**2 - 2 * f * level)[:, None] * x
    assert float((got - want).abs().max()) < 1e-9


@pytest.mark.item("4.05", "6.18", "B1")
@pytest.mark.parametrize("process", ALL, ids=name)
def test_the_density_itself_obeys_the_continuity_equation(process):
    """d_t p + div(v p) = 0 on the mixture, and d_t p = -f div(x p) + g^2 lap(p) / 2 (the Fokker-Planck equation)."""
    t = torch.full((6,), 0.4 * process.T).double().requires_grad_()
    x = (PLANE.sample(6) * 0.8).requires_grad_()
    at = process.coeffs(t)
    p = PLANE.log_prob(x, at).exp()
    (slope,) = torch.autograd.grad(p.sum(), t, retain_graph=True)
    (gradient,) = torch.autograd.grad(p.sum(), x, create_graph=True)
    flux = PLANE.velocity(x, at) * p[:, None]
    plain = x * p[:, None] * (at.dalpha / at.alpha)[:, None]
    g2 = (-2 * at.sigma**2 * at.dlam)[:, None]
    found = {}
    for key, value in (("flow", flux), ("sde", plain - 0.5 * g2 * gradient)):
        rows = [torch.autograd.grad(value[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2)]
        found[key] = slope + sum(rows)
    assert float(found["flow"].abs().max()) < 1e-8
    assert float(found["sde"].abs().max()) < 1e-8


def evaluation(field, n=64):
    x = PLANE.sample(n)
    return dc.Evaluation(samples=x, reference=x, field=field)


@pytest.mark.item("4.05")
@pytest.mark.parametrize("process", ALL, ids=name)
def test_the_metric_is_zero_for_the_truth_and_grows_with_the_fault(process):
    metric = FokkerPlanckResidual(n=64, divergence="exact")
    assert metric.measure(evaluation(PLANE.field(process)))["fp residual"].value < 1e-12
    sizes = [
        metric.measure(evaluation(planted(process, lambda s, x, t, k=k: (1 + k) * s)))["fp residual"].value for k in (0.05, 0.2)
    ]
    assert sizes[0] > 1e-4
    assert sizes[1] > 4 * sizes[0]


@pytest.mark.item("4.05")
@pytest.mark.parametrize(("process", "cut"), [(VP, 0.3), (VE, 0.45)], ids=["VP", "VE"])
def test_the_metric_is_in_units_of_the_score_and_the_clock(process, cut):
    """s = -k x has the residual -(g^2 k^2 + 2 f k) x: its mean square times sigma dt/dr over r = log theta even, closed form.

    VP: f = -g^2 / 2, d theta/dt = g^2 alpha / (2 sigma), E|x_t|^2 = D. VE: sigma = t = tan theta, f = 0, g^2 = 2 t.
    """
    n, k = 20_000, 1.5
    x = torch.where(dc.Draw(1, range(n), block=n).uniform((4,)) < 0.5, -1.0, 1.0).double()  # |x_0|^2 = D
    field = dc.Field(dc.Denoiser(lambda x, t: -k * x, "score", process))
    ev = dc.Evaluation(samples=x, reference=x, field=field)
    found = FokkerPlanckResidual(n=n, divergence="exact", cut=cut, batch=n).measure(ev)["fp residual"]
    ends = (instant(process, v * process.T) for v in (cut, 1 - cut))
    first, last = (math.log10(math.atan2(at.sigma, at.alpha)) for at in ends)
    theta = torch.logspace(first, last, 20_001, dtype=torch.float64)
    t = theta.tan()
    vp, ve = k * (1 - k) * 2 * theta * theta.sin() ** 2 / theta.cos(), 2 * k**2 * t**2 * theta * (1 + t**2) ** 1.5
    want = float((vp if process is VP else ve).square().mean())
    assert abs(found.value - want) < 4.5 * found.spread / 2
    assert found.spread < 0.06 * want


def test_probes_are_unbiased_for_the_square():
    """The mean over 600 seeds of one sample's value, against the exact one, within 4 standard errors; D > 1 so that it varies."""
    field = planted(FLOW, lambda s, x, t: 1.3 * s + 0.4 * torch.sin(3 * x.flip(1)))
    n = 600
    x = PLANE.sample(1).expand(n, 2).clone()
    t = torch.full((n,), 0.5).double()
    xt = 0.5 * x + 0.3

    def one(kind, k):
        return residual(field, xt, t, *probes_like(xt, kind, 1, dc.Draw(5, range(n)).fold(k)))

    exact = float((one("exact", 0)[:1] ** 2).sum())
    drawn = (one("gaussian", 1) * one("gaussian", 2)).sum(1)
    assert float(drawn.std()) > 0.01 * exact
    assert abs(float(drawn.mean()) - exact) < 4 * float(drawn.std()) / n**0.5


def test_a_network_of_floats_is_measured_too():
    data = Gaussian(0.0, 0.5, shape=(2,))
    net = torch.nn.Linear(2, 2)
    field = dc.Field(dc.Denoiser(lambda x, t: net(x.float()).to(x.dtype) * dc.expand(t, x), "v", VP))
    x = data.sample(16)
    found = FokkerPlanckResidual(n=16).measure(dc.Evaluation(samples=x, reference=x, field=field))
    assert torch.isfinite(torch.tensor(found["fp residual"].value))

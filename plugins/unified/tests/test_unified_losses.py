"""6.05, 6.07-6.10: the four choices of a loss, and monotone weightings as averages of ELBOs."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_unified.monotone import Monotone, mixture
from diffcore_unified.transformed import Transformed
from diffcore_unified.weightings import P2, InTarget, levels

import diffcore as dc
from diffcore.testing import FiniteSet

REGISTRY = dc.Registry.load()
A = {name: REGISTRY.make("process", name) for name in ("vp", "ve", "sub-vp", "edm", "flow", "trig", "cosine")}
TARGETS = ("x0", "eps", "score", "v", "velocity", "edm")
POINTS = FiniteSet([[0.9, -0.4], [-0.7, 0.3], [0.1, 0.8]])


class Small(torch.nn.Module):
    """A fixed network of x and t, float64."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.w = torch.nn.Parameter(torch.randn(4, 16, generator=generator, dtype=torch.float64) * 0.4)
        self.u = torch.nn.Parameter(torch.randn(16, 2, generator=generator, dtype=torch.float64) * 0.4)

    def forward(self, x, t, **_):
        return torch.tanh(torch.cat([x, t[:, None].double(), torch.ones_like(t[:, None]).double()], 1) @ self.w) @ self.u


def gradient(process, prediction, **fields):
    """The loss and its gradient at the fixed network, on 32 samples, with times away from both ends."""
    model = dc.Denoiser(Small(), dc.Reading(prediction, "feature", "unit"), process)
    loss = REGISTRY.make("loss", "denoising", time_law={"type": "lognormal", "std": 0.8}, **fields)
    value = loss(model, POINTS.sample(32), dc.Draw(4, range(32)))
    return value, torch.cat([g.flatten() for g in torch.autograd.grad(value.mean(), list(model.net.parameters()))])


def readable(process):
    def reads(name):
        try:
            process.check_prediction(name, 0.5)
        except dc.IncompatibleError:
            return False
        return True

    return [name for name in ("x0", "eps", "v", "velocity", "edm", "score") if reads(name)]


@pytest.mark.parametrize("name", A)
@pytest.mark.parametrize("weighting", [{"type": "constant"}, {"type": "p2"}, {"type": "min-snr"}], ids=lambda w: w["type"])
def test_equal_losses_have_equal_gradients(name, weighting):
    """Target a with weight w = target b with w pinned to a: value and gradient, for all 36 pairs and three predictions (1e-8)."""
    for prediction in [*readable(A[name])[:4:2], "edm"]:
        for a in TARGETS:
            value, grad = gradient(A[name], prediction, target=a, weighting=weighting)
            assert float(grad.norm()) > 1e-6
            for b in TARGETS:
                pinned = {"type": "in-target", "target": a, "of": weighting}
                value_b, grad_b = gradient(A[name], prediction, target=b, weighting=pinned)
                torch.testing.assert_close(value_b, value, rtol=1e-8, atol=0)
                assert float((grad_b - grad).norm()) < 1e-8 * float(grad.norm()), (prediction, a, b)


def test_unpinned_losses_differ():
    """The identity above is not empty: the plain error of two targets has gradients of different direction."""
    a, b = (gradient(A["vp"], "eps", target=t)[1] for t in ("eps", "x0"))
    assert float(torch.cosine_similarity(a, b, 0)) < 0.999


@pytest.mark.item("6.07", "6.09")
@pytest.mark.parametrize("b", ["flow", "trig", "cosine", "ve"])
@pytest.mark.parametrize("prediction", ["x0", "eps", "edm"])
def test_the_schedule_is_a_choice_of_the_time_law(prediction, b):
    """VP and VP on another schedule: the same levels, noise and weights give the same loss and gradient of one network."""
    there = Transformed(of=A["vp"], to=A[b])
    for process, weighting in ((A["vp"], {"type": "snr"}), (A["vp"], {"type": "p2"})):
        value, grad = gradient(process, prediction, target="x0", weighting=weighting)
        moved, moved_grad = gradient(there, prediction, target="x0", weighting=weighting)
        torch.testing.assert_close(moved, value, rtol=1e-6, atol=0)
        assert float((moved_grad - grad).norm()) < 1e-6 * float(grad.norm())


@pytest.mark.item("6.05")
def test_errors_of_the_targets():
    """6.05: |ds|^2 = |de|^2 / s^2 = a^2 |dx|^2 / s^4 = (a / (s (a's - as')))^2 |dv|^2, from the weights of `in-target`."""
    for process in A.values():
        at = process.coeffs(process.t_of_lam(torch.linspace(-3, 3, 13, dtype=torch.float64)))
        a, s, da, ds = at.alpha, at.sigma, at.dalpha, at.dsigma
        pinned = InTarget(of=P2(gamma=0.0), target="score")
        one = 1 / (P2(gamma=0.0)(at, dc.row("score", at)))  # P2 at gamma 0 is 1 in eps, and 1 / s^2 of it in score
        want = {"eps": s**-2, "x0": a**2 / s**4, "velocity": (a / (s * (da * s - a * ds))) ** 2}
        for name, weight in want.items():
            found = pinned(at, dc.row(name, at)) * one
            torch.testing.assert_close(found, weight, rtol=1e-10, atol=0)


@pytest.mark.item("6.09")
def test_p2_in_its_published_form():
    at = levels(torch.linspace(-4, 4, 9, dtype=torch.float64))
    snr = (at.alpha / at.sigma) ** 2
    torch.testing.assert_close(P2(gamma=0.5, k=2.0)(at, (0.0, 1.0)), (2 + snr) ** -0.5)
    torch.testing.assert_close(P2(gamma=0.5, k=2.0)(at, (1.0, 0.0)), snr * (2 + snr) ** -0.5)
    of_velocity = (at.alpha / (at.dalpha * at.sigma - at.alpha * at.dsigma)) ** 2  # 6.05
    torch.testing.assert_close(P2(gamma=0.5, k=2.0)(at, dc.row("velocity", at)), of_velocity * (2 + snr) ** -0.5)


def test_levels_move_at_their_derivatives():
    lam, h = torch.linspace(-3, 3, 7, dtype=torch.float64), 1e-5
    at, up, down = levels(lam), levels(lam + h), levels(lam - h)
    torch.testing.assert_close(at.dalpha, (up.alpha - down.alpha) / (2 * h), rtol=1e-7, atol=0)
    torch.testing.assert_close(at.dsigma, (up.sigma - down.sigma) / (2 * h), rtol=1e-7, atol=0)


# --- 6.10 --------------------------------------------------------------------------------------------------------------

STD, NOISY, CLEAN = 0.7, -6.0, 7.0
LAM = torch.linspace(CLEAN, NOISY, 200_001, dtype=torch.float64)


def mmse(lam):
    """E|eps error|^2 per dimension of the exact denoiser of N(m, d^2): snr d^2 / (snr d^2 + 1)."""
    snr = torch.exp(2 * lam) * STD**2
    return snr / (1 + snr)


def bound(lam):
    """int mmse dlam from the noisy end, closed form: (1/2) log of the ratio of 1 + snr d^2."""
    return (torch.log1p(torch.exp(2 * lam) * STD**2) - math.log1p(math.exp(2 * NOISY) * STD**2)) / 2


def direct(weighting):
    """int w E|eps error|^2 dlam by the trapezoid rule."""
    value = weighting(levels(LAM), (0.0, 1.0)) * mmse(LAM)
    return float(torch.trapezoid(value, -LAM))


MONOTONE = {
    "sigmoid": REGISTRY.make("weighting", "sigmoid"),
    "min-snr": REGISTRY.make("weighting", "min-snr"),
    "p2": P2(),
    "elbo": P2(gamma=0.0),
    "edm-monotonic": Monotone(of=REGISTRY.make("weighting", "edm"), mean=-1.2),
}


@pytest.mark.item("6.10")
@pytest.mark.parametrize("name", MONOTONE)
def test_a_monotone_weighting_is_an_average_of_bounds(name):
    """The direct integral equals the average of closed-form ELBOs under -w' (1e-6), and no mass is negative."""
    weighting = MONOTONE[name]
    average = mixture(weighting, LAM)
    assert average.is_average
    assert float(average.of(bound(average.lam))) == pytest.approx(direct(weighting), rel=1e-6)


@pytest.mark.item("6.10")
def test_a_weighting_that_rises_is_none():
    """EDM's own recipe falls towards noise: the identity holds, with negative masses."""

    class Recipe(Monotone):
        def __call__(self, at, row):
            return self.level(at.lam)

    weighting = Recipe(of=REGISTRY.make("weighting", "edm"), mean=-1.2)
    average = mixture(weighting, LAM)
    assert not average.is_average
    assert float(average.of(bound(average.lam))) == pytest.approx(direct(weighting), rel=1e-6)
    rises = average.lam[average.mass < 0]
    top = float(LAM[weighting.level(LAM).argmax()])
    assert float(rises.max()) < top + 1e-3  # only on the noisy side of the maximum


@pytest.mark.item("D2")
def test_the_recipe_of_edm_in_its_published_form():
    """log sigma ~ N(-1.2, 1.2^2) and (sigma^2 + sd^2) / (sigma sd)^2 on x_0, in lam = -log sigma."""
    lam = torch.linspace(-4, 4, 9, dtype=torch.float64)
    density = torch.distributions.Normal(1.2, 1.2).log_prob(lam.float()).double().exp()
    found = Monotone(of=REGISTRY.make("weighting", "edm"), mean=-1.2).level(lam)
    torch.testing.assert_close(found, density * (1 + torch.exp(-2 * lam) / 0.25), rtol=1e-5, atol=0)


@pytest.mark.item("6.10")
def test_monotone_is_the_least_majorant():
    """Above w, falling, equal to w right of the maximum and to the maximum left of it; a monotone one is left as it is."""
    edm = Monotone(of=REGISTRY.make("weighting", "edm"), mean=-1.2)
    lam = torch.linspace(-5, 6, 2001, dtype=torch.float64)
    at, w = levels(lam), edm.level(lam)
    made = edm(at, (0.0, 1.0))
    top = int(w.argmax())
    assert bool((made >= w * (1 - 1e-9)).all())  # lam is read back from alpha and sigma
    assert bool((made.diff() <= 1e-6 * made.max()).all())
    torch.testing.assert_close(made[top + 1 :], w[top + 1 :], rtol=1e-12, atol=0)
    torch.testing.assert_close(made[:top], w.max().expand(top), rtol=2e-6, atol=0)
    torch.testing.assert_close(Monotone(of=P2())(at, (0.0, 1.0)), P2()(at, (0.0, 1.0)), rtol=1e-12, atol=0)
    torch.testing.assert_close(Monotone(of=edm)(at, (0.0, 1.0)), made, rtol=2e-6, atol=0)
    far = levels(torch.tensor([-17.0, 15.5, 17.0], dtype=torch.float64))  # off the table of maxima
    torch.testing.assert_close(Monotone(of=P2())(far, (0.0, 1.0)), P2()(far, (0.0, 1.0)), rtol=1e-9, atol=0)


def test_weights_are_made_where_the_times_are():
    at = levels(LAM[:5]).map(lambda v: v.to("meta"))
    assert Monotone(of=P2())(at, (0.0, 1.0)).device.type == "meta"


@pytest.mark.item("4.17", "6.10")
@pytest.mark.parametrize("name", ["vp", "flow", "edm"])
def test_the_elbo_does_not_depend_on_the_schedule(name):
    """4.17, 6.10: int (-lam') E|eps error|^2 dt with `clock: t` is (1/2) log((1 + snr d^2) / ...) between the same levels."""
    process, weighting = A[name], Monotone(of=P2(gamma=0.0), clock="t")
    ends = process.t_of_lam(torch.tensor([4.0, -4.0], dtype=torch.float64))
    t = ends[0] * (ends[1] / ends[0]) ** torch.linspace(0, 1, 40_001, dtype=torch.float64)
    at = process.coeffs(t)
    v = at.alpha**2 * STD**2 + at.sigma**2
    for target, error in (("eps", at.alpha**2 * STD**2 / v), ("x0", at.sigma**2 * STD**2 / v)):
        total = torch.trapezoid(weighting(at, dc.row(target, at)) * error, t)
        assert float(total) == pytest.approx(float(bound(torch.tensor(4.0)) - bound(torch.tensor(-4.0))), rel=1e-6)


def test_the_denoising_loss_with_the_elbo_weight_is_the_mutual_information():
    """The core's loss on Gaussian data with exact network: mean loss (T - min_time) = I(x_0; x_tmin) - I(x_0; x_T), 4 s.e."""
    from diffcore.testing import Gaussian

    data, process, n = Gaussian(0.3, STD, shape=(64,)), A["edm"], 512
    weighting = {"type": "monotone", "of": {"type": "p2", "gamma": 0.0}}
    loss = REGISTRY.make("loss", "denoising", target="eps", weighting=weighting, time_law={"type": "uniform", "over": "lam"})
    values = loss(data.denoiser(process, "x0"), data.sample(n), dc.Draw(2, range(n)))
    first, last = process.coeffs(torch.tensor([process.min_time, process.T], dtype=torch.float64)).lam.tolist()
    want = (math.log1p(math.exp(2 * first) * STD**2) - math.log1p(math.exp(2 * last) * STD**2)) / 2
    assert abs(float(values.mean()) * (first - last) - want) < 4 * float(values.std()) / n**0.5 * (first - last)

"""The loss against hand-written formulas, its optimum and its minimiser on closed-form data."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_denoising.denoising import Denoising
from diffcore_denoising.time_laws import LogitNormal, LogNormal, Uniform
from diffcore_denoising.weightings import EDM, SNR, Constant, MinSNR, Sigmoid

import diffcore as dc
from diffcore.testing import FiniteSet, Gaussian

TARGETS = ["x0", "eps", "score", "v", "velocity", "edm"]
READABLE = ["x0", "v", "velocity", "edm"]  # readable under every process, at T too


class Recorder:
    """A network of no meaning that remembers what it was given."""

    def __init__(self, **null):
        self.null_cond = null

    def __call__(self, x, t, **cond):
        self.x, self.t, self.cond = x, t, cond
        return torch.sin(3 * x) + x.flip(-1) * t.reshape(-1, *[1] * (x.ndim - 1)) / 7


def batch(n=24, shape=(3,)):
    return dc.Draw(1, range(n)).normal(shape, torch.float64)


def law_of(process):
    """Times at which neither alpha nor sigma is tiny, so that 1e-10 can be asked for."""
    return LogNormal(mean=-0.3, std=0.6) if process.T == 80 else LogitNormal(mean=-0.5, std=0.5)


@pytest.mark.item("3.08", "6.05")
@pytest.mark.parametrize("prediction", READABLE)
def test_losses_of_all_targets_agree_up_to_known_factors(process, prediction):
    """6.05: |d score|^2 = |d eps|^2 / s^2 = a^2 |d x0|^2 / s^4 = (a / (s (a' s - a s')))^2 |d velocity|^2."""
    net, x0, draw = Recorder(), batch(), dc.Draw(9, range(24))
    model = dc.Denoiser(net, dc.Reading(prediction, sigma_data=0.7), process)
    value = {t: Denoising(target=t, time_law=law_of(process))(model, x0, draw) for t in TARGETS}
    at = process.coeffs(net.t.double())
    a, s, da, ds = at.alpha, at.sigma, at.dalpha, at.dsigma
    norm = a**2 * 0.49 + s**2
    for name, factor in {
        "x0": a**2 / s**4,
        "eps": s**-2,
        "v": a**2 / (s**2 * (a**2 + s**2)),
        "velocity": (a / (s * (da * s - a * ds))) ** 2,
        "edm": a**2 / s**4 * (s * 0.7) ** 2 / norm,
    }.items():
        torch.testing.assert_close(value["score"], factor * value[name], rtol=1e-10, atol=0)


@pytest.mark.item("2.12", "2.13", "4.06", "6.03", "6.07")
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_its_combination_of_data_and_noise(process, target):
    """6.03: eps, x_0, -eps / s, a eps - s x_0, a' x_0 + s' eps and Karras' F, of the data and of the guess alike."""
    net, x0 = Recorder(), batch()
    found = Denoising(target=target, time_law=law_of(process))(
        dc.Denoiser(net, dc.Reading("x0", sigma_data=0.7), process), x0, dc.Draw(9, range(24))
    )
    a, s, da, ds = (v[:, None] for v in (lambda c: (c.alpha, c.sigma, c.dalpha, c.dsigma))(process.coeffs(net.t.double())))
    norm = (0.49 * a**2 + s**2).sqrt()

    def combined(x):
        eps = (net.x - a * x) / s
        return {
            "x0": x,
            "eps": eps,
            "score": -eps / s,
            "v": (a * eps - s * x) / (a**2 + s**2) ** 0.5,
            "velocity": da * x + ds * eps,
            "edm": (x - 0.49 * a / norm**2 * net.x) * norm / (0.7 * s),
        }[target]

    want = (combined(net(net.x, net.t)) - combined(x0)).square().mean(1)
    torch.testing.assert_close(found, want, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("prediction", READABLE)
@pytest.mark.parametrize("weighting", [SNR(), MinSNR(), EDM(), Sigmoid()])
def test_a_weighting_is_the_same_loss_in_every_target(process, prediction, weighting):
    model = dc.Denoiser(Recorder(), dc.Reading(prediction, sigma_data=0.7), process)
    x0, draw = batch(), dc.Draw(9, range(24))
    values = [Denoising(target=t, weighting=weighting, time_law=law_of(process))(model, x0, draw) for t in TARGETS]
    for value in values[1:]:
        torch.testing.assert_close(value, values[0], rtol=1e-10, atol=0)


def test_is_the_flow_matching_loss_written_by_hand(processes):
    net, x0, draw = Recorder(), batch(6, (2, 3)), dc.Draw(4, range(6))
    found = Denoising()(dc.Denoiser(net, "velocity", processes["flow"]), x0, draw)
    t = net.t.reshape(-1, 1, 1)
    eps = (net.x - (1 - t) * x0) / t
    torch.testing.assert_close(found, (net(net.x, net.t) - (eps - x0)).square().mean((1, 2)), rtol=1e-9, atol=1e-12)


def test_target_defaults_to_the_prediction(process):
    x0, draw = batch(), dc.Draw(9, range(24))
    for prediction in READABLE:
        model = dc.Denoiser(Recorder(), prediction, process)
        assert torch.equal(Denoising()(model, x0, draw), Denoising(target=prediction)(model, x0, draw))


def perturbed(oracle, process, prediction, size):
    """The exact network plus a small smooth error."""
    exact = oracle.net(process, prediction)

    def net(x, t):
        return exact(x, t) + size * torch.cos(x)

    return dc.Denoiser(net, prediction, process)


def slopes(oracle, process, loss, prediction, n, at=0.0):
    """Per-sample derivatives of the loss along the error, at an error of size `at`; exact, as the loss is quadratic in it."""
    x0, draw = oracle.sample(n, dc.Draw(6, range(n), block=1000)), dc.Draw(7, range(n), block=1000)
    up, down = (loss(perturbed(oracle, process, prediction, at + h), x0, draw) for h in (0.5, -0.5))
    return up - down


@pytest.mark.item("2.12", "6.07")
@pytest.mark.parametrize("weighting", [Constant(), MinSNR(), EDM()])
@pytest.mark.parametrize(("target", "prediction"), [("x0", "velocity"), ("eps", "x0"), ("velocity", "velocity")])
def test_every_choice_has_the_posterior_mean_as_minimiser(process, target, weighting, prediction):
    """6.07 on a finite data set: the gradient vanishes at the exact denoiser (4 standard errors), and not beside it."""
    points = FiniteSet([[-1.0], [-0.2], [0.1], [1.5]])
    loss = Denoising(target=target, weighting=weighting, time_law=law_of(process))
    slope = slopes(points, process, loss, prediction, 2000)
    error = slope.std() / math.sqrt(2000)
    assert abs(float(slope.mean())) < 4 * error
    beside = slopes(points, process, loss, prediction, 2000, at=2.0)
    assert float(beside.mean()) > 10 * beside.std() / math.sqrt(2000)


MMSE = {  # of N(m, d^2) per entry, with V = a^2 d^2 + s^2
    "x0": lambda a, s, d: d**2 * s**2 / (a**2 * d**2 + s**2),
    "eps": lambda a, s, d: a**2 * d**2 / (a**2 * d**2 + s**2),
    "v": lambda a, s, d: (a**2 + s**2) * d**2 / (a**2 * d**2 + s**2),
}


@pytest.mark.parametrize("target", list(MMSE))
def test_the_loss_of_the_exact_denoiser_is_the_minimum_mean_square_error(process, target):
    """Fixture a: the mean loss is the integral of the closed-form error over the time law (4 standard errors)."""
    d, n, law = 0.6, 6000, LogNormal(mean=-0.5, std=0.8)
    gauss = Gaussian(0.4, d, shape=(4,))
    model = gauss.denoiser(process, "velocity")
    value = Denoising(target=target, time_law=law)(model, gauss.sample(n), dc.Draw(8, range(n), block=1000))
    at = process.coeffs(law.quantile(process, (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000))
    exact = float(MMSE[target](at.alpha, at.sigma, d).mean())
    assert abs(float(value.mean()) - exact) < 4 * float(value.std()) / math.sqrt(n)


@pytest.mark.item("D1", "D2")
@pytest.mark.parametrize("prediction", ["edm", "x0"])
def test_a_network_that_starts_at_zero_has_unit_edm_loss(processes, prediction):
    """D2. The zero of F is the Wiener filter c_skip x_t in x_0."""
    sd, n = 0.8, 20000
    process = processes["levels"]
    x0 = sd * dc.Draw(0, range(n), block=1000).normal((2,), torch.float64)

    def net(x, t):
        zero = torch.zeros_like(x)
        return zero if prediction == "edm" else x * (sd**2 / (sd**2 + t**2))[:, None]

    loss = Denoising(target="x0", weighting=EDM(sigma_data=sd), time_law=LogNormal())
    value = loss(dc.Denoiser(net, dc.Reading(prediction, sigma_data=sd), process), x0, dc.Draw(3, range(n), block=1000))
    assert abs(float(value.mean()) - 1) < 4 * float(value.std()) / math.sqrt(n)


def test_conditions_are_dropped_at_the_rate_and_together():
    n, rate = 20000, 0.1
    cond = {"label": torch.zeros(n, dtype=torch.int64), "style": torch.zeros(n, 2), "depth": torch.zeros(n)}
    found = dc.dropped(cond, {"label": 10, "style": 7.0}, rate, dc.Draw(1, range(n), block=1000))
    hit = found["label"] == 10
    assert abs(float(hit.double().mean()) - rate) < 4 * math.sqrt(rate * (1 - rate) / n)
    assert torch.equal(hit[:, None].expand(-1, 2), found["style"] == 7.0)
    assert found["depth"] is cond["depth"]  # the model has no null value for it


def test_dropping_changes_nothing_but_the_condition(processes):
    class Conditional(Recorder):
        def __call__(self, x, t, label):
            return super().__call__(x, t, label=label) + label[:, None]

    net, x0, draw, label = Conditional(label=3), batch(), dc.Draw(2, range(24)), torch.arange(24) % 3
    model = dc.Denoiser(net, "velocity", processes["flow"])
    never, always = (Denoising(drop=p)(model, x0, draw, label=label) for p in (0.0, 1.0))
    assert torch.equal(always, Denoising(drop=0.0)(model, x0, draw, label=torch.full_like(label, 3)))
    some = Denoising(drop=0.5)(model, x0, draw, label=label)
    hit = net.cond["label"] == 3
    assert 0 < int(hit.sum()) < 24
    assert torch.equal(some, torch.where(hit, always, never))


def test_unconditional_models_ignore_the_drop_rate(processes):
    model = dc.Denoiser(Recorder(), "velocity", processes["flow"])
    x0, draw = batch(), dc.Draw(2, range(24))
    assert torch.equal(Denoising(drop=1.0)(model, x0, draw), Denoising(drop=0.0)(model, x0, draw))


def test_two_processes_compute_the_losses_of_one(processes):
    model, loss = dc.Denoiser(Recorder(), "velocity", processes["flow"]), Denoising(time_law=LogitNormal())
    x0 = batch(8)
    whole = loss(model, x0, dc.Draw(5, range(8), index=3, block=4))
    parts = [loss(model, x0[r], dc.Draw(5, range(8)[r], index=3, block=4)) for r in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat(parts), whole)


def test_time_noise_and_dropping_are_independent_draws(processes):
    """Correlations of time, noise and condition over 20000 samples stay within 4 standard errors of 0."""
    n, net = 20000, Recorder(label=1)
    model = dc.Denoiser(net, "velocity", processes["flow"])
    Denoising(drop=0.5)(model, torch.zeros(n, 1).double(), dc.Draw(0, range(n), block=1000), label=torch.zeros(n).long())
    seen = torch.stack([net.t.double(), (net.x[:, 0] / net.t).double(), net.cond["label"].double()])
    assert float((torch.corrcoef(seen) - torch.eye(3)).abs().max()) < 4 / math.sqrt(n)


def test_the_loss_of_a_tree_is_the_mean_over_all_its_entries(processes):
    def net(x, t):
        return {k: 2 * v for k, v in x.items()}

    x0 = {"a": batch(5, (3,)), "b": batch(5, (2, 2))}
    seen = {}

    class Spy(Denoising):
        pass

    def recording(x, t):
        seen.update(x=x, t=t)
        return net(x, t)

    found = Spy()(dc.Denoiser(recording, "velocity", processes["flow"]), x0, dc.Draw(3, range(5)))
    t, total = seen["t"], 0
    for key, x in seen["x"].items():
        lift = t.reshape(-1, *[1] * (x.ndim - 1))
        eps = (x - (1 - lift) * x0[key]) / lift
        total = total + (2 * x - (eps - x0[key])).square().flatten(1).sum(1)
    torch.testing.assert_close(found, total / 7, rtol=1e-9, atol=1e-12)


def test_a_weight_per_entry_applies_to_its_entry(processes):
    class PerEntry(type(processes["flow"])):
        """A straight path on which entry j runs at the time t^(j + 1)."""

        def corrupt(self, x0, t, draw):
            return super().corrupt(x0, t[:, None] ** torch.arange(1, x0.shape[1] + 1), draw)

    net, x0, draw = Recorder(), batch(6, (2,)), dc.Draw(3, range(6))

    def run(x, t):
        net.x, net.t = x, t
        return torch.sin(x)

    found = Denoising(weighting=SNR())(dc.Denoiser(run, "x0", PerEntry()), x0, draw)
    expected = ((1 - net.t) / net.t) ** 2 * (torch.sin(net.x) - x0) ** 2
    torch.testing.assert_close(found, expected.mean(1), rtol=1e-9, atol=0)


def test_gradients_reach_the_network_through_a_conversion(processes):
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    model = dc.Denoiser(lambda x, t: scale * x, "v", processes["vp"])
    loss, x0, draw = Denoising(target="x0", time_law=Uniform()), batch(), dc.Draw(2, range(24))
    (grad,) = torch.autograd.grad(loss(model, x0, draw).sum(), scale)

    def at(value):
        return loss(dc.Denoiser(lambda x, t: value * x, "v", processes["vp"]), x0, draw).sum()

    assert float(grad) == pytest.approx(float(at(0.701) - at(0.699)) / 0.002, rel=1e-8)  # quadratic: exact


def test_a_coupling_moves_the_noise_and_nothing_else(processes):
    """Noise paired in reverse order: x_t = (1 - t) x_0 + t eps_reversed, the same times and data as without."""

    @dc.component
    class Reversed(dc.Coupling):
        """The last noise to the first sample."""

        consumes = ("order",)

        def pair(self, x0, eps, draw, **cond):
            assert cond["order"] == "reversed"
            return eps.flip(0)

    seen, x0, draw = [], batch(6, (2,)), dc.Draw(3, range(6))
    model = dc.Denoiser(lambda x, t: seen.append((x, t)) or x, "x0", processes["flow"])
    for coupling in (None, Reversed()):
        Denoising(coupling=coupling)(model, x0, draw, **({"order": "reversed"} if coupling else {}))
    (plain, t), (moved, same) = seen
    assert torch.equal(t, same)
    eps = (plain - (1 - t[:, None]) * x0) / t[:, None]
    torch.testing.assert_close(moved, (1 - t[:, None]) * x0 + t[:, None] * eps.flip(0), rtol=1e-9, atol=1e-9)

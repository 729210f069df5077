"""Classifier-free guidance against closed forms, and what it costs."""

import math

import pytest
import torch
from diffcore_guidance.cfg import CFG
from diffcore_guidance.threshold import DynamicThreshold

import diffcore as dc
from diffcore.testing import Gaussian, Mixture, ReferenceFlow, ReferenceVE, ReferenceVP, instant

VP, VE, FLOW = ReferenceVP(), ReferenceVE(), ReferenceFlow()
LABELLED = Mixture([0.3, 0.7], torch.tensor([[-1.5, 0.4], [1.0, -0.2]], dtype=torch.float64), [0.3, 0.5])
X = torch.linspace(-2, 2, 10, dtype=torch.float64).reshape(5, 2)
LABEL = torch.tensor([0, 1, 1, 0, 1])
NULL = torch.full((5,), 2)


def largest(x, y):
    return float((x - y).abs().max())


@dc.component
class Midpoint(dc.Stepper):
    """The midpoint rule on the velocity: two evaluations a step, none at its end."""

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, m=process.coeffs((t.t + s.t) / 2), h=s.t - t.t)

    def step(self, field, x, row, carry, z):
        middle = dc.lincomb((1, x), (row.h / 2, field.velocity(x, row.t)))
        return dc.Moved(dc.lincomb((1, x), (row.h, field.velocity(middle, row.m))))


@pytest.mark.parametrize("prediction", ["x0", "eps", "v", "velocity", "edm"])
@pytest.mark.parametrize(("weight", "label"), [(0.0, NULL), (1.0, LABEL)])
def test_weights_zero_and_one_are_single_branches(prediction, weight, label):
    denoiser = LABELLED.denoiser(VP, prediction)
    with dc.Meter() as meter:
        guided = CFG(weight=weight).denoiser(denoiser)(X, 0.4, label=LABEL)
    assert (meter.calls, meter.rows) == (1, 5)
    assert torch.equal(guided.value, denoiser(X, 0.4, label=label).value)


@pytest.mark.parametrize("process", [VP, FLOW, VE], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("prediction", ["x0", "v", "velocity", "edm"])
@pytest.mark.parametrize("weight", [-0.5, 2.0, 7.5])
def test_the_combination_is_the_same_in_every_target(process, prediction, weight):
    """w c + (1 - w) u of every target, from the oracle, whatever the network predicts."""
    t = 0.3 * process.T
    at = instant(process, t)
    given, free = (dict(zip(("x0", "eps"), LABELLED.moments(X, at, k), strict=True)) for k in (LABEL, NULL))
    guided = CFG(weight=weight).denoiser(LABELLED.denoiser(process, prediction))(X, t, label=LABEL)
    for target in ("x0", "eps", "v", "velocity", "score", "edm"):
        row = dc.row(target, dc.Coeffs(*(float(v) for v in at[:5])))
        want = weight * dc.lincomb((row[0], given["x0"]), (row[1], given["eps"]))
        want += (1 - weight) * dc.lincomb((row[0], free["x0"]), (row[1], free["eps"]))
        assert largest(guided.read(target), want) < 1e-10


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_the_networks_own_target_is_combined_without_conversion(prediction):
    """No rounding but that of the combination itself, in float32 too."""
    x, denoiser = X.float(), LABELLED.denoiser(VP, prediction)
    guided = CFG(weight=3.0).denoiser(denoiser)(x, 1e-4, label=LABEL)
    given, free = (denoiser(x, 1e-4, label=k).value for k in (LABEL, NULL))
    assert guided.name == prediction
    assert torch.equal(guided.value, dc.lincomb((3.0, given), (-2.0, free)))


def test_terminal_variance_of_two_gaussians_under_ve():
    """s_c = .5, s_u = 1.5, w = 2: the guided ODE multiplies x - m by (s_c^2)^w (s_u^2)^(1-w) under the root, .0278 in the limit
    of a large T; the tilted density would have .1324."""
    given, free, top, w = 0.25, 2.25, 10.0, 2.0

    def net(x, t, label):
        variance = torch.where(label == 0, given, free)[:, None]
        return 1 + variance / (variance + t[:, None] ** 2) * (x - 1)

    denoiser = dc.Denoiser(net, "x0", VE, null={"label": 1})
    field = dc.Field(denoiser, [CFG(weight=w)], cond={"label": torch.zeros(2, dtype=torch.long)})
    x = torch.tensor([[1.0 + top], [1.0 - 2 * top]], dtype=torch.float64)
    nodes = torch.linspace(math.sqrt(top), 0.0, 601, dtype=torch.float64) ** 2
    got = dc.sample(field, Midpoint(), x, grid=nodes).x

    def root(v):
        return v / (v + top**2)

    factor = root(given) ** w * root(free) ** (1 - w)
    assert torch.allclose(((got - 1) / (x - 1)) ** 2, torch.tensor(factor, dtype=torch.float64), rtol=3e-4)
    assert abs(given**w * free ** (1 - w) - 0.0278) < 1e-4
    assert abs(factor * top**2 - 0.0278) < 1e-3


@pytest.mark.item("9.24")
def test_one_call_on_twice_the_batch():
    net = LABELLED.net(VP)
    field = dc.Field(dc.Denoiser(net, "x0", VP), [CFG(weight=3.0)], cond={"label": LABEL})
    result = dc.sample(field, Midpoint(), X, grid=[0.8, 0.5, 0.2])
    assert (result.calls, result.nfe) == (4, 8)
    assert len(net.seen) == 4


@pytest.mark.parametrize(
    "t", [0.4, torch.tensor([0.2, 0.4, 0.9, 0.1, 0.5]), torch.full((5, 2), 0.3)], ids=["()", "(B,)", "per-entry"]
)
def test_batched_equals_unbatched(t):
    denoiser = LABELLED.denoiser(VP, "eps")
    guided = CFG(weight=3.0).denoiser(denoiser)(X, t, label=LABEL)
    one, other = denoiser(X, t, label=LABEL).mean, denoiser(X, t, label=NULL).mean
    assert largest(guided.mean, 3 * one - 2 * other) < 1e-12


def test_guidance_above_another_one_evaluates_each_branch_through_it():
    """[threshold, cfg]: both branches are thresholded before they are combined."""
    denoiser, small = LABELLED.denoiser(VP), DynamicThreshold(limit=0.5)
    stacked = CFG(weight=2.0).denoiser(small.denoiser(denoiser))(X, 0.2, label=LABEL)
    parts = [small.denoiser(denoiser)(X, 0.2, label=k).mean for k in (LABEL, NULL)]
    assert largest(stacked.mean, 2 * parts[0] - parts[1]) < 1e-12


def test_a_null_value_may_be_a_tensor_and_other_conditions_stay():
    """A text-like embedding is dropped, a condition without a null value is kept in both branches."""
    seen = []

    def net(x, t, text, mask):
        seen.append((text, mask))
        return x + text.sum(1, keepdim=True) + mask

    denoiser = dc.Denoiser(net, "x0", VP, null={"text": torch.tensor([0.0, 5.0])})
    text, mask = torch.ones(5, 2), torch.arange(5.0)[:, None]
    guided = CFG(weight=2.0).denoiser(denoiser)(X, 0.5, text=text, mask=mask)
    assert torch.equal(seen[0][0], torch.cat([text, torch.tensor([[0.0, 5.0]]).expand(5, 2)]))
    assert torch.equal(seen[0][1], torch.cat([mask, mask]))
    assert largest(guided.mean, X + mask + 2 * 2.0 - 5.0) < 1e-12


def test_without_a_condition_there_is_nothing_to_guide():
    denoiser = LABELLED.denoiser(VP)
    with dc.Meter() as meter:
        assert torch.equal(CFG(weight=4.0).denoiser(denoiser)(X, 0.4).mean, denoiser(X, 0.4).mean)
    assert meter.calls == 2


def test_a_network_that_never_saw_no_condition_is_refused():
    denoiser = dc.Denoiser(lambda x, t, label: x, "x0", VP)
    with pytest.raises(dc.IncompatibleError, match=r"no null value for label; give Denoiser\(\.\.\., null=\{'label': \.\.\.\}\)"):
        CFG(weight=2.0).denoiser(denoiser)(X, 0.4, label=LABEL)


def conditional(t):
    return LABELLED.denoiser(VP)(X, t, label=LABEL).mean


def test_full_rescale_restores_the_conditional_deviation():
    for prediction in ("x0", "eps", "v", "velocity"):
        guided = CFG(weight=6.0, rescale=1.0).denoiser(LABELLED.denoiser(VP, prediction))(X, 0.4, label=LABEL).mean
        assert torch.allclose(guided.std(1), conditional(0.4).std(1), rtol=1e-9)


def test_rescale_is_equation_16_of_the_paper():
    """phi x std(x_c) / std(x) + (1 - phi) x, sample by sample; the same for every prediction."""
    plain = CFG(weight=6.0).denoiser(LABELLED.denoiser(VP))(X, 0.4, label=LABEL).mean
    factor = conditional(0.4).std(1, keepdim=True) / plain.std(1, keepdim=True)
    for prediction in ("x0", "eps", "v"):
        guided = CFG(weight=6.0, rescale=0.7).denoiser(LABELLED.denoiser(VP, prediction))(X, 0.4, label=LABEL).mean
        assert largest(guided, 0.7 * plain * factor + 0.3 * plain) < 1e-10


def test_rescale_of_a_constant_sample_changes_nothing():
    field = Gaussian(0.5, 0.2, shape=(1,))
    net = field.net(VP)
    denoiser = dc.Denoiser(lambda x, t, label: net(x, t), "x0", VP, null={"label": 1})
    x, label = X[:, :1], torch.zeros(5, dtype=torch.long)
    guided = CFG(weight=3.0, rescale=1.0).denoiser(denoiser)(x, 0.4, label=label)
    assert largest(guided.mean, denoiser(x, 0.4, label=label).mean) < 1e-14

"""The MeanFlow loss at networks that are exact in closed form, with planted errors; its parts one by one; a toy training."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_flowmaps.mean_flow import MeanFlow
from diffcore_flowmaps.mean_flow_loss import NOISE, MeanFlowLoss
from scipy import stats
from torch import nn

import diffcore as dc
from diffcore.testing import Mixture, ReferenceFlow, ReferenceVP
from diffcore.testing.recording import keys_drawn, repeated

PLAIN = {"power": 0.0, "drop": 0.0}
POINTS = torch.tensor([[0.7, -1.2], [-0.4, 0.3], [1.5, 0.9]], dtype=torch.float64)  # two classes, and the null value


def many(n, block=500):
    return dc.Draw(3, range(n), block=block)


def scene(process, points, raw=None, n=64):
    """A model of single points per class that is exact, data of class 0 and 1, and their labels."""
    model = dc.Denoiser(
        points(process, POINTS, raw),
        dc.Reading(
            "velocity", "feature" if raw is not None else "t", "unit" if raw is not None else "none", sigma_data=raw or 0.5
        ),
        process,
    )
    label = torch.arange(n) % 2
    return model, POINTS[label], label


@pytest.mark.item("R16")
@pytest.mark.parametrize("raw", [None, 0.7])
def test_loss_is_zero_where_the_network_is_exact(process, points, raw):
    """One point per class: the sample's velocity is the marginal one, so the identity holds sample by sample."""
    model, x0, label = scene(process, points, raw)
    value = MeanFlowLoss(ratio=1.0, **PLAIN)(model, x0, many(64), label=label)
    assert float(value.max()) < 1e-18


@pytest.mark.item("R16")
def test_guided_loss_is_zero_where_the_network_is_the_guided_field(process, points):
    """The velocity of a point is linear in the point: guidance w moves the class points to w m + (1 - w) m_null."""
    w, (_, x0, label) = 2.5, scene(process, points)
    guided = torch.cat([w * POINTS[:2] + (1 - w) * POINTS[2], POINTS[2:]])
    model = dc.Denoiser(points(process, guided), "velocity", process)
    value = MeanFlowLoss(ratio=0.5, guidance=w, **PLAIN)(model, x0, many(64), label=label)
    assert float(value.max()) < 1e-18


def test_samples_without_condition_are_not_guided(process, points):
    model, x0, label = scene(process, points)
    plain, guided = (MeanFlowLoss(guidance=w, power=0.0, drop=1.0)(model, x0, many(64), label=label) for w in (1.0, 4.0))
    assert torch.equal(plain, guided)


WRONG = {
    "the sign": lambda jvp: lambda f, x, v: tuple(-a if i else a for i, a in enumerate(jvp(f, x, v))),
    "no derivative in t": lambda jvp: lambda f, x, v: jvp(f, x, (v[0], *(0 * a for a in v[1:]))),
    "no derivative in x": lambda jvp: lambda f, x, v: jvp(f, x, (0 * v[0], *v[1:])),
    "a fixed scale of the input": lambda jvp: lambda f, x, v: jvp(f, x, (*v[:2], 0 * v[2], 0 * v[3])),
}


@pytest.mark.parametrize("error", list(WRONG))
def test_a_wrong_tangent_is_seen(points, early_stop, monkeypatch, error):
    """On a curved path: along a straight one h is constant, and the sign of its derivative is of no consequence."""
    process = early_stop(inner=ReferenceVP())
    monkeypatch.setattr(torch.func, "jvp", WRONG[error](torch.func.jvp))
    model, x0, label = scene(process, points, 0.7)
    assert float(MeanFlowLoss(ratio=1.0, **PLAIN)(model, x0, many(64), label=label).mean()) > 1e-3


@pytest.mark.item("R16")
def test_identity_holds_on_gaussian_data(process, exact, gauss):
    """11.20: h = v - (t - s)((d_x h) v + d_t h) with the marginal velocity, to 1e-9."""
    draw = many(200)
    model = dc.Denoiser(exact(gauss, process), "velocity", process)
    u = draw.uniform((2,)).sort(1).values
    s, t = (process.min_time + u * (process.T - process.min_time)).unbind(1)
    at, x = process.coeffs(t), 1.5 * draw.normal((3,), torch.float64)
    v = gauss.velocity(x, at)
    right = v - (t - s)[:, None] * dc.along(model, x, at, dc.Instant(s), v)[1]
    residual = model.network(x, at, dc.Instant(s)) - right
    assert float((residual / v.abs().max()).abs().max()) < 1e-9


def test_gradient_vanishes_at_the_exact_network(process, exact, gauss):
    """The target averages over the posterior to the marginal identity: the mean of the per-sample gradients is 0."""
    n = 8000
    net, size = exact(gauss, process), torch.zeros(n, 1, dtype=torch.float64, requires_grad=True)

    def beside(x, t, s=None):
        return net(x, t, s) + (size if len(x) == n else 0.0) * torch.cos(x)

    loss = MeanFlowLoss(ratio=0.5, **PLAIN)
    value = loss(dc.Denoiser(beside, "velocity", process), gauss.sample(n, many(n).fold(9)), many(n))
    (each,) = torch.autograd.grad(value.sum(), size)
    assert abs(float(each.mean())) < 4 * float(each.std()) / math.sqrt(n)


@pytest.mark.item("R16")
def test_the_target_has_no_gradient():
    """h = a t has dh/dt = a: the loss is (a t - v + (t - s) a)^2, its gradient 2 (a t - v + (t - s) a) t and no more."""
    a, seen = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), []

    def net(x, t, s=None):
        seen.append((x, t, s))
        return a * t[:, None] + 0 * x

    x0 = many(32).normal((1,), torch.float64)
    value = MeanFlowLoss(ratio=1.0, **PLAIN)(dc.Denoiser(net, "velocity", ReferenceFlow()), x0, many(32))
    (x, t, s), a0 = seen[0], 0.7
    error = a0 * t - ((x - x0)[:, 0] / t) + (t - s) * a0  # on the straight path v = (x_t - x_0) / t
    torch.testing.assert_close(value, error**2, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), a)[0], (2 * error * t).sum())


class MLP(nn.Module):
    """A small perceptron of x, t and t - s."""

    def __init__(self, size=2, width=64, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(size + 2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, size)]
        self.body = nn.Sequential(*layers).to(dtype)

    def forward(self, x, t, s=None):
        gap = torch.zeros_like(t) if s is None else t - s
        return self.body(torch.cat([x, t[:, None], gap[:, None]], 1))


@pytest.mark.parametrize("precondition", [False, True])
def test_derivative_is_the_difference_along_the_trajectory(process, precondition):
    """11.09: dh/dt = (h(x + e v, t + e, s) - h(x - e v, t - e, s)) / 2e, through input scaling and time embedding."""
    model = dc.Denoiser(
        MLP(3, dtype=torch.float64),
        dc.Reading("velocity", "feature" if precondition else "t", "unit" if precondition else "none"),
        process,
    )
    draw, e = many(40), 1e-5 * process.T
    t = process.T * (0.1 + 0.8 * draw.uniform())
    x, v, end = draw.normal((3,), torch.float64), draw.fold(1).normal((3,), torch.float64), dc.Instant(t * draw.fold(2).uniform())
    up, down = (model.network(x + h * v, process.coeffs(t + h), end) for h in (e, -e))
    found = dc.along(model, x, process.coeffs(t), end, v)[1]
    torch.testing.assert_close(found, (up - down) / (2 * e), rtol=1e-6, atol=1e-7)


def test_without_a_second_time_it_is_flow_matching_to_the_bit(process):
    net, x0, draw = MLP(), many(32).normal((2,)), many(32)
    model, loss = dc.Denoiser(net, "velocity", process), MeanFlowLoss(ratio=0.0, power=0.0)
    value = loss(model, x0, draw)
    noised = process.corrupt(x0, loss.times(process, draw)[0], draw.fold(NOISE))
    by_hand = (model(noised.xt, noised.at).velocity - noised.target("velocity")).square().sum(1)
    assert torch.equal(value, by_hand)
    grads = [torch.autograd.grad(v.mean(), list(net.parameters())) for v in (value, by_hand)]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_the_adaptive_weight_has_no_gradient(process, power):
    net, x0, draw = MLP(), many(16).normal((2,)), many(16)
    model = dc.Denoiser(net, "velocity", process)
    plain, weighted = (MeanFlowLoss(power=p, offset=0.1)(model, x0, draw) for p in (0.0, power))
    factor = (plain.detach() + 0.1) ** -power
    torch.testing.assert_close(weighted, plain * factor)
    grads = [torch.autograd.grad(v.sum(), net.body[0].weight)[0] for v in (weighted, plain * factor)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.3, 1.0])
def test_the_share_of_two_times_is_exact_and_fair(ratio):
    loss, process = MeanFlowLoss(ratio=ratio), ReferenceFlow()
    hits = torch.zeros(20)
    for step in range(300):
        t, s, apart = loss.times(process, dc.Draw(0, range(20), index=step))
        assert len(apart) == pytest.approx(20 * ratio)
        assert torch.equal(torch.nonzero(s < t)[:, 0], apart)
        assert bool((s <= t).all())
        hits[apart] += 1
    assert float((hits / 300 - ratio).abs().max()) <= 4 * math.sqrt(ratio * (1 - ratio) / 300)


def test_times_are_the_order_statistics_of_the_published_law():
    t, s, _ = MeanFlowLoss(ratio=1.0).times(ReferenceFlow(), many(4000))

    def law(x):
        return stats.norm.cdf(torch.logit(torch.as_tensor(x)).numpy(), -0.4, 1.0)

    assert stats.kstest(t.numpy(), lambda x: law(x) ** 2).pvalue > 0.01
    assert stats.kstest(s.numpy(), lambda x: 1 - (1 - law(x)) ** 2).pvalue > 0.01


def test_two_processes_compute_the_losses_of_one(process):
    model, loss = dc.Denoiser(MLP(dtype=torch.float64), "velocity", process), MeanFlowLoss()
    x0 = many(16).normal((2,), torch.float64)
    whole = loss(model, x0, dc.Draw(5, range(16), index=3, block=4, total=16))
    parts = [loss(model, x0[r], dc.Draw(5, range(16)[r], index=3, block=4, total=16)) for r in (slice(0, 8), slice(8, 16))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=0)


def test_conditions_are_dropped_at_the_rate(points):
    seen, n = [], 4000

    class Spy(points):
        def __call__(self, x, t, s=None, label=None):
            seen.append(label)
            return super().__call__(x, t, s, label)

    process = ReferenceFlow()
    model = dc.Denoiser(Spy(process, POINTS), "velocity", process)
    MeanFlowLoss(drop=0.1)(model, POINTS[:1].expand(n, 2), many(n), label=torch.zeros(n, dtype=torch.int64))
    rate = float((seen[0] == 2).double().mean())
    assert abs(rate - 0.1) < 4 * math.sqrt(0.09 / n)


class Attention(nn.Module):
    """One attention layer over the entries, whose fused kernels have no forward derivative."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out = nn.Linear(3, 24), nn.Linear(8, 1)

    def forward(self, x, t, s=None):
        s = t if s is None else s
        tokens = torch.stack([x, *(a[:, None].expand_as(x) for a in (t, s))], 2)
        q, k, v = self.into(tokens).unflatten(2, (3, 1, 8)).permute(2, 0, 3, 1, 4)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v))[:, 0, :, 0]


def test_networks_with_attention_can_be_differentiated(process):
    net, x0 = Attention(), many(16).normal((4,))
    value = MeanFlowLoss(ratio=1.0)(dc.Denoiser(net, "velocity", process), x0, many(16)).mean()
    assert all(float(g.abs().sum()) > 0 for g in torch.autograd.grad(value, list(net.parameters()))[:3:2])


def test_the_derivative_keeps_its_precision_under_autocast(process):
    model, draw = dc.Denoiser(MLP(), "velocity", process), many(8)
    t = 0.5 * process.T * torch.ones(8)
    x, v, end = draw.normal((2,)), draw.fold(1).normal((2,)), dc.Instant(t / 2)
    with torch.autocast("cpu", torch.bfloat16):
        half = dc.along(model, x, process.coeffs(t), end, v)[1]
    torch.testing.assert_close(half, dc.along(model, x, process.coeffs(t), end, v)[1])


def test_autocast_leaves_a_gradient(process):
    net, x0 = MLP(), many(64).normal((2,))
    model, loss = dc.Denoiser(net, "velocity", process), MeanFlowLoss(ratio=1.0)

    def gradient(half):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value = loss(model, x0, many(64)).mean()
        assert value.dtype == torch.float32
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(net.parameters()))])

    full, half = gradient(False), gradient(True)
    assert float((full - half).norm() / full.norm()) < 0.05  # bfloat16 keeps 8 bits


def test_refuses_what_it_cannot_train(process, points):
    x0 = torch.zeros(4, 2)
    with pytest.raises(dc.IncompatibleError, match="predicts the velocity, not 'v'"):
        MeanFlowLoss()(dc.Denoiser(MLP(), "v", process), x0, many(4))
    with pytest.raises(dc.IncompatibleError, match=r"guidance 2.* needs data with a condition"):
        MeanFlowLoss(guidance=2.0)(dc.Denoiser(MLP(), "velocity", process), x0, many(4))


class Uniform(dc.TimeLaw):
    """Uniform on [0, 1]."""

    def __call__(self, process, draw):
        return draw.uniform()


def test_training_learns_to_jump():
    """One jump of a network trained for seconds is far closer to the data than one Euler step of its own velocity."""
    data, process, n = Mixture([0.5, 0.5], [[-1.0], [1.0]], [0.15, 0.15]), ReferenceFlow(), 512
    net = MLP(1)
    model, adam = dc.Denoiser(net, "velocity", process), torch.optim.Adam(net.parameters(), 1e-2)
    loss = MeanFlowLoss(ratio=0.75, time_law=Uniform(), power=0.0)
    noise = dc.Draw(1, range(4000), block=1000).normal((1,))
    truth = data.sample(4000, dc.Draw(2, range(4000), block=1000))

    def distance(x):  # Wasserstein-2 in one dimension: the sorted samples are matched
        return float((x.double().sort(0).values - truth.sort(0).values).square().mean().sqrt())

    @torch.no_grad()
    def jump():
        return distance(MeanFlow().map(model, noise, 1.0, 0.0))

    before = jump()
    for step in range(500):
        draw = dc.Draw(0, range(n), index=step, block=n)
        adam.zero_grad()
        loss(model, data.sample(n, draw.fold(77)).float(), draw).mean().backward()
        adam.param_groups[0]["lr"] = 1e-2 * (1 - step / 500)
        adam.step()
    with torch.no_grad():
        euler = distance(noise - model(noise, 1.0).velocity)
    assert jump() < 0.4 * euler
    assert jump() < 0.6 * before


def test_no_published_time_is_below_the_least_of_the_process():
    class Short(ReferenceFlow):
        """Times from 0.3."""

        @property
        def min_time(self):
            return 0.3

    t, s, _ = MeanFlowLoss(ratio=1.0).times(Short(), many(500))
    assert 0.3 == float(s.min()) < float(t.max()) <= 1


@dc.component
class Even(dc.TimeLaw):
    """t / T uniform."""

    def __call__(self, process, draw):
        return process.T * draw.uniform()


def test_both_times_noise_dropping_and_parting_have_a_key_each(process, points):
    """Under a law of uniform numbers, of which dropping and parting take some too."""
    model, x0, label = scene(process, points, n=8)
    with keys_drawn() as keys:
        MeanFlowLoss(time_law=Even(), drop=0.5)(model, x0, many(8), label=label)
    assert len(keys) == 5
    assert not repeated(keys)

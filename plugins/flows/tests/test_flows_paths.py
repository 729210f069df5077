"""Straightness, transport cost and rectification against closed forms (Lai et al. 2025, chapter 5)."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_flows.paths import follow, measured, sampled
from diffcore_flows.straightness import Straightness
from diffcore_flows.transport_cost import TransportCost

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow, golden_mixture

F64 = torch.float64
FLOW = ReferenceFlow()
A = torch.diag(torch.tensor([1.0, 0.1], dtype=F64))
C, S = math.cos(0.6), math.sin(0.6)
ROT = torch.tensor([[C, -S], [S, C]], dtype=F64)
B = ROT @ torch.diag(torch.tensor([0.2, 2.0], dtype=F64)) @ ROT.T
EYE = torch.eye(2, dtype=F64)


def linear(matrix):
    """The field dx/dt = G(t) x."""
    return dc.Field(dc.Denoiser(lambda x, t: x @ matrix(float(t[0])).T, "velocity", FLOW))


def independent(t):
    """E[x_1 - x_0 | x_t] for independent x_1 ~ N(0, A) at t = 1 and x_0 ~ N(0, B) at t = 0."""
    return (t * A - (1 - t) * B) @ torch.linalg.inv((1 - t) ** 2 * B + t**2 * A)


def coupled(matrix):
    """The same for the pairs (x_1, x_0 = M x_1): rectification of that map."""
    return lambda t: (EYE - matrix) @ torch.linalg.inv((1 - t) * matrix + t * EYE)


def map_of(field, steps=400):
    return follow(field, EYE, steps, cut=0.0).data.T


def root(m):
    values, vectors = torch.linalg.eigh(m)
    return vectors @ torch.diag(values.sqrt()) @ vectors.T


@pytest.mark.item("5.15", "5.19")
@pytest.mark.parametrize("d", [0.3, 1.0, 2.0])
def test_gaussian_paths_and_their_bend_in_closed_form(d):
    # r(t) = sqrt((1 - t)^2 d^2 + t^2): x_t = z r(t), S = z^2 (int r'^2 dt - (1 - d)^2); d = 1: z_{1/2} = z / sqrt 2
    z = torch.tensor([[-1.3], [0.4], [2.0]], dtype=F64)
    field = Gaussian(0.0, d, shape=(1,)).field(FLOW, "velocity")
    found = follow(field, z, 400, cut=0.0)
    torch.testing.assert_close(found.data, d * z, rtol=1e-9, atol=1e-9)
    nodes, weights = torch.linspace(0, 1, 200_001, dtype=F64), torch.full((200_001,), 5e-6, dtype=F64)
    weights[[0, -1]] /= 2
    speed = (nodes - (1 - nodes) * d**2) / ((1 - nodes) ** 2 * d**2 + nodes**2).sqrt()
    want = float((weights * speed**2).sum()) - (1 - d) ** 2
    torch.testing.assert_close(found.bend, z[:, 0] ** 2 * want, rtol=1e-7, atol=1e-8)
    euler = z - field.velocity(z, 1.0)  # one Euler step: z - v(z, 1) = 0 = E x_0, off by d z
    torch.testing.assert_close(euler, torch.zeros_like(z), rtol=0, atol=1e-12)
    if d == 1.0:
        half = dc.sample(field, _rk4(), z, grid=torch.linspace(1, 0.5, 200, dtype=F64)).x
        torch.testing.assert_close(half, z / math.sqrt(2), rtol=1e-8, atol=0)


def _rk4():
    return dc.Registry.load().make("solver", "rk4")


@pytest.mark.item("5.16", "5.18")
def test_rectified_gaussian_map_keeps_marginals_and_is_not_optimal():
    m = map_of(linear(independent))
    torch.testing.assert_close(m @ A @ m.T, B, rtol=0, atol=1e-9)
    assert float((m - m.T).abs().max()) > 0.05
    best = root(torch.linalg.inv(A)) @ root(root(A) @ B @ root(A)) @ root(torch.linalg.inv(A))
    cost = {name: float(((n - EYE) @ A @ (n - EYE).T).trace()) for name, n in (("flow", m), ("best", best))}
    assert abs(float((A + B).trace()) - 3.30) < 1e-12
    assert abs(cost["flow"] - 1.2830) < 1e-4
    assert abs(cost["best"] - 1.0052) < 1e-4


@pytest.mark.item("5.18")
@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_rectification_raises_no_convex_cost(power):
    # paired difference of 20,000 samples: independent minus rectified, at least 4.5 s.e. above 0
    draw = dc.Draw(0, range(20_000), block=20_000)
    x1, x0 = (draw.fold(k).normal((2,), F64) @ root(cov) for k, cov in ((1, A), (2, B)))
    before, after = (((x1 - y).norm(dim=1) ** power) for y in (x0, x1 @ map_of(linear(independent)).T))
    gap = before - after
    assert float(gap.mean()) > 4.5 * float(gap.std()) / len(gap) ** 0.5


@pytest.mark.item("5.17", "5.19")
def test_reflow_of_a_gaussian_is_straight_and_straightness_is_bounded():
    x1 = dc.Draw(0, range(64)).normal((2,), F64) @ root(A)
    m = map_of(linear(independent))
    first, second = follow(linear(independent), x1, 400, cut=0.0), follow(linear(coupled(m)), x1, 400, cut=0.0)
    assert float(first.bend.mean()) > 0.1
    assert float(second.bend.max()) < 1e-9
    torch.testing.assert_close(second.data, first.data, rtol=1e-8, atol=1e-8)  # a straight flow is a fixed point
    torch.testing.assert_close(x1 - linear(coupled(m)).velocity(x1, 1.0), second.data, rtol=1e-8, atol=1e-8)  # one Euler step
    assert float(first.bend.mean()) <= 3.30  # sum_k S(Z^k) <= E |x_1 - x_0|^2


@pytest.mark.item("5.08", "B2")
def test_velocities_that_share_marginals_and_differ_in_the_map():
    # J Sigma_t^-1 x is divergence-free against p_t = N(0, Sigma_t) for antisymmetric J
    turn = torch.tensor([[0.0, 0.4], [-0.4, 0.0]], dtype=F64)
    turned = map_of(linear(lambda t: independent(t) + turn @ torch.linalg.inv((1 - t) ** 2 * B + t**2 * A)), 1600)
    torch.testing.assert_close(turned @ A @ turned.T, B, rtol=0, atol=1e-7)
    assert float((turned - map_of(linear(independent))).abs().max()) > 0.1


@pytest.mark.item("5.15", "5.18", "5.19")
def test_both_metrics_of_a_gaussian_are_those_of_its_paths():
    """x_t = z r(t): straightness is E z^2 (int r'^2 dt - (1 - d)^2), d = .3, the cost E |z - d z|^2; paths end at T / 1000."""
    d, u = 0.3, (torch.arange(100_000, dtype=F64) + 0.5) / 100_000
    ev = dc.Evaluation(
        samples=torch.zeros(256, 1),
        reference=torch.zeros(2, 1),
        field=_single(Gaussian(0.0, d, shape=(1,)).field(FLOW, "velocity")),
    )
    z = sampled(ev, 256, 0, 32).noise.double().square().mean()
    bend = ((u - (1 - u) * d**2) ** 2 / ((1 - u) ** 2 * d**2 + u**2)).mean() - (1 - d) ** 2
    assert Straightness(count=256).measure(ev)["straightness"].value == pytest.approx(float(z * bend), rel=2e-2)
    assert TransportCost(count=256).measure(ev)["transport-cost"].value == pytest.approx(float(z) * (1 - d) ** 2, rel=5e-3)


@pytest.mark.item("5.20")
def test_a_straight_coupling_need_not_be_optimal():
    # rotation of N(0, I) by 1: S = 0, cost E |z - R z|^2 = tr(2 I - R - R^T) = 4 (1 - cos 1), W2 = 0
    turn = torch.tensor([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]], dtype=F64)
    field = linear(coupled(turn))
    ev = dc.Evaluation(samples=torch.zeros(512, 2), reference=torch.zeros(2, 2), field=_single(field))
    cost, straight = TransportCost(seed=3).measure(ev)["transport-cost"], Straightness(seed=3).measure(ev)["straightness"]
    assert straight.value < 1e-9
    want = 4 * (1 - math.cos(1)) * (1 - 1e-3) ** 2  # the paths end at t = T / 1000
    assert abs(cost.value - want) < 4.5 * cost.spread / 8**0.5
    assert cost.within[0] < 0.15 * cost.value  # what is left is the distance between two sets of 512 points


@pytest.mark.item("5.18", "5.20")
@pytest.mark.parametrize(("power", "moment"), [(1.0, math.sqrt(math.pi / 2)), (4.0, 8.0)])
def test_the_cost_is_any_power_of_the_distance(power, moment):
    """The rotation by 1 moves z by 2 sin(1/2) |z|: the cost is that to the p times E|z|^p of N(0, I) in the plane."""
    turn = torch.tensor([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]], dtype=F64)
    ev = dc.Evaluation(samples=torch.zeros(512, 2), reference=torch.zeros(2, 2), field=_single(linear(coupled(turn))))
    found = TransportCost(power=power, seed=1).measure(ev)["transport-cost"]
    want = (2 * math.sin(0.5) * (1 - 1e-3)) ** power * moment
    assert abs(found.value - want) < 4.5 * found.spread / 8**0.5
    assert found.within[0] < found.value


def test_a_measured_number_has_the_spread_of_its_blocks():
    values = torch.arange(16, dtype=F64)  # means of eight blocks of two: .5, 2.5, .., 14.5
    assert measured(values, "").value == 7.5
    assert measured(values, "").spread == pytest.approx(2 * math.sqrt(6))  # the variance of 0 .. 7 is 6
    assert measured(values[:9], "").spread == pytest.approx(float(torch.tensor([0.5, *range(2, 9)]).std()))
    assert measured(values[:1], "").spread is None


def _single(field):
    """The same field for float32 noise."""
    net = field.base.net
    return dc.Field(dc.Denoiser(lambda x, t: net(x.double(), t).to(x.dtype), "velocity", FLOW))


def test_metrics_on_the_exact_field_of_a_mixture():
    # E |dx/du|^2 = S + E |chord|^2 by definition; E |v|^2 over the marginals p_t, by plain sampling, is the same number
    data = golden_mixture((2,))
    ev = dc.Evaluation(samples=torch.zeros(1024, 2), reference=torch.zeros(2, 2), field=data.field(FLOW, "velocity"))
    straight = Straightness(count=1024).measure(ev)
    cost = TransportCost(count=1024).measure(ev)["transport-cost"]
    t = (torch.arange(2048, dtype=F64) + 0.5) / 2048
    mixed = FLOW.corrupt(data.sample(2048), t, dc.Draw(5, range(2048)))
    energy = (data.velocity(mixed.xt, mixed.at) ** 2).sum(1)
    s, error = straight["straightness"], float(energy.std()) / 2048**0.5
    total = math.sqrt(error**2 + (s.spread**2 + cost.spread**2) / 8)
    assert abs(s.value + cost.value - float(energy.mean())) < 4.5 * total
    mean, variance = data.average()
    before = float((mean**2 + variance + 1).sum())  # E |x_0 - eps|^2 of independent pairs
    assert cost.within[0] - 1e-9 <= cost.value < before - 4.5 * cost.spread / 8**0.5
    assert abs(straight["relative-straightness"].value - s.value / cost.value) < 1e-3 * s.value


def test_metrics_say_what_they_lack():
    ev = dc.Evaluation(samples=torch.zeros(4, 2), reference=torch.zeros(4, 2))
    with pytest.raises(dc.DataError, match="measured on its field"):
        Straightness().measure(ev)


class Bare(dc.AffineProcess):
    """The straight path as one that provides what a path needs and nothing else."""

    provides = frozenset({"velocity", "flat"})
    coeffs = FLOW.coeffs


def test_paths_need_a_velocity_in_flat_space_and_no_more():
    field = dc.Field(dc.Denoiser(lambda x, t: 0.5 * x, "velocity", Bare()))
    ev = dc.Evaluation(samples=torch.zeros(4, 2), reference=torch.zeros(4, 2), field=field)
    noise, data, _ = sampled(ev, 4, 0, 8)
    torch.testing.assert_close(data, noise * math.exp(-0.5 * (1 - 1e-3)), rtol=1e-6, atol=0)

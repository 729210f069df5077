"""Interpolants, flows from any source, and the flow-matching loss against conditional expectations in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_flows.empirical import Empirical
from diffcore_flows.flow_matching import FlowMatching
from diffcore_flows.interpolant import Interpolant
from diffcore_flows.minibatch_ot import MinibatchOT
from diffcore_flows.source import SourceFlow
from torch import Tensor

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow

F64 = torch.float64
REGISTRY = dc.Registry.load()
N = 8192
DRAW = dc.Draw(2, range(N), block=N)
SOURCE = torch.tensor([[-1.0, 0.5], [0.3, -0.8]], dtype=F64)
TARGET = torch.tensor([[1.0, 1.0], [-0.5, -1.0], [0.7, -0.2]], dtype=F64)


def finite(points):
    return REGISTRY.make("data", "finite-set", points=tuple(map(tuple, points.tolist())))


def source(pool=65536, **fields):
    return SourceFlow(noise=Empirical(data=finite(SOURCE), pool=pool), **fields)


@pytest.mark.item("5.11", "5.12")
@pytest.mark.parametrize("path", ["linear", "trig"])
@pytest.mark.parametrize("g", [0.0, 0.5, 2.0])
def test_interpolant_is_conditioning_of_three_gaussians(path, g):
    # (x_0, x_1, z) ~ N((m, 0, 0), diag(d^2, 1, 1)), x_t = a x_0 + b x_1 + gamma z; E[a' x_0 + b' x_1 + gamma' z | x_t]
    m, d, process = 0.7, 0.4, Interpolant(path=path, g=g)
    x = torch.linspace(-2, 2, 5, dtype=F64)[:, None]
    for time in (0.03, 0.3, 0.8, 0.99):
        w = math.pi / 2
        a, b = (1 - time, time) if path == "linear" else (math.cos(w * time), math.sin(w * time))
        da, db = (-1.0, 1.0) if path == "linear" else (-w * b, w * a)
        gamma = math.sqrt(g * time * (1 - time))
        dgamma = g * (1 - 2 * time) / (2 * gamma) if g else 0.0
        row, slope = (torch.tensor(v, dtype=F64) for v in ((a, b, gamma), (da, db, dgamma)))
        cov = torch.diag(torch.tensor([d**2, 1.0, 1.0], dtype=F64))
        want = da * m + (slope @ cov @ row) / (row @ cov @ row) * (x - a * m)
        found = Gaussian(m, d, shape=(1,)).field(process, "velocity").velocity(x, time)
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)


def test_interpolant_ends_exactly_in_data_and_noise():
    for path, g in (("linear", 0.5), ("trig", 2.0), ("trig", 0.0)):
        c = Interpolant(path=path, g=g).coeffs(torch.tensor([0.0, 1.0], dtype=F64))
        assert c.alpha.tolist() == [1.0, 0.0]
        assert c.sigma.tolist() == [0.0, 1.0]
        assert c.dsigma[0] == (math.inf if g else math.pi / 2)
    plain, flow = (p.coeffs(torch.linspace(0, 1, 9, dtype=F64)) for p in (Interpolant(g=0.0), ReferenceFlow()))
    assert all(torch.equal(x, y) for x, y in zip(plain[1:5], flow[1:5], strict=True))


def test_prior_and_noise_of_a_source_are_its_samples():
    for drawn in (source().prior((2,), DRAW), source().noise.like(torch.zeros(N, 2), DRAW)):
        near = torch.cdist(drawn.double(), SOURCE)
        assert float(near.min(1).values.max()) < 1e-6
        share = float((near.argmin(1) == 0).double().mean())
        assert abs(share - 0.5) < 4.5 * 0.5 / N**0.5
    blurred = source(sigma=0.3).prior((2,), DRAW).double()
    residual = blurred - SOURCE[torch.cdist(blurred, SOURCE).argmin(1)]
    assert abs(float(residual.var()) / 0.09 - 1) < 4.5 * (2 / (2 * N)) ** 0.5 + 0.02  # blobs overlap a little
    assert torch.equal(source(pool=1).prior((2,), DRAW).double(), SOURCE[:1].expand(N, 2).float().double())
    with pytest.raises(dc.DataError, match=r"the source has samples of shape \(2,\), the target of shape \(3,\)"):
        source().prior((3,), DRAW)


@pytest.mark.item("5.10", "5.14")
def test_the_path_from_a_source_is_a_blurred_line():
    """x_t - (1 - t) x_0 - t x_1 has the covariance sigma^2 I at every time, and is not the blur of the prior (4.5 s.e.)."""
    x0, t = TARGET[torch.arange(N) % 3], (torch.arange(N, dtype=F64) + 0.5) / N
    made = source(sigma=0.3).corrupt(x0, t, DRAW)
    blur = made.xt - (1 - t)[:, None] * x0 - t[:, None] * made.eps
    assert float((blur.T @ blur / N - 0.09 * torch.eye(2)).abs().max()) < 4.5 * 0.09 * (2 / N) ** 0.5
    assert abs(float((blur.square().sum(1) * (t - 0.5)).mean())) < 4.5 * 0.18 * (1 / 12 / N) ** 0.5


def test_what_is_not_gaussian_has_no_score():
    field = dc.Field(dc.Denoiser(lambda x, t: x, "velocity", source()))
    for name in ("euler", "heun", "rk4"):
        field.check(REGISTRY.make("solver", name))
    for name in ("ddim", "ancestral", "euler-maruyama"):
        with pytest.raises(dc.IncompatibleError, match="SourceFlow"):
            field.check(REGISTRY.make("solver", name))
    with pytest.raises(dc.IncompatibleError, match="'score' does not fit SourceFlow"):
        dc.Denoiser(lambda x, t: x, "score", source())
    with pytest.raises(dc.SpecError, match=r"process.noise: must be Gaussian.*Empirical is not: take a process of velocities"):
        REGISTRY.make("process", "flow", noise=source().noise)


class Exact(torch.nn.Module):
    """The marginal velocity between two finite sets blurred by sigma, plus `off`: posterior mean over the six pairs."""

    def __init__(self, sigma: float, off: float = 0.0) -> None:
        super().__init__()
        self.sigma, self.off, self.null_cond = sigma, off, {}

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        start, end = SOURCE.repeat_interleave(3, 0), TARGET.repeat(2, 1)
        t = t[:, None, None]
        gap = x[:, None] - (1 - t) * end - t * start
        weight = (-(gap**2).sum(-1) / (2 * self.sigma**2)).softmax(1)
        return (weight[..., None] * (start - end)).sum(1) + self.off


def losses(off, coupling=None):
    process = source(sigma=0.2)
    x0 = TARGET[torch.arange(N) % 3]
    model = dc.Denoiser(Exact(0.2, off).double(), "velocity", process)
    return FlowMatching(coupling=coupling)(model, x0, DRAW)


@pytest.mark.item("5.06")
def test_flow_matching_is_the_marginal_regression_plus_a_constant():
    # L_CFM(v* + delta) - L_CFM(v*) = |delta|^2 / D for every delta: no slope at v*
    base = losses(0.0)
    for off in (-0.3, 0.05, 0.5):
        gap = losses(off) - base
        assert abs(float(gap.mean()) - off**2) < 4.5 * float(gap.std()) / N**0.5
    biased = losses(0.05, _Wrong()) - losses(0.0, _Wrong())
    assert abs(float(biased.mean()) - 0.05**2) > 10 * float(biased.std()) / N**0.5


class _Wrong(dc.Coupling):
    """Noise that is moved by 1: another velocity."""

    def pair(self, x0, eps, draw, **cond):
        return eps + 1.0


@pytest.mark.item("5.07", "5.10")
def test_the_exact_field_carries_the_source_to_the_target():
    process, net = source(sigma=0.05), Exact(0.05)
    field = dc.Field(dc.Denoiser(lambda x, t: net(x.double(), t.double()).to(x.dtype), "velocity", process))
    x = process.prior((2,), dc.Draw(3, range(512)))
    made = dc.sample(field, REGISTRY.make("solver", "heun"), x, steps=200).x.double()
    near = torch.cdist(made, TARGET)
    share = torch.bincount(near.argmin(1), minlength=3) / 512
    assert float(near.min(1).values.median()) < 0.05 * 1.4  # the median of a Rayleigh of scale .05 is .059
    assert float((share - 1 / 3).abs().max()) < 4.5 * (2 / 9 / 512) ** 0.5


@pytest.mark.item("5.06", "5.07", "5.10")
def test_conditions_reach_the_network_and_the_noise_does_not():
    seen, process = [], ReferenceFlow()

    def net(x, t, label):
        seen.append(label)
        return x

    model = dc.Denoiser(net, "velocity", process, null={"label": 9})
    x0, label, stored = torch.ones(64, 2), torch.zeros(64, dtype=torch.int64), torch.full((64, 2), 3.0)
    loss = FlowMatching(coupling=REGISTRY.make("coupling", "paired"), drop=0.5)
    values = loss(model, x0, dc.Draw(0, range(64)), label=label, noise=stored)
    t = process.min_time + (1 - process.min_time) * dc.Draw(0, range(64)).fold(1).uniform()
    torch.testing.assert_close(values.double(), ((1 - t) + 3 * t - 2) ** 2, rtol=1e-5, atol=1e-5)  # x_t - (eps - x_0)
    assert set(seen[0].tolist()) == {0, 9}
    FlowMatching(coupling=MinibatchOT(), drop=0.0)(model, x0, dc.Draw(0, range(64)), label=label)
    assert set(seen[1].tolist()) == {0}


def test_straight_pairs_are_learnt_with_zero_loss():
    # x_0 and noise that are a translation apart: v = 1 exactly
    process = ReferenceFlow()
    model = dc.Denoiser(lambda x, t: torch.ones_like(x), "velocity", process)
    x0 = torch.linspace(-1, 1, 6, dtype=F64)[:, None]
    loss = FlowMatching(coupling=REGISTRY.make("coupling", "paired"))
    assert float(loss(model, x0, dc.Draw(0, range(6)), noise=x0 + 1).abs().max()) == 0.0


def test_source_is_a_component_value():
    assert REGISTRY.make("process", "source", noise={"type": "empirical", "data": finite(SOURCE)}) == source()

"""The ways to a likelihood agree with log p of a Gaussian mixture, each within what its error can be (docs/likelihoods.py).

The ways are components of other distributions, which may be absent.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import diffcore as dc
from diffcore.testing import Mixture

PLANE = Mixture([0.3, 0.5, 0.2], [[-0.8, 0.4], [0.6, -0.2], [0.1, 0.9]], [0.25, 0.4, 0.15])
NATS = 2 * math.log(2)
"""Nats in one bit per dimension of the plane."""


def points(n: int) -> Tensor:
    return PLANE.sample(n, dc.Draw(1, range(n), block=n))


def made(kind: str, id: str, **fields):
    try:
        return dc.Registry.load().make(kind, id, **fields)
    except dc.DiffcoreError as error:
        pytest.skip(str(error))


def evaluation(x: Tensor, process: dc.Process) -> dc.Evaluation:
    return dc.Evaluation(samples=x, reference=x, field=PLANE.field(process))


def standard_error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values))


@pytest.mark.item("1.10")
def test_the_exact_trace_gives_the_density_of_the_data_where_it_is_put():
    x, process = points(64), made("process", "flow")
    metric = made("metric", "pf-ode-likelihood", n=64, divergence="exact", steps=40)
    found = metric.measure(evaluation(x, process))["log p"].value
    at = process.coeffs(torch.tensor(process.min_time, dtype=torch.float64))
    assert found == pytest.approx(float(PLANE.log_prob(x, at).mean()), abs=1e-5)


def test_probes_give_it_without_bias():
    """24 seeds of one probe: their mean within three of its standard errors, which are below .03 nats."""
    x, process = points(64), made("process", "flow")
    exact, *estimates = (
        made("metric", "pf-ode-likelihood", n=64, divergence=kind, steps=12, seed=seed)
        .measure(evaluation(x, process))["log p"]
        .value
        for kind, seed in [("exact", 0), *(("rademacher", k) for k in range(24))]
    )
    found = torch.tensor(estimates)
    assert abs(float(found.mean()) - exact) < 3 * standard_error(found)
    assert standard_error(found) < 0.03


@pytest.mark.item("1.10")
@pytest.mark.parametrize(("variance", "low", "high"), [("large", 0.0, 0.3), ("small", 1.0, 4.5)])
def test_the_chain_bounds_it_from_below(variance: str, low: float, high: float):
    """The mean gap of a chain of 100, within three standard errors of [0, ...]: never above log p; `small` is far off here."""
    x, process = points(400), made("process", "ddpm", steps=100)
    metric = made("metric", "elbo", levels=None, variance=variance, n=400)
    bound = -NATS * sum(metric.parts(PLANE.field(process), x).values())
    gap = PLANE.log_prob(x) - bound
    assert low - 3 * standard_error(gap) < float(gap.mean()) < high + 3 * standard_error(gap)


@pytest.mark.item("1.10")
def test_the_continuous_bound_is_tight_for_the_exact_network():
    """256 times a point, evenly spread: the mean over 256 points within three standard errors, which are below .08 nats."""
    x, process, loss = points(256), made("process", "vdm"), made("loss", "vdm")
    many = x.repeat(256, 1)
    bits = loss(PLANE.denoiser(process), many, dc.Draw(3, range(len(many)), block=len(many))).reshape(256, 256).mean(0)
    gap = PLANE.log_prob(x) + NATS * bits
    assert abs(float(gap.mean())) < 3 * standard_error(gap)
    assert standard_error(gap) < 0.08


@pytest.mark.item("1.10")
def test_a_continuous_flow_with_the_exact_velocity_has_the_density():
    process, x = made("process", "flow"), points(64)
    flow = made("network", "cnf", velocity={"type": "mlp"}, steps=80).build((2,), {})
    flow.velocity = Exact(process)
    found = flow.log_prob(x, torch.zeros(len(x), dtype=torch.float64)).detach()
    assert float((found - PLANE.log_prob(x)).abs().max()) < 1e-5


class Exact(torch.nn.Module):
    """The exact velocity as a network."""

    def __init__(self, process: dc.Process) -> None:
        super().__init__()
        self.net = PLANE.net(process, "velocity")

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
        return self.net(x, t)

"""The game of generator and discriminator measures the Jensen-Shannon divergence (Goodfellow et al. 2014; monograph 1.09)."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_metrics.divergences import between_masses
from torch import Tensor

P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
Q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def value(logits: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """E_p log D + E_q log(1 - D), D = sigmoid(logits) for every outcome."""
    return (p * torch.nn.functional.logsigmoid(logits) + q * torch.nn.functional.logsigmoid(-logits)).sum()


def best(p: Tensor, q: Tensor) -> Tensor:
    """The logits of largest value, by descent from 0."""
    logits = torch.zeros_like(p, requires_grad=True)
    steps = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        steps.zero_grad()
        loss = -value(logits, p, q)
        loss.backward()
        return loss

    steps.step(closure)
    return logits.detach()


@pytest.mark.item("1.09")
def test_the_best_discriminator_is_a_ratio_of_densities_and_its_value_a_divergence():
    """D = p / (p + q), value 2 JS - log 4; no other D does better."""
    found = best(P, Q)
    torch.testing.assert_close(torch.sigmoid(found), P / (P + Q), rtol=1e-6, atol=1e-6)
    top = 2 * between_masses(P, Q)["JS"] - math.log(4)
    assert abs(float(value(found, P, Q)) - top) < 1e-10
    for i in range(4):
        for off in (-0.2, 0.2):
            assert float(value(found + off * torch.eye(4, dtype=torch.float64)[i], P, Q)) < top - 1e-4


@pytest.mark.item("1.09")
def test_the_generator_that_plays_best_is_the_data():
    """The value against the best D falls to -log 4 as q moves to p, and is that only there."""
    values = [float(value(best(P, mixed), P, mixed)) for mixed in ((1 - w) * Q + w * P for w in (0.0, 0.4, 0.8, 1.0))]
    assert values == sorted(values, reverse=True)
    assert values[-2] > values[-1] + 1e-4
    assert abs(values[-1] + math.log(4)) < 1e-10

"""An autoregressive model is a law: its factors multiply to one over all sequences (monograph 1.06)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from diffcore_discrete import baselines

TRAIN = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1], [1, 0, 0, 2], [0, 1, 1, 1]])


@pytest.mark.item("1.06")
@pytest.mark.parametrize("model", [baselines.bigram, baselines.independent])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_probabilities_of_all_sequences_sum_to_one(model, length):
    """All 3^D sequences of the bigram model p(x_1) prod p(x_i | x_(i-1)), and of independent places."""
    every = torch.tensor(list(itertools.product(range(3), repeat=length)))
    nats = math.log(2) * length * model(TRAIN[:, :length], every, 3)
    assert abs(float(torch.exp(-nats).sum()) - 1) < 1e-12
    assert float(nats.std()) > 0.1


@pytest.mark.item("1.06")
def test_the_law_of_a_prefix_is_the_sum_over_its_ends():
    """p(x_1 .. x_3) = sum over x_4 of p(x_1 .. x_4): every factor is normalised by itself, and depends on x_3 alone."""
    prefixes = torch.tensor(list(itertools.product(range(3), repeat=3)))
    short = -math.log(2) * 3 * baselines.bigram(TRAIN, prefixes, 3)
    ends = [torch.cat([prefixes, torch.full((27, 1), v)], 1) for v in range(3)]
    long = torch.stack([-math.log(2) * 4 * baselines.bigram(TRAIN, x, 3) for x in ends], 1)
    assert float((long.logsumexp(1) - short).abs().max()) < 1e-12
    factor = (long - short[:, None]).reshape(9, 3, 3)
    assert float((factor - factor[:1]).abs().max()) < 1e-12

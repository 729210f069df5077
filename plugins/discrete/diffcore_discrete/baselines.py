"""Models without a network: what a bound has to beat. All in bits per token of held-out samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _bits(log_prob: Tensor) -> Tensor:
    """Nats (n, L) as bits per token of each sample, [n]."""
    return -log_prob.mean(1) / math.log(2)


def independent(train: Tensor, test: Tensor, values: int) -> Tensor:
    """Every place has its own law of values: counts plus one half (Krichevsky and Trofimov 1981)."""
    counts = torch.stack([torch.bincount(column, minlength=values) for column in train.T]).double() + 0.5
    logs = (counts / counts.sum(1, keepdim=True)).log()
    return _bits(logs[torch.arange(test.shape[1]), test])


def bigram(train: Tensor, test: Tensor, values: int) -> Tensor:
    """The first token from the law of all tokens, every other from the one before it; counts plus one half."""
    single = torch.bincount(train.flatten(), minlength=values).double() + 0.5
    pairs = torch.bincount((train[:, :-1] * values + train[:, 1:]).flatten(), minlength=values**2).double() + 0.5
    pairs = pairs.reshape(values, values)
    first = (single / single.sum()).log()[test[:, :1]]
    rest = (pairs / pairs.sum(1, keepdim=True)).log()[test[:, :-1], test[:, 1:]]
    return _bits(torch.cat([first, rest], 1))

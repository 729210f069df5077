"""Models without a network: what a bound, or a sampler, has to beat. Bits are per token of held-out samples."""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs
import torch
from torch import Tensor

import diffcore as dc

from .categorical import pick


def _bits(log_prob: Tensor) -> Tensor:
    """Nats (n, L) as bits per token of each sample, [n]."""
    return -log_prob.mean(1) / math.log(2)


def independent(train: Tensor, test: Tensor, values: int) -> Tensor:
    """Every place has its own law of values: counts plus one half (Krichevsky and Trofimov 1981)."""
    counts = torch.stack([torch.bincount(column, minlength=values) for column in train.T]).double() + 0.5
    logs = (counts / counts.sum(1, keepdim=True)).log()
    return _bits(logs[torch.arange(test.shape[1]), test])


@attrs.frozen(eq=False)
class NGram:
    """p(x_i = a | the order - 1 tokens before) = (count(before, a) + added) / (count(before) + added V).

    The places before the first hold a mark, so a sample's beginning has a law of its own. A run of tokens is one number in the
    base V + 1; `runs` are those that were seen, sorted, `counts` how often. Laplace 1814 (added 1); Krichevsky and Trofimov
    1981 (added 1/2).
    """

    order: int
    values: int
    added: float
    runs: Tensor
    counts: Tensor

    @classmethod
    def fit(cls, parts: Iterable[Tensor], order: int, values: int, added: float = 0.5) -> NGram:
        """Count the runs of tensors (n, L) of tokens, a part of the set at a time."""
        runs, counts = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        for part in parts:
            fresh, many = _runs(_marked(part, order, values), order, values).unique(return_counts=True)
            runs, counts = _merged(torch.cat([runs, fresh]), torch.cat([counts, many]))
        return cls(order, values, added, runs, counts)

    def law(self, before: Tensor) -> Tensor:
        """The law of the next token, float64 (*before.shape, V), after runs of order - 1 tokens given as numbers."""
        wanted = before[..., None] * (self.values + 1) + torch.arange(self.values)
        place = torch.searchsorted(self.runs, wanted).clamp_max(len(self.runs) - 1)
        found = torch.where(self.runs[place] == wanted, self.counts[place], 0).double() + self.added
        return found / found.sum(-1, keepdim=True)

    def bits(self, test: Tensor) -> Tensor:
        """Bits per token of each sample of (n, L), [n]."""
        marked = _marked(test, self.order, self.values)
        before = _runs(marked[:, :-1], self.order - 1, self.values)
        return _bits(self.law(before).gather(-1, test[..., None]).log()[..., 0])

    def sample(self, length: int, draw: dc.Draw) -> Tensor:
        """Samples (n, length), drawn from left to right."""
        x = torch.full((len(draw.ids), self.order - 1), self.values)
        for i in range(length):
            before = _runs(x[:, i:], self.order - 1, self.values)[:, 0]
            x = torch.cat([x, pick(draw.fold(i).uniform(), self.law(before))[:, None]], 1)
        return x[:, self.order - 1 :]


def _marked(x: Tensor, order: int, values: int) -> Tensor:
    """Tokens after order - 1 marks."""
    return torch.nn.functional.pad(x, (order - 1, 0), value=values)


def _runs(x: Tensor, size: int, values: int) -> Tensor:
    """Every run of `size` consecutive tokens of (n, L) as a number, (n, L - size + 1)."""
    count = x.shape[1] - size + 1
    number = torch.zeros(len(x), count, dtype=torch.int64)
    for i in range(size):
        number = number * (values + 1) + x[:, i : i + count]
    return number


def _merged(runs: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The same runs, each once, sorted, with its counts added up."""
    unique, place = runs.unique(return_inverse=True)
    return unique, torch.zeros_like(unique).index_add_(0, place, counts)


def bigram(train: Tensor, test: Tensor, values: int) -> Tensor:
    """The first token from the law of first tokens, every other from the one before it; counts plus one half."""
    return NGram.fit([train], 2, values).bits(test)

"""What a network knows beside its input: the time, a second time and class labels, summed to one vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

import diffcore as dc

from .layers import zeroed

LOWEST, HIGHEST = -3.0, 4.0  # log2 of cycles per unit of time
FEATURES = 64


def fourier(t: Tensor, features: int = FEATURES) -> Tensor:
    """cos and sin of 2 pi f_k t for features / 2 frequencies f_k, geometric from 1/8 to 16: (B,) -> (B, features).

    The lowest frequency tells any two times of (-2, 2) apart, which holds t in [0, 1] and log(sigma) / 4; the highest bounds
    the time derivative, which flow maps differentiate through (Lu and Song 2025, arXiv 2410.11081, section 4). Never below
    float32.
    """
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    frequency = torch.logspace(LOWEST, HIGHEST, features // 2, base=2.0, dtype=t.dtype, device=t.device)
    angle = 2 * torch.pi * t[:, None] * frequency
    return torch.cat((angle.cos(), angle.sin()), dim=1)


class TimeEmbedding(nn.Module):
    """A two-layer perceptron on the Fourier features of a time: (B,) -> (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(FEATURES, width)
        self.out = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """The features of t in float32 or better, the rest in the dtype of the weights."""
        return self.out(silu(self.hidden(fourier(t).to(self.hidden.weight.dtype))))


class Conditioning(nn.Module):
    """The vector silu(e(t) + e'(t - s) + sum_k E_k[label_k]): (B, width), which modulates every block of a network.

    Each class condition owns one row more than it has classes, the null token (Ho and Salimans 2022, arXiv 2207.12598), which
    also stands where the condition is None. Without s, s = t. The second time enters through a zero-initialised layer, so
    weights trained with one time continue from the same function.
    """

    def __init__(self, width: int, classes: Mapping[str, int], second_time: bool) -> None:
        super().__init__()
        self.null = dict(classes)
        self.time = TimeEmbedding(width)
        self.gap = TimeEmbedding(width) if second_time else None
        self.labels = nn.ModuleDict({name: nn.Embedding(count + 1, width) for name, count in classes.items()})
        if self.gap is not None:
            zeroed(self.gap.out)

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None, cond: Mapping[str, Tensor | None]) -> Tensor:
        """The vector for a batch x; t and s are () or (B,), conditions (), (B,) or None."""
        self._check(s, cond)
        t = _per_sample(t, x)
        total = self.time(t)
        if self.gap is not None:
            total = total + self.gap(t - (t if s is None else _per_sample(s, x)))
        for name, table in self.labels.items():
            total = total + table(self._index(name, cond.get(name), x))
        return silu(total)

    def _index(self, name: str, label: Tensor | None, x: Tensor) -> Tensor:
        if label is None:
            return torch.full((len(x),), self.null[name], device=x.device)
        return _per_sample(label, x)

    def _check(self, s: Tensor | None, cond: Mapping[str, Tensor | None]) -> None:
        if s is not None and self.gap is None:
            raise dc.IncompatibleError("this network has one time and was given a second, s; set network.second_time: true")
        unknown = sorted(set(cond) - set(self.null))
        if unknown:
            raise dc.IncompatibleError(f"this network has no condition '{unknown[0]}'; it has: {', '.join(self.null) or 'none'}")


def _per_sample(value: Tensor, x: Tensor) -> Tensor:
    if value.ndim > 1:
        raise dc.IncompatibleError(f"this network takes one time per sample, shape ({len(x)},); got shape {tuple(value.shape)}")
    return value.expand(len(x))

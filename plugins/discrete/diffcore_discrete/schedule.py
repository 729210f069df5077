"""The share of tokens that are still themselves, as a function of time, and the point in time that carries it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Schedule = Literal["linear", "cosine", "exponential"]
RATE = 7.0
"""The constant rate of the exponential schedule: e^-7 = 9e-4 of the data is left at t = 1."""


class Kept(NamedTuple):
    """A time t, the share alpha_t of tokens no event has touched (1 at t = 0), and its derivative."""

    t: Any
    time: Any = None
    alpha: Any = 1.0
    dalpha: Any = 0.0

    def map(self, fn: Any) -> Kept:
        """Apply `fn` to every entry that is a tensor."""
        return Kept(*(fn(v) if isinstance(v, Tensor) else v for v in self))

    def cast(self, dtype: torch.dtype) -> Kept:
        """Times and shares at least in float32."""
        return self.map(lambda v: v.to(torch.promote_types(dtype, torch.float32)))

    def at(self, index: Any) -> Kept:
        """The points at some of the times."""
        return self.map(lambda v: v[index])


def _linear(t: Tensor) -> tuple[Tensor, Tensor]:
    return 1 - t, -torch.ones_like(t)


def _cosine(t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cos(math.pi / 2 * t).square(), -math.pi / 2 * torch.sin(math.pi * t)


def _exponential(t: Tensor) -> tuple[Tensor, Tensor]:
    alpha = torch.exp(-RATE * t)
    return alpha, -RATE * alpha


SHARES: Mapping[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
}


def kept(schedule: Schedule, t: Tensor) -> Kept:
    """alpha = 1 - t (linear), cos(pi t / 2)^2 (cosine), exp(-7 t) (exponential) on [0, 1], and d alpha / dt."""
    alpha, slope = SHARES[schedule](t)
    return Kept(t, None, torch.where(t == 1, _end(schedule), alpha), slope)


def _end(schedule: Schedule) -> float:
    """alpha at t = 1, exact: zero where the schedule forgets everything."""
    return math.exp(-RATE) if schedule == "exponential" else 0.0


def time_of(schedule: Schedule, alpha: Tensor) -> Tensor:
    """The time at which the share is alpha."""
    if schedule == "linear":
        return 1 - alpha
    return torch.acos(alpha.sqrt()) * (2 / math.pi) if schedule == "cosine" else -alpha.log() / RATE

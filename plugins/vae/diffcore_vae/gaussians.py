"""Diagonal Gaussians, entry by entry, with the entropies and divergences of bounds in closed form."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


class Normal(NamedTuple):
    """N(mean, exp(log_var)), both of one shape; all values are per entry, in nats."""

    mean: Tensor
    log_var: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        """mean + std eps: a sample for eps ~ N(0, I), differentiable in both."""
        return self.mean + (0.5 * self.log_var).exp() * eps

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(z; mean, exp(log_var))."""
        return -0.5 * (LOG_2PI + self.log_var + (z - self.mean) ** 2 * (-self.log_var).exp())

    def entropy(self) -> Tensor:
        """(1 + log 2 pi + log_var) / 2."""
        return 0.5 * (1 + LOG_2PI + self.log_var)

    def rate(self) -> Tensor:
        """KL(N(mean, exp(log_var)) || N(0, 1)) = (mean^2 + var - 1 - log var) / 2."""
        return 0.5 * (self.mean**2 + self.log_var.exp() - 1 - self.log_var)


def standard_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, 1)."""
    return -0.5 * (LOG_2PI + z**2)


def total(entries: Tensor) -> Tensor:
    """The sum over the entries of each sample, [B]."""
    return entries.flatten(1).sum(1)

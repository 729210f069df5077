"""f-divergences D_f(p | q) = int q f(p / q), of densities on a box by quadrature and of masses by sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from diffcore_metrics.known import LogDensity
from diffcore_metrics.quadrature import rule


def weighted(log_p: Tensor, value: Tensor) -> Tensor:
    """p times a value, 0 where p is."""
    p = log_p.exp()
    return torch.where(p == 0, 0.0, p * value)


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(p log(p / m) + q log(q / m)) / 2 with m = (p + q) / 2."""
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (weighted(log_p, log_p - middle) + weighted(log_q, log_q - middle))


def chi_square(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(p - q)^2 / q, as a square so that neither underflows."""
    root = torch.exp(log_p - log_q / 2) - torch.exp(log_q / 2)
    return torch.where(log_p == log_q, 0.0, root**2)


TERMS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "KL": lambda a, b: weighted(a, a - b),
    "reverse-KL": lambda a, b: weighted(b, b - a),
    "JS": jensen_shannon,
    "TV": lambda a, b: 0.5 * (a.exp() - b.exp()).abs(),
    "H2": lambda a, b: 0.5 * (torch.exp(a / 2) - torch.exp(b / 2)) ** 2,
    "chi2": chi_square,
}
"""q f(p / q) from log p and log q; f(u) = u log u, -log u, (u log u - (1 + u) log((1 + u) / 2)) / 2, |u - 1| / 2,
(sqrt u - 1)^2 / 2, (u - 1)^2.

Nats. 0 <= JS <= log 2, 0 <= TV <= 1, 0 <= H2 <= 1; KL and chi2 are infinite where q = 0 < p.
"""

BOUNDS: Mapping[str, float] = {"JS": math.log(2), "TV": 1.0, "H2": 1.0}
"""The largest value of those divergences that have one; it is reached by disjoint supports."""


def between_masses(p: Tensor, q: Tensor) -> dict[str, float]:
    """Every divergence of two laws on the same cells, (K,) each, float64."""
    return {name: float(term(p.log(), q.log()).sum()) for name, term in TERMS.items()}


def between_densities(
    log_p: LogDensity, log_q: LogDensity, low: Tensor, high: Tensor, cells: int = 200, nodes: int = 8
) -> dict[str, float]:
    """Every divergence of two densities on the box from low to high (d,), d = 1 or 2. What lies outside is not counted."""
    points, weights = rule(low, high, cells, nodes)
    p, q = (f(points.reshape(-1, len(low))).reshape(points.shape[:2]) for f in (log_p, log_q))
    return {name: float((term(p, q) * weights).sum()) for name, term in TERMS.items()}

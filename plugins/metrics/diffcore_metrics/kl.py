"""Kullback-Leibler divergence against a density that is known in closed form."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_metrics.knn_kl import knn_entropy
from diffcore_metrics.known import AgainstDensity, LogDensity, density_of, model_density, oracle_of


def log_ratios(log_p: LogDensity, log_q: LogDensity, x: Tensor) -> Tensor:
    """log p(x) - log q(x), (B,): with x ~ p its mean is an unbiased estimate of KL(p | q), its standard error std / sqrt(B)."""
    return log_p(x) - log_q(x)


def gaussian_kl(m1: Tensor, c1: Tensor, m2: Tensor, c2: Tensor) -> float:
    """KL(N(m1, c1) | N(m2, c2)) = (tr(c2^-1 c1) + r' c2^-1 r - d + log det c2 - log det c1) / 2, r = m2 - m1; in nats."""
    r = m2 - m1
    spread = torch.linalg.solve(c2, c1).trace() + r @ torch.linalg.solve(c2, r)
    return 0.5 * float(spread - len(r) + torch.logdet(c2) - torch.logdet(c1))


@dc.component
class KL(AgainstDensity):
    """Divergences in nats from or to the data's exact density p (data `gaussian` or `gaussian-mixture`).

    `reverse-KL`: KL(samples | p) = -H(samples) - E log p, the cross entropy exact, the entropy H from nearest neighbours.
    `KL`: KL(p | model) = E_p (log p - log q) over the real data, where the model states its density q (a normalising flow, an
    exact network): forward KL, maximum likelihood up to the entropy of p. It is a mean without estimate of a density: its
    floor is 0. Its standard error is in `against`.

    Raises `DataError` for data of unknown density, or repeated samples.
    """

    source: ClassVar[str] = "Lai et al. 2025, arXiv 2510.21890, section 1.1; entropy: Kozachenko and Leonenko 1987"
    items: ClassVar[tuple[str, ...]] = ("1.01",)
    id: ClassVar[str] = "kl"

    k: int = dc.param(default=5, ge=1, le=100_000, doc="neighbour whose distance gives the entropy of the samples")

    @property
    def least(self) -> int:
        """A block must hold a k-th neighbour for each of its samples."""
        return self.k + 1

    def against(self, ev: dc.Evaluation) -> tuple[Callable[[Tensor], Mapping[str, float]], str]:
        """The reverse divergence of samples."""
        log_p = density_of(oracle_of(ev, "kl"), "kl")

        def numbers(x: Tensor) -> dict[str, float]:
            return {"reverse-KL": -knn_entropy(x.flatten(1), self.k) - float(log_p(x).mean())}

        return numbers, f"exact density of {ev.reference_name}, entropy of samples from neighbour {self.k}"

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """`reverse-KL`, and `KL` where the model's density is known as well."""
        found, log_q = super().measure(ev), model_density(ev.field)
        return found if log_q is None else {"KL": self._forward(ev, log_q), **found}

    def _forward(self, ev: dc.Evaluation, log_q: LogDensity) -> dc.Measured:
        x = ev.reference.cpu().double()
        each = log_ratios(density_of(oracle_of(ev, "kl"), "kl"), log_q, x)
        error = float(each.std()) / math.sqrt(len(x))
        blocks = [float(block.mean()) for block in each.split(len(x) // self.blocks)[: self.blocks]]
        return dc.Measured(
            value=float(each.mean()),
            n=len(x),
            spread=statistics.stdev(blocks),
            floor=0.0,
            against=f"exact density of {ev.reference_name} and of the model, standard error {error:.2g}",
            better="lower",
        )

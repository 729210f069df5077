"""Kullback-Leibler divergence of two sets of samples from the distances to their neighbours."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_metrics.neighbours import squared_distances, squared_radii
from diffcore_metrics.two_samples import TwoSamples


def knn_kl(x: Tensor, y: Tensor, k: int) -> float:
    """Estimate in nats of KL(p | q) from x (n, d) ~ p and y (m, d) ~ q:

        (d / n) sum_i log(nu_i / rho_i) + log(m / (n - 1))

    with rho_i, nu_i the distances of x_i to its k-th neighbour among the others and in y. Consistent for every k; its bias
    falls slowly in many dimensions. May be negative. Raises `DataError` where a point is repeated more than k times.
    Source: Wang, Kulkarni and Verdu 2009, IEEE Trans. Inf. Theory 55, equation 5.
    """
    ratio = log_radii(reaches(x, y, k)) - log_radii(squared_radii(x, k))
    return x.shape[1] * float(ratio.mean()) + math.log(len(y) / (len(x) - 1))


def knn_entropy(x: Tensor, k: int) -> float:
    """Estimate in nats of the entropy -E log p of x (n, d) ~ p: psi(n) - psi(k) + log V_d + d mean_i log rho_i.

    V_d is the volume of the unit ball. Source: Kozachenko and Leonenko 1987; Kraskov et al. 2004, equation 20.
    """
    n, d = x.shape
    counts = torch.digamma(torch.tensor([n, k], dtype=torch.float64))
    volume = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    return float(counts[0] - counts[1]) + volume + d * float(log_radii(squared_radii(x, k)).mean())


REPEATED = "the distribution has no density and no divergence; set a larger 'k'"


def reaches(x: Tensor, y: Tensor, k: int) -> Tensor:
    """Squared distance (n,) of each of x (n, d) to its k-th nearest neighbour in y (m, d)."""
    origin = y.double().mean(0)
    slabs = squared_distances(x.double() - origin, y.double() - origin)
    return torch.cat([slab.kthvalue(k, dim=1).values for slab in slabs])


def log_radii(squared: Tensor) -> Tensor:
    """log r from r^2. Raises `DataError` where it is zero: there is no density where points repeat."""
    if bool((squared <= 0).any()):
        raise dc.DataError(f"points repeat, so {REPEATED}")
    return squared.log() / 2


@dc.component
class KNNKL(TwoSamples):
    """`kNN-KL`: KL(real | samples), which punishes modes that are missed; `kNN-reverse-KL`: KL(samples | real), which punishes
    samples off the data. Nats, from nearest neighbours: for few dimensions. About 0 for equal distributions, also below.

    Raises `DataError` where a point is repeated more than k times.
    """

    source: ClassVar[str] = "Wang, Kulkarni and Verdu 2009, IEEE Trans. Inf. Theory 55, equation 5"
    items: ClassVar[tuple[str, ...]] = ("1.01",)

    k: int = dc.param(default=5, ge=1, le=100_000, doc="neighbour whose distance is taken; more: less variance, more bias")

    @property
    def least(self) -> int:
        """A block must hold a k-th neighbour for each of its samples."""
        return self.k + 1

    def check(self, ev: dc.Evaluation) -> None:
        """Also refuses real data in which a point is there more than k times."""
        super().check(ev)
        if self.features == "pixels":
            most = int(ev.reference.flatten(1).unique(dim=0, return_counts=True)[1].max())
            if most > self.k:
                raise dc.DataError(f"a real point is there {most} times, so {REPEATED}")

    def compare(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """Both directions."""
        return {"kNN-KL": knn_kl(real, fake, self.k), "kNN-reverse-KL": knn_kl(fake, real, self.k)}

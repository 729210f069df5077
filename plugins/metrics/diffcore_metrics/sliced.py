"""Sliced Wasserstein distance."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_metrics.quantiles import quantile_costs
from diffcore_metrics.two_samples import TwoSamples


def directions(count: int, dim: int, seed: int) -> Tensor:
    """Unit vectors (dim, count), float64, uniform on the sphere."""
    normal = dc.Draw(seed, range(count)).normal((dim,), torch.float64).T
    return normal / normal.norm(dim=0)


def sliced_wasserstein(x: Tensor, y: Tensor, theta: Tensor) -> float:
    """Root of the mean over directions of the squared 1-D Wasserstein-2 distance of the projections.

        SW2^2 = mean_theta  int_0^1 |F_x^{-1}(u) - F_y^{-1}(u)|^2 du

    x: (n, d), y: (m, d), theta: (d, L) unit vectors. Exact in u for any n and m.
    """
    return math.sqrt(float(quantile_costs(x.double() @ theta, y.double() @ theta, 2).mean()))


@dc.component
class SlicedWasserstein(TwoSamples):
    """Sliced Wasserstein-2 distance, in the units of the features; `SW2` is 0 for equal sets. The floor falls as 1/sqrt(n)."""

    source: ClassVar[str] = "Rabin, Peyre, Delon and Bernot 2011; Bonneel et al. 2015"
    within: ClassVar[tuple[float | None, float | None]] = (0.0, None)

    projections: int = dc.param(default=128, ge=1, le=1_000_000, doc="random directions")
    seed: int = dc.param(default=0, ge=0, doc="seed of the directions")

    def compare(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """SW2 over the same directions for every pair of sets."""
        theta = directions(self.projections, fake.shape[1], self.seed)
        return {"SW2": sliced_wasserstein(fake, real, theta)}

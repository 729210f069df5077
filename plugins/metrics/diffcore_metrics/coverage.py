"""Density and coverage."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

import diffcore as dc
from diffcore_metrics.neighbours import ball_counts, squared_radii
from diffcore_metrics.two_samples import TwoSamples


def density_coverage(fake: Tensor, real: Tensor, k: int) -> tuple[float, float]:
    """Density: mean number of real balls that hold a fake sample, over k. Coverage: share of real balls that hold one.

    The balls reach from each point of `real` (m, d) to its k-th neighbour in `real`; `fake` is (n, d). Where both sets come
    from one distribution the expectations are free of it: density 1, and

        coverage = 1 - (m-1)...(m-k) / ((m+n-1)...(m+n-k)).

    Source: Naeem et al. 2020, arXiv 2002.09797.
    """
    held, holds = ball_counts(fake, real, squared_radii(real, k))
    return float(held.double().mean() / k), float((holds > 0).double().mean())


@dc.component
class Coverage(TwoSamples):
    """`density` (1 is as dense as the data, not bounded by it) and `coverage` (share of real data that is reached, in [0, 1]).

    Less moved by single outliers than precision and recall.
    """

    source: ClassVar[str] = "Naeem et al. 2020, arXiv 2002.09797"
    better: ClassVar[Literal["lower", "higher"]] = "higher"

    k: int = dc.param(default=5, ge=1, le=100_000, doc="neighbour whose distance is the radius of a ball")

    @property
    def least(self) -> int:
        """The real data must hold a k-th neighbour for each of its points."""
        return self.k + 1

    def within_of(self, name: str) -> tuple[float | None, float | None]:
        """Coverage is a share; density may exceed 1."""
        return (0.0, 1.0 if name == "coverage" else None)

    def compare(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """Density and coverage."""
        density, coverage = density_coverage(fake, real, self.k)
        return {"density": density, "coverage": coverage}

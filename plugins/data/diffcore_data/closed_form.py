"""Distributions whose noised score is known in closed form: data for experiments that need the exact answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore import testing
from diffcore_data.keyed import Keyed, Modes, mode, normal, uniform

ORACLE = "exact answers: Lai et al. 2025, arXiv 2510.21890, chapters 4 and 6"
Point = tuple[float, ...]


@dc.component
class Gaussian(Keyed):
    """Normal distribution N(mean, cov): mean + L z with cov = L L^T."""

    source: ClassVar[str] = ORACLE
    example: ClassVar[Mapping[str, Any]] = {"mean": (0.3, -0.2), "cov": ((0.5, 0.2), (0.2, 0.3))}

    mean: Point = dc.param(ge=-1e6, le=1e6, doc="mean, d numbers")
    cov: tuple[Point, ...] = dc.param(ge=-1e12, le=1e12, doc="covariance, d rows of d numbers, symmetric and positive definite")

    def __attrs_post_init__(self) -> None:
        d = len(self.mean)
        if len(self.cov) != d or any(len(row) != d for row in self.cov):
            raise dc.SpecError(f"'cov' of gaussian must be {d} rows of {d} numbers, as 'mean' has {d}")
        cov = torch.tensor(self.cov, dtype=torch.float64)
        if not torch.equal(cov, cov.T) or torch.linalg.cholesky_ex(cov).info:
            raise dc.SpecError(f"'cov' of gaussian must be symmetric and positive definite; got {self.cov}")

    @property
    def shape(self) -> tuple[int, ...]:
        """One axis: the dimension."""
        return (len(self.mean),)

    def block(self, draw: dc.Draw) -> tuple[Tensor, Tensor]:
        """mean + L z; there is one mode."""
        z = normal(draw, len(self.mean))
        factor = torch.linalg.cholesky(torch.tensor(self.cov, dtype=torch.float64))
        x = torch.tensor(self.mean, dtype=torch.float64) + z @ factor.T
        return x, torch.zeros(len(z), dtype=torch.int64)

    def oracle(self) -> testing.Gaussian:
        """N(mean, cov)."""
        return testing.Gaussian(self.mean, cov=self.cov)


def check_points(name: str, points: tuple[Point, ...]) -> None:
    """Raises `SpecError` unless there are points and they have one dimension."""
    if not points or len({len(point) for point in points}) != 1:
        raise dc.SpecError(f"{name} must be one or more points of one dimension; got {points}")


@dc.component
class GaussianMixture(Modes):
    """Mixture of isotropic normal distributions: sum_k weights_k N(means_k, stds_k^2 I)."""

    source: ClassVar[str] = ORACLE
    example: ClassVar[Mapping[str, Any]] = {"means": ((-0.6, 0.0), (0.5, 0.4)), "stds": (0.1, 0.2), "weights": (0.25, 0.75)}

    means: tuple[Point, ...] = dc.param(ge=-1e6, le=1e6, doc="K means of d numbers")
    stds: Point = dc.param(gt=0, le=1e6, doc="K standard deviations")
    weights: Point = dc.param(ge=0, le=1, doc="K weights that sum to 1")

    def __attrs_post_init__(self) -> None:
        check_points("'means' of gaussian-mixture", self.means)
        if not len(self.stds) == len(self.weights) == self.count:
            raise dc.SpecError(
                f"'stds' and 'weights' of gaussian-mixture must be {self.count} numbers each, one for each of 'means'; "
                f"got {len(self.stds)} and {len(self.weights)}"
            )
        if not math.isclose(sum(self.weights), 1, abs_tol=1e-9):
            raise dc.SpecError(f"'weights' of gaussian-mixture must sum to 1; their sum is {sum(self.weights):g}")

    @property
    def shape(self) -> tuple[int, ...]:
        """One axis: the dimension."""
        return (len(self.means[0]),)

    @property
    def count(self) -> int:
        """Number of components."""
        return len(self.means)

    def block(self, draw: dc.Draw) -> tuple[Tensor, Tensor]:
        """means_k + stds_k z, and k, which is drawn by inverting the cumulative weights."""
        means, stds, weights = (torch.tensor(v, dtype=torch.float64) for v in (self.means, self.stds, self.weights))
        label = torch.searchsorted(weights.cumsum(0)[:-1].contiguous(), uniform(draw), right=True)
        return means[label] + stds[label, None] * normal(draw, *self.shape), label

    def oracle(self) -> testing.Mixture:
        """The mixture."""
        return testing.Mixture(self.weights, self.means, self.stds)


@dc.component
class FiniteSet(Modes):
    """Equal point masses, drawn without end: (1/K) sum_k delta(points_k). A perfect model can only repeat the points."""

    source: ClassVar[str] = ORACLE
    items: ClassVar[tuple[str, ...]] = ("6.02",)
    example: ClassVar[Mapping[str, Any]] = {"points": ((-0.5, -0.5), (0.5, 0.0), (0.0, 0.7))}

    points: tuple[Point, ...] = dc.param(ge=-1e6, le=1e6, doc="K points of d numbers")

    def __attrs_post_init__(self) -> None:
        check_points("'points' of finite-set", self.points)

    @property
    def shape(self) -> tuple[int, ...]:
        """One axis: the dimension."""
        return (len(self.points[0]),)

    @property
    def count(self) -> int:
        """Number of points."""
        return len(self.points)

    def block(self, draw: dc.Draw) -> tuple[Tensor, Tensor]:
        """points_k, and k."""
        label = mode(draw, self.count)
        return torch.tensor(self.points, dtype=torch.float64)[label], label

    def oracle(self) -> testing.FiniteSet:
        """The points."""
        return testing.FiniteSet(self.points)

"""What it costs to carry noise to samples."""

from __future__ import annotations

from typing import ClassVar

import attrs

import diffcore as dc

from .paths import measured, sampled
from .transport import assignment, squared_distances


@dc.component
class TransportCost(dc.Metric):
    """`transport-cost`: E |x_T - x_0|^p over the ends of the flow's paths, |.| the Euclidean norm over all entries.

    Rectifying a flow does not raise it, for any p >= 1 (convex costs). `within` says the least that there
    can be: the cost of the optimal pairing of the very same noises and samples, hence the empirical W_p^p of n points, which
    lies above the true one by an amount that falls slowly in high dimension. Paths as in 'straightness'.

    Raises `DataError` without a field, and `IncompatibleError` for a process without a velocity in flat space.
    """

    source: ClassVar[str] = "Liu et al. 2022, arXiv 2209.03003, theorem 3.5; Lai et al. 2025, arXiv 2510.21890, chapter 5"
    items: ClassVar[tuple[str, ...]] = ("5.18", "5.20")
    requires: ClassVar[frozenset[str]] = frozenset({"velocity", "flat"})

    power: float = dc.param(default=2.0, ge=1, le=10, doc="p: the cost is the p-th power of the distance")
    count: int = dc.param(default=512, ge=2, le=10_000_000, doc="paths, at most as many as there are evaluated samples")
    steps: int = dc.param(default=8, ge=1, le=100_000, doc="pairs of Runge-Kutta steps along a path, four evaluations each step")
    seed: int = dc.param(default=0, ge=0, doc="seed of the noise the paths start from")

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """The cost, and the least one as its bound (`within`)."""
        paths = sampled(ev, self.count, self.seed, 2 * self.steps)
        table = squared_distances(paths.noise, paths.data) ** (self.power / 2)
        best = float(table.gather(1, assignment(table)[:, None]).mean())
        cost = measured(table.diagonal(), "the optimal pairing of the same noises and samples")
        return {"transport-cost": attrs.evolve(cost, within=(best, None))}

"""Improved precision and recall."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

import diffcore as dc
from diffcore_metrics.neighbours import ball_counts, squared_radii
from diffcore_metrics.two_samples import TwoSamples


def precision_recall(fake: Tensor, real: Tensor, k: int) -> tuple[float, float]:
    """Share of `fake` (n, d) in the support of `real` (m, d), and of `real` in that of `fake`.

    The support of a set is estimated as the union of the balls round its points that reach to their k-th neighbour.
    Source: Kynkaanniemi et al. 2019, arXiv 1904.06991, equations 1 and 2.
    """
    in_real, _ = ball_counts(fake, real, squared_radii(real, k))
    in_fake, _ = ball_counts(real, fake, squared_radii(fake, k))
    return float((in_real > 0).double().mean()), float((in_fake > 0).double().mean())


@dc.component
class PrecisionRecall(TwoSamples):
    """`precision`: share of samples that look real. `recall`: share of real data that the samples reach. Both in [0, 1]."""

    source: ClassVar[str] = "Kynkaanniemi et al. 2019, arXiv 1904.06991"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    within: ClassVar[tuple[float | None, float | None]] = (0.0, 1.0)

    k: int = dc.param(default=3, ge=1, le=100_000, doc="neighbour whose distance is the radius of a ball")

    @property
    def least(self) -> int:
        """A block must hold a k-th neighbour for each of its samples."""
        return self.k + 1

    def compare(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """Precision and recall."""
        precision, recall = precision_recall(fake, real, self.k)
        return {"precision": precision, "recall": recall}

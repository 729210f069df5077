"""Energy distance."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

import diffcore as dc
from diffcore_metrics.two_sample_statistic import unbiased
from diffcore_metrics.two_samples import TwoSamples


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| over different points of x (n, d) and y (m, d): unbiased, in units of the distance.

    It is the maximum mean discrepancy of the kernel -|x - y|; on the line it is 2 int (F - G)^2.
    """
    return unbiased(x, y, lambda squared: -squared.sqrt())[0]


@dc.component
class EnergyDistance(TwoSamples):
    """Energy distance `energy-distance` >= 0, zero only for equal distributions, with no bandwidth; linear in the scale.

    Unbiased, so about 0 for equal distributions, also below.
    """

    source: ClassVar[str] = "Szekely and Rizzo 2013, J. Stat. Plan. Inference 143; Sejdinovic et al. 2013, arXiv 1207.6076"

    def compare(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """The energy distance."""
        return {"energy-distance": energy_distance(fake, real)}

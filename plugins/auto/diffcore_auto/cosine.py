"""Equal steps of the angle between signal and noise."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

import diffcore as dc
from diffcore_auto.angles import AngleGrid


@dc.component
class Cosine(AngleGrid):
    """phi = arctan(sigma / (alpha scale)) equally spaced.

    These are the levels that the cosine schedule alpha = cos(pi u / 2), sigma = sin(pi u / 2) has at equally spaced u, for any
    affine process.
    """

    source: ClassVar[str] = "Nichol and Dhariwal 2021, arXiv 2102.09672, equation 17 without its offset"

    def place(self, phi: Tensor) -> Tensor:
        """phi."""
        return phi

    def angle(self, place: Tensor) -> Tensor:
        """phi."""
        return place

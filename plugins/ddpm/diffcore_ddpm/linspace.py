"""Evenly spaced indices that include the first and the last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

import diffcore as dc

from .spacing import IndexGrid, even


@dc.component
class Linspace(IndexGrid):
    """i_k = 1 + round((K - k) (N - 1) / (K - 1)), k = 1 .. K: from the last index to the first. One step is the last index."""

    source: ClassVar[str] = "Nichol and Dhariwal 2021, arXiv 2102.09672, section 4; Lin et al. 2023, arXiv 2305.08891, table 2"
    items: ClassVar[tuple[str, ...]] = ("9.06",)
    example: ClassVar[Mapping[str, Any]] = {"chain": 1000}

    def indices(self, n: int, steps: int) -> Tensor:
        """Even from n to 1, rounded."""
        return even(n, steps)

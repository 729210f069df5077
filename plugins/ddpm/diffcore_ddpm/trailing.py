"""Evenly spaced indices that include the last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .spacing import IndexGrid


@dc.component
class Trailing(IndexGrid):
    """i_k = round(N - (k - 1) N / K), k = 1 .. K: begins at the last index, where the prior is exact; ends at N / K.

    Networks with integer input see i - 1. The right choice with zero terminal SNR.
    """

    source: ClassVar[str] = "Lin et al. 2023, arXiv 2305.08891, section 3.3 and table 2"
    items: ClassVar[tuple[str, ...]] = ("9.06",)
    example: ClassVar[Mapping[str, Any]] = {"chain": 1000}

    def indices(self, n: int, steps: int) -> Tensor:
        """round(n k / steps), k = steps .. 1."""
        return torch.round(torch.arange(steps, 0, -1, dtype=torch.float64) * n / steps)

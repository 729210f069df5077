"""Every c-th index from the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .spacing import IndexGrid


@dc.component
class Leading(IndexGrid):
    """i_k = 1 + offset + (K - k) floor(N / K), k = 1 .. K: ends at the first index, begins below the last.

    The published grid of many checkpoints. A run draws its start from the prior of the last index all the same, so the first
    step believes its noise to be less than it is: Lin et al. 2023 describe what that does to the mean of images.
    """

    source: ClassVar[str] = (
        "Song, Meng and Ermon 2021, arXiv 2010.02502, appendix D.3; Lin et al. 2023, arXiv 2305.08891, table 2"
    )
    items: ClassVar[tuple[str, ...]] = ("9.06",)
    example: ClassVar[Mapping[str, Any]] = {"chain": 1000}
    expected_failures: ClassVar[Mapping[str, str]] = {"nodes": "begins below the start by its definition"}

    offset: int = dc.param(default=0, ge=0, le=100_000, doc="indices added to all; 1 in the checkpoints of Stable Diffusion")

    def indices(self, n: int, steps: int) -> Tensor:
        """Falling by floor(n / steps), to 1 + offset."""
        found = 1 + self.offset + torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (n // steps)
        if found[0] > n:
            raise dc.SpecError(
                f"offset {self.offset} moves the first of {steps} indices beyond the last, {n}; take a smaller one"
            )
        return found

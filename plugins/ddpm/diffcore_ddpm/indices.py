"""Times that are indices of a chain, for training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc


def length(process: dc.Process, chain: int | None) -> int:
    """The length of the chain: as asked, else that of the process. Raises `IncompatibleError` where it has none."""
    n = getattr(process, "steps", None) if chain is None else chain
    if n is None:
        raise dc.IncompatibleError(
            f"process {type(process).__name__} has no indices of its own; take process ddpm, or set 'chain'"
        )
    return n


def drawn(draw: dc.Draw, n: int) -> Tensor:
    """Uniform indices 1 .. n, float64 [B]."""
    return 1 + (draw.uniform() * n).floor()


@dc.component
class Indices(dc.TimeLaw):
    """t = i T / N, i uniform on 1 .. N: the training times of a discrete chain.

    With a loss of the noise's error and weight 1 this is L_simple. Raises `IncompatibleError` for a process that is not a
    chain where `chain` is null, `SpecError` where the first index lies below the smallest time of the process.
    """

    source: ClassVar[str] = "Ho et al. 2020, arXiv 2006.11239, algorithm 1"
    items: ClassVar[tuple[str, ...]] = ("2.12",)
    example: ClassVar[Mapping[str, Any]] = {"chain": 1000}

    chain: int | None = dc.param(default=None, ge=1, le=100_000, doc="number of indices N; that of the process where null")

    def __call__(self, process: dc.Process, draw: dc.Draw) -> Tensor:
        """Times of indices, float64 [B]."""
        n = length(process, self.chain)
        if process.T / n < process.min_time * (1 - 1e-12):
            raise dc.SpecError(
                f"index 1 of a chain of {n} is t = {process.T / n:.3g}, below the smallest time {process.min_time:.3g} of "
                f"{type(process).__name__}; take a shorter 'chain'"
            )
        return torch.clamp(drawn(draw, n) / n * process.T, process.min_time, process.T)

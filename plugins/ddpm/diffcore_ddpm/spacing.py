"""What the grids of indices share."""

from __future__ import annotations

import torch
from torch import Tensor

import diffcore as dc

from .indices import length


@dc.component
class IndexGrid(dc.Grid):
    """A grid of chosen indices i_1 > ... > i_K of a chain of N, at times i T / N, then clean data at 0.

    A run from an earlier start uses the part of the chain up to there. Raises `SpecError` where that part has fewer than K
    indices, `IncompatibleError` where the process has none and `chain` is null.
    """

    chain: int | None = dc.param(default=None, ge=1, le=100_000, doc="number of indices N; that of the process where null")

    def indices(self, n: int, steps: int) -> Tensor:
        """`steps` different indices of 1 .. n, falling, float64."""
        raise NotImplementedError

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """The times of the indices, then 0."""
        n = length(process, self.chain)
        part = round(start / process.T * n)
        if part < steps:
            raise dc.SpecError(
                f"{part} indices of a chain of {n} lie up to t = {start:.4g}; {steps} steps need as many; take fewer"
            )
        nodes = torch.cat([self.indices(part, steps) / n, torch.zeros(1, dtype=torch.float64)]) * process.T
        return torch.where(nodes == part / n * process.T, start, nodes)


def even(n: int, count: int) -> Tensor:
    """`count` different indices from n down to 1, evenly spaced and rounded, float64; n alone where one is asked for."""
    if count == 1:
        return torch.tensor([float(n)], dtype=torch.float64)
    return 1 + torch.round(torch.arange(count - 1, -1, -1, dtype=torch.float64) * (n - 1) / (count - 1))

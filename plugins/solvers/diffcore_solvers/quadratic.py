"""Equal steps in sqrt(t)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_solvers.levels import EndedGrid


@dc.component
class Quadratic(EndedGrid):
    """sqrt(t_i) equally spaced from sqrt(start) to sqrt(end), i = 0 .. N: small steps near the data.

    Where the last but one would lie below min_time, N - 1 steps to min_time and one from there.
    """

    source: ClassVar[str] = "Song, Meng and Ermon 2021, arXiv 2010.02502, appendix D.2"
    items: ClassVar[tuple[str, ...]] = ("9.13", "R26")

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """The N + 1 times."""
        return process.times_down(steps, lambda n, end: _squares(start, end, n), self.last(process))


def _squares(start: float, end: float, steps: int) -> Tensor:
    nodes = torch.linspace(start**0.5, end**0.5, steps + 1, dtype=torch.float64) ** 2
    nodes[0], nodes[-1] = start, end
    return nodes

"""Equal steps of the angle between signal and noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_auto.levels import END, End, last_time, times_at


@dc.component
class Cosine(dc.Grid):
    """phi = arctan(sigma / (alpha scale)) equally spaced from the start to the end, sigma / alpha = scale tan phi.

    These are the levels that the cosine schedule alpha = cos(pi u / 2), sigma = sin(pi u / 2) has at equally spaced u, for any
    affine process. phi is pi/2 at pure noise and 0 at clean data, so neither end needs a cut. `scale`: the standard deviation
    of the data (1 for data of unit variance).
    """

    source: ClassVar[str] = "Nichol and Dhariwal 2021, arXiv 2102.09672, equation 17 without its offset"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    end: End = dc.field(default="zero", doc=END)
    scale: float = dc.field(default=1.0, gt=0, doc="sigma / alpha at the angle of 45 degrees", unit="data")

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """The N + 1 times."""
        end = last_time(process, self.end)
        ends = process.coeffs(torch.tensor([start, end], dtype=torch.float64))
        low, high = torch.atan2(ends.sigma, ends.alpha * self.scale).tolist()
        angles = torch.linspace(low, high, steps + 1, dtype=torch.float64)[1:-1]
        return times_at(process, -(self.scale * angles.tan()).log(), start, end)

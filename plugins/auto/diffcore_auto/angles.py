"""Time grids that are equal steps of a function of the angle between signal and noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_auto.levels import END, End, last_time, times_at


@dc.component
class AngleGrid(dc.Grid):
    """Equal steps of `place(phi)`, phi = arctan(sigma / (alpha scale)), from the start to the end.

    phi is pi / 2 at pure noise and 0 at clean data, so neither end needs a cut. Where an inner time would lie below min_time,
    N - 1 steps to min_time and one from there.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    end: End = dc.param(default="zero", doc=END)
    scale: float = dc.param(
        default=1.0,
        gt=0,
        le=1e6,
        doc="sigma / alpha at the angle of 45 degrees: about the standard deviation of the data",
        unit="data",
    )

    def place(self, phi: Tensor) -> Tensor:
        """What is equally spaced, rising with phi."""
        raise NotImplementedError

    def angle(self, place: Tensor) -> Tensor:
        """The inverse of `place`."""
        raise NotImplementedError

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """The N + 1 times."""
        return process.times_down(steps, lambda n, end: self._spaced(process, n, start, end), last_time(process, self.end))

    def _spaced(self, process: dc.Process, steps: int, start: float, end: float) -> Tensor:
        ends = process.coeffs(torch.tensor([start, end], dtype=torch.float64))
        low, high = self.place(torch.atan2(ends.sigma, ends.alpha * self.scale)).tolist()
        phi = self.angle(torch.linspace(low, high, steps + 1, dtype=torch.float64)[1:-1])
        return times_at(process, -(self.scale * phi.tan()).log(), start, end)

"""A time grid that is written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import diffcore as dc

SAME = 1e-6
"""Times nearer than this share of the start are the start."""


@dc.component
class Explicit(dc.Grid):
    """The N + 1 times of N steps as given: in t, as levels lam = log(alpha / sigma), or as noise ratios sigma / alpha.

    lam = .inf and sigma = 0 are clean data. A first level noisier than the start of the run is the start. The first time
    must be the start of the run, and the solver's `steps` one less than the number of times. `resample: true` lifts both:
    for another number of steps lam is interpolated linearly over the index, the ends as they are (log-linear in
    sigma / alpha); a later start takes the place of the times before it.

    Raises `SpecError` unless exactly one of `times`, `lam` and `sigma` is given, for values that do not fall from noise to
    data, and for numbers of steps and starts that do not match.
    """

    source: ClassVar[str] = "resampling: Sabour et al. 2024, arXiv 2404.14507, section 4 and appendix"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    example: ClassVar[Mapping[str, Any]] = {"lam": (-20.0, -3.0, -1.5, 0.0, 1.5, 4.0, 20.0), "resample": True}

    times: tuple[float, ...] | None = dc.param(default=None, ge=0, le=1e6, doc="times, falling")
    lam: tuple[float, ...] | None = dc.param(default=None, ge=-math.inf, le=math.inf, doc="log(alpha / sigma), rising")
    sigma: tuple[float, ...] | None = dc.param(default=None, ge=0, le=1e12, doc="sigma / alpha, falling")
    resample: bool = dc.param(default=False, doc="whether other numbers of steps and other starts are interpolated")

    def __attrs_post_init__(self) -> None:
        given = {"times": self.times, "lam": self.lam, "sigma": self.sigma}
        named = [(name, values) for name, values in given.items() if values is not None]
        if len(named) != 1:
            raise dc.SpecError(f"grid 'explicit' needs one of times, lam and sigma; got {len(named)} of them")
        ((name, values),) = named
        sign = 1 if name == "lam" else -1
        if len(values) < 2 or not all(sign * (b - a) > 0 for a, b in pairwise(values)):
            way = "rise" if name == "lam" else "fall"
            raise dc.SpecError(f"'{name}' of grid 'explicit' needs 2 or more values that {way} strictly; got {list(values)}")

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """The N + 1 times."""
        known = self._known(process, start)
        if not self.resample:
            self._check(known, steps, start)
            return torch.cat([known.new_tensor([start]), known[1:]])
        later = known[known < start * (1 - SAME)]
        nodes = torch.cat([later.new_tensor([start]), later])
        return nodes if len(nodes) == steps + 1 else _resampled(process, nodes, steps)

    def _known(self, process: dc.Process, start: float) -> Tensor:
        """The times that were given."""
        if self.times is not None:
            return torch.tensor(self.times, dtype=torch.float64)
        ratio = torch.tensor(self.sigma or (), dtype=torch.float64)
        levels = torch.tensor(self.lam, dtype=torch.float64) if self.lam is not None else -ratio.log()
        first = float(process.coeffs(torch.tensor(start, dtype=torch.float64)).lam)
        times = process.t_of_lam(levels.clamp(-700, 700))
        return torch.where(levels == torch.inf, 0.0, torch.where(levels <= first, start, times))

    def _check(self, known: Tensor, steps: int, start: float) -> None:
        if len(known) != steps + 1:
            raise dc.SpecError(
                f"grid 'explicit' has {len(known)} times, which is {len(known) - 1} steps, and the solver takes {steps}; "
                f"set steps: {len(known) - 1}, or resample: true"
            )
        if abs(float(known[0]) - start) > SAME * start:
            raise dc.SpecError(
                f"grid 'explicit' begins at t = {float(known[0]):.6g}, the run at t = {start:.6g}; "
                f"let the first value be the start, or set resample: true"
            )


def _resampled(process: dc.Process, nodes: Tensor, steps: int) -> Tensor:
    """lam linear over the index from the first to the last node where it is finite; infinite ends stay nodes of their own."""
    lam = process.coeffs(nodes).lam
    finite = lam.isfinite()
    head, tail = nodes[:1][~finite[:1]], nodes[-1:][~finite[-1:]]
    count, inner = steps + 1 - len(head) - len(tail), lam[finite]
    if count == 0:
        return torch.cat([head, tail])
    at = np.linspace(0, len(inner) - 1, count) if count > 1 else np.array([(len(inner) - 1) / 2])
    levels = torch.from_numpy(np.interp(at, np.arange(len(inner)), inner.numpy()))
    times = torch.cat([head, process.t_of_lam(levels), tail])
    times[0], times[-1] = nodes[0], nodes[-1]
    return times

"""Monotone weightings, and the average of ELBOs that each of them is.

With w(lam) the weight of E|eps error|^2 per lam = log(alpha / sigma), and the bound on the data noised to lam,

    L(lam) = int_{lam_T}^{lam} E|eps error|^2 dlam'        (nats; (1/2) d log SNR = dlam)

integration by parts gives

    int w E|eps error|^2 dlam = w(lam_max) L(lam_max) + int L(lam) (-w'(lam)) dlam.

Where w falls with lam, -w' is a density: the loss is an average of bounds over noised copies of the data. Where it rises, it
is negative, and the loss is none (Kingma and Gao 2023, arXiv 2303.00848; their lambda is 2 lam).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

import diffcore as dc
from diffcore_unified.weightings import EPS, P2, from_eps, levels

REACH, NODES = 15.0, 12001
"""lam of the table of maxima: -REACH to REACH, in steps of 1/400; a maximum between two nodes is missed by 1e-6 of itself."""


@dc.component
class Monotone(dc.Weighting):
    """The least weighting that falls with the signal and is nowhere below another: w~(lam) = max over lam' >= lam of w(lam').

    w is `of`, read in eps as a function of lam and times the density of lam where the recipe to be mended draws
    log(sigma / alpha) from N(mean, std^2). {of: edm, mean: -1.2, std: 1.2} is the published "EDM-monotonic". The weight is
    for times uniform in lam (`clock: lam`), or, times -lam', uniform in t (`clock: t`).

    {of: {type: p2, gamma: 0}, clock: t} is the ELBO itself: the expected loss is then int E|eps error|^2 dlam in nats,
    divided by D (T - min_time) for data of D entries.
    """

    source: ClassVar[str] = "Kingma and Gao 2023, arXiv 2303.00848"
    items: ClassVar[tuple[str, ...]] = ("6.10",)
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"mean": -1.2}, {"clock": "t"})

    of: dc.Weighting = dc.param(factory=P2, doc="the weighting that is made monotone")
    mean: float | None = dc.param(
        default=None, ge=-50, le=50, doc="mean of log(sigma / alpha) of a time law folded into w; null: none"
    )
    std: float = dc.param(default=1.2, gt=0, le=50, doc="its standard deviation")
    clock: Literal["lam", "t"] = dc.param(default="lam", doc="the variable in which the training times are uniform")

    def __call__(self, at: dc.Coeffs, row: dc.Row) -> Tensor:
        """The weight in `row`, shape of at.t."""
        lam = at.lam.double()
        weight = torch.maximum(self.level(lam), _least(self).to(lam.device)[_next(lam)])
        weight = weight.to(at.alpha.dtype) * (1 if self.clock == "lam" else -at.dlam)
        return from_eps(weight, at, row)

    def level(self, lam: Tensor) -> Tensor:
        """w(lam), before it is made monotone; float64."""
        weight = self.of(levels(lam), EPS)
        if self.mean is None:
            return weight
        z = (lam + self.mean) / self.std
        return weight * torch.exp(-(z**2) / 2) / (self.std * math.sqrt(2 * math.pi))


class Mixture(NamedTuple):
    """A weighting as an average of bounds: `mass` at each of `lam` [N], the first at the least noisy level."""

    lam: Tensor
    mass: Tensor

    @property
    def is_average(self) -> bool:
        """Whether all mass but 1e-6 of it is positive, so that the weighted loss is an average of ELBOs."""
        return bool(-self.mass.clamp_max(0.0).sum() <= 1e-6 * self.mass.abs().sum())

    def of(self, bound: Tensor) -> Tensor:
        """sum mass L(lam): the weighted loss, from the bounds L(lam) [N]."""
        return (self.mass * bound).sum()


def mixture(weighting: dc.Weighting, lam: Tensor) -> Mixture:
    """The average of bounds that `weighting` is, relative to times uniform in lam, on falling levels lam [N + 1], float64.

    The levels of the result are the first, and the middles of the intervals: w(lam_0) stands at lam_0, and the rise of w
    over an interval at its middle, so `of` is a midpoint rule of second order. A negative mass is one where w rises with
    the signal. The weighting must be a function of the signal-to-noise ratio.
    """
    at = levels(lam)
    weight = weighting(at, EPS)
    return Mixture(torch.cat([lam[:1], (lam[1:] + lam[:-1]) / 2]), torch.cat([weight[:1], weight.diff()]))


@lru_cache(maxsize=32)
def _least(weighting: Monotone) -> Tensor:
    """max of w over all nodes from each one on; 0 beyond the last."""
    lam = torch.linspace(-REACH, REACH, NODES, dtype=torch.float64)
    return torch.cat([weighting.level(lam).flip(0).cummax(0).values.flip(0), lam.new_zeros(1)])


def _next(lam: Tensor) -> Tensor:
    """The first node not below lam, NODES where there is none."""
    return ((lam + REACH) * ((NODES - 1) / (2 * REACH))).ceil().clamp(0, NODES).long()

"""Error control of a step: norms per sample, the first step, and the step after a step (PI control)."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

import diffcore as dc

SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
"""A step is chosen for SAFETY^k of the allowed error, and changes by a factor between SHRINK and GROW."""
LEAST = 1e-4
"""Errors below this count as this."""


@attrs.frozen
class Tolerance:
    """err = sqrt(mean over entries of (e / (atol + rtol |x|))^2): a step with err <= 1 is accepted.

    k: one more than the lower of the two orders of the pair, so that err ~ h^k. After an accepted step

        h <- h SAFETY err^(-0.7 / k) err_before^(0.4 / k),

    after a rejected one h <- h SAFETY err^(-1 / k) (Hairer and Wanner 1996, "Solving Ordinary Differential Equations II", IV.2).
    """

    rtol: float
    atol: float
    k: int

    def norm(self, error: dc.State, *states: dc.State) -> Tensor:
        """err of every sample, [B] float64; infinite where it is not a number. |x| is the largest of the states given."""
        leaves = [dc.leaves(tree) for tree in (error, *states)]
        square, count = torch.zeros((), dtype=torch.float64), 0
        for e, *xs in zip(*leaves, strict=True):
            ratio = (e.detach() / (self.atol + self.rtol * _largest(xs))).double().flatten(1)
            square, count = square.to(ratio.device) + (ratio**2).sum(1), count + ratio.shape[1]
        return (square / max(count, 1)).sqrt().nan_to_num(nan=torch.inf)

    def first(self, x: dc.State, slope: dc.State) -> Tensor:
        """A length over which x changes by a hundredth of itself (or of what is allowed)."""
        return 0.01 * self.norm(x, x).clamp_min(1.0) / self.norm(slope, x).clamp_min(1e-5)

    def second(self, length: Tensor, x: dc.State, change: dc.State, slope: dc.State) -> Tensor:
        """The first step, from the change of the slope over that length (Hairer, Norsett and Wanner 1993, II.4)."""
        bend = torch.maximum(self.norm(change, x) / length, self.norm(slope, x)).clamp_min(1e-15)
        return torch.minimum(100 * length, (0.01 / bend) ** (1 / self.k))

    def factor(self, err: Tensor, before: Tensor, accepted: Tensor) -> Tensor:
        """What the next step is multiplied by."""
        err = err.clamp_min(LEAST)
        steady = (SAFETY * err ** (-0.7 / self.k) * before ** (0.4 / self.k)).clamp(SHRINK, GROW)
        return torch.where(accepted, steady, (SAFETY * err ** (-1 / self.k)).clamp(SHRINK, 1.0))


def _largest(states: Sequence[Tensor]) -> Tensor:
    largest = states[0].detach().abs()
    for x in states[1:]:
        largest = torch.maximum(largest, x.detach().abs())
    return largest

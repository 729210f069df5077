"""Tau-leaping: all tokens jump at once, at rates frozen over a step."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc

from .categorical import Categorical, lifted, one_hot, pick


@dc.component
class TauLeaping(dc.Stepper):
    """A token jumps within a step with probability 1 - exp(-sum_y H_y), to y with probability H_y / sum H; at most once.

    H_y = int_s^t c(u) du w_y(x_t): the scale c of the rates is integrated exactly, the rest, what the network says, is frozen at
    t. So the steps from T and to 0, where c is infinite, need no special care, and every mask is revealed by t = 0. For masked
    tokens a step is that of `ancestral`. The law of the samples converges with order 1 in the step.

    rates: "reverse" is the reversed chain, H_y proportional to p_t(y) / p_t(x); "flow" has the same marginals with the fewest
    jumps, H_y proportional to p(x_0 = y | x_t), where y may be the present value (a redraw), so that a step to t = 0 draws from
    the posterior. The two agree for masked tokens.
    """

    source: ClassVar[str] = "Campbell et al. 2022, arXiv 2205.14987; Lou, Meng and Ermon 2024, arXiv 2310.16834"
    items: ClassVar[tuple[str, ...]] = ("12.06", "12.07")
    requires: ClassVar[frozenset[str]] = frozenset({"tokens", "jumps"})

    rates: Literal["reverse", "flow"] = dc.param(default="reverse", doc="the reversed chain, or the fewest jumps")

    def plan(self, process: Any, grid: Tensor) -> dc.Plan:
        """The time, and exp(-int c) of each step."""
        t, s = process.pairs(grid)
        return dc.Plan(t=t, keep=process.jump_keep(t, s, self.rates), noise=torch.ones_like(t.t))

    def step(self, field: dc.Field, x: Tensor, row: Any, carry: Any, z: Tensor) -> dc.Moved:
        """One evaluation, one uniform number per token."""
        return dc.Moved(pick(z, self.law(field.process, field.posterior(x, row.t), row.keep)))

    def law(self, process: Any, posterior: Categorical, keep: Any) -> Tensor:
        """The probabilities of each token's next state, float64 (*x.shape, states)."""
        weights = process.jump_weights(posterior, self.rates)
        weights = torch.nn.functional.pad(weights, (0, process.states - weights.shape[-1]))
        total = weights.sum(-1, keepdim=True)
        stays = lifted(keep, posterior.x) ** total
        return stays * one_hot(posterior.x, process.states) + (1 - stays) * weights / total.clamp_min(1e-300)

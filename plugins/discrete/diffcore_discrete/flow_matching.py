"""Discrete flow matching: learn the posterior of the data, whatever the path."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

import diffcore as dc

from .categorical import chosen
from .training import TokenLoss, kit_data


@dc.component
class DiscreteFlowMatching(TokenLoss):
    """-log p(x_0^i | x_t), the mean over tokens, t uniform: nats per token.

    The rates of the marginal path are the conditional rates -alpha'/(1 - alpha) ([x_0] - [x_t]) averaged over p(x_0 | x_t), so
    the posterior is all there is to learn, for any positive weight of times. Tokens that show (in a masked process) cost
    nothing. Sample with `ancestral`, or `tau-leaping` with `rates: flow`. Not a likelihood bound.
    """

    source: ClassVar[str] = "Gat et al. 2024, arXiv 2407.15595; Campbell et al. 2024, arXiv 2402.04997"
    items: ClassVar[tuple[str, ...]] = ("12.07",)
    predictions: ClassVar[tuple[str, ...]] = ("logits",)
    expected_failures = kit_data

    def __call__(self, model: dc.Denoiser, x0: Tensor, draw: dc.Draw, **cond: Any) -> Tensor:
        """Nats per token, [B]."""
        _, known = self.noised(model, x0, draw, cond)
        return -chosen(known.logp, x0).flatten(1).mean(1)

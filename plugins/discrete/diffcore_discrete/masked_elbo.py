"""The likelihood bound of masked diffusion: a weighted cross-entropy."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .categorical import chosen
from .training import TokenLoss, kit_data


@dc.component
class MaskedELBO(TokenLoss):
    """-alpha'_t / (1 - alpha_t) sum_(x_t^i = mask) -log p(x_0^i | x_t) / L, t uniform on [min_time, T]: nats per token.

    L tokens in a sample. Its expectation bounds -log p(x_0) / L from above, with equality for the exact posterior of a law
    whose tokens are revealed one at a time. It does not depend on the schedule but for its variance. With a time law that is
    not uniform it is a weighting of the bound.
    """

    source: ClassVar[str] = "Sahoo et al. 2024, arXiv 2406.07524; Shi et al. 2024, arXiv 2406.04329"
    items: ClassVar[tuple[str, ...]] = ("12.03",)
    requires: ClassVar[frozenset[str]] = frozenset({"masks"})
    predictions: ClassVar[tuple[str, ...]] = ("logits",)
    expected_failures = kit_data

    def __call__(self, model: dc.Denoiser, x0: Tensor, draw: dc.Draw, **cond: Any) -> Tensor:
        """Nats per token, [B]."""
        process: Any = model.process
        noised, known = self.noised(model, x0, draw, cond)
        surprise = -chosen(known.logp, x0)
        hidden = noised.xt == process.mask
        total = torch.where(hidden, surprise, 0.0).flatten(1).mean(1)
        return (process.jump_scale(noised.at) * (process.T - process.min_time)).to(total.dtype) * total

"""The loss of D3PM: the variational bound plus a cross-entropy."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .categorical import chosen, one_hot
from .training import TokenLoss, divergence, kit_data


@dc.component
class D3PMHybrid(TokenLoss):
    """N KL(q(x_(k-1) | x_k, x_0) || p(x_(k-1) | x_k)) / L + weight (-log p(x_0 | x_k)) / L at a random level k: nats per token.

    weight = 0 is the bound of the chain with N levels up to the constant KL(q(x_N | x_0) || p(x_N)); its step k = 1 is the
    reconstruction -log p(x_0 | x_1). The second term trains the prediction of x_0 where the bound hardly sees it.
    """

    source: ClassVar[str] = "Austin et al. 2021, arXiv 2107.03006"
    items: ClassVar[tuple[str, ...]] = ("12.05",)
    requires: ClassVar[frozenset[str]] = frozenset({"levels"})
    predictions: ClassVar[tuple[str, ...]] = ("logits",)
    expected_failures = kit_data

    weight: float = dc.param(default=0.01, ge=0, le=1e6, doc="weight of the cross-entropy")

    def times(self, process: Any, draw: dc.Draw) -> Tensor:
        """A level of the chain; times of another law count as the level above them."""
        t = super().times(process, draw) if self.time_law is not None else draw.uniform()
        return torch.ceil(t * process.levels - 1e-5).clamp_min(1) / process.levels

    def __call__(self, model: dc.Denoiser, x0: Tensor, draw: dc.Draw, **cond: Any) -> Tensor:
        """Nats per token, [B]."""
        process: Any = model.process
        noised, known = self.noised(model, x0, draw, cond)
        bound = process.levels * step_divergence(process, x0, noised, process.coeffs(noised.at.t - 1 / process.levels), known)
        if self.weight == 0:
            return bound
        return bound - self.weight * chosen(known.logp, x0).flatten(1).mean(1)


def step_divergence(process: Any, x0: Tensor, noised: dc.Corruption, s: Any, known: Any) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), the mean over tokens, [B]."""
    true = process.kernel(noised.xt, noised.at, s, one_hot(x0, process.values))
    return divergence(true, process.kernel(noised.xt, noised.at, s, known.probs)).flatten(1).mean(1)

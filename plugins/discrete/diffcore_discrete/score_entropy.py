"""Score entropy: the likelihood bound of a jump process, in the ratios of its marginals."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .categorical import Categorical, one_hot
from .training import TokenLoss, kit_data


@dc.component
class ScoreEntropy(TokenLoss):
    """sum_y Q_yx (s_y - r_y log s_y + r_y (log r_y - 1)) / L at a random time: nats per token.

    Q_yx is the forward rate from y to x = x_t, r_y = q(y | x_0) / q(x | x_0), s_y the model's p_t(y) / p_t(x), given by the
    network ("ratio") or by its posterior of x_0 ("logits"). Written with reverse rates R = Q s it is the divergence of two jump
    processes, sum_y R_y - R*_y + R*_y log(R*_y / R_y). Its minimiser is the concrete score; its integral over [0, T] bounds
    -log p(x_0) / L up to the divergence at T. For masked tokens and "logits" it is `masked-elbo`.
    """

    source: ClassVar[str] = "Lou, Meng and Ermon 2024, arXiv 2310.16834; Meng et al. 2022, arXiv 2211.00802"
    items: ClassVar[tuple[str, ...]] = ("12.06",)
    requires: ClassVar[frozenset[str]] = frozenset({"jumps"})
    predictions: ClassVar[tuple[str, ...]] = ("logits", "ratio")
    expected_failures = kit_data

    def __call__(self, model: dc.Denoiser, x0: Tensor, draw: dc.Draw, **cond: Any) -> Tensor:
        """Nats per token, [B]."""
        process: Any = model.process
        noised, known = self.noised(model, x0, draw, cond)
        true = process.jump_weights(Categorical(noised.xt, noised.at, one_hot(x0, process.values).log()))
        scale = process.jump_scale(noised.at) * (process.T - process.min_time)
        return scale * rate_divergence(true, process.jump_weights(known)).flatten(1).mean(1)


def rate_divergence(true: Tensor, found: Tensor) -> Tensor:
    """sum_y f - r + r log(r / f) over the last axis: how far rates f are from r, 0 where they agree."""
    return (found - true + torch.xlogy(true, true) - true * found.clamp_min(1e-30).log()).sum(-1)

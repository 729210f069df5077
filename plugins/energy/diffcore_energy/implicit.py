"""Implicit score matching: the Fisher divergence without the score of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

import diffcore as dc
from diffcore_energy.matching import WEAK_PUSH, NoisedLoss
from diffcore_energy.trace import exact_trace, inner


@dc.component
class ImplicitScoreMatching(NoisedLoss):
    """w sigma^2 (|s|^2 + 2 tr grad s) / D = w (|e|^2 - 2 sigma tr grad e) / D at x_t, with e = E[eps|x_t] = -sigma s.

    Integration by parts turns E|s - grad log p_t|^2 into this up to a constant, so the minimiser is the true score, and what a
    model loses is exactly its weighted Fisher divergence. It reads x_t alone, never the noise. Per entry and with factor 2, the
    value is that of the denoising loss of eps less w. Cost: D reverse passes that are differentiated again.

    x0 (B, ...), result (B,). Raises `DataError` for more than `limit` entries.
    """

    source: ClassVar[str] = "Hyvarinen 2005, JMLR 6; Lai et al. 2025, arXiv 2510.21890, chapter 3"
    items: ClassVar[tuple[str, ...]] = ("3.03", "3.05")
    expected_failures: ClassVar[Mapping[str, str]] = WEAK_PUSH

    limit: int = dc.param(default=64, ge=1, le=1_000_000, doc="most entries of a sample; sliced-score-matching knows no limit")

    def __call__(self, model: dc.Denoiser, x0: dc.State, draw: dc.Draw, **cond: Any) -> Tensor:
        """Losses (B,), differentiable in the model's parameters."""
        with dc.second_derivatives():
            xt, at, weight = self.noised(model, x0, draw)
            size = xt[0].numel()
            if size > self.limit:
                raise dc.DataError(
                    f"implicit-score-matching differentiates once per entry and the data has {size}, more than its limit of "
                    f"{self.limit}; use sliced-score-matching, or raise 'limit'"
                )
            e = model(xt, at, **cond).eps
            return weight * (inner(e, e) - 2 * at.sigma * exact_trace(e, xt)) / size

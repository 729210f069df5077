"""Uniform diffusion: tokens are replaced by random ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc

from .categorical import Categorical, chosen, lifted, one_hot
from .schedule import Kept, kept
from .tokens import Tokens


@dc.component
class UniformTokens(Tokens):
    """q(x_t | x_0) = alpha_t [x_0] + (1 - alpha_t) / V. T = 1; x_1 is uniform.

    A token is redrawn from all V values at the rate -alpha'/alpha, so it *leaves* its value at the rate b = -alpha'/alpha
    (V - 1)/V: alpha = exp(-V/(V-1) int b). The reverse kernel is Bayes' rule averaged over the posterior of x_0,

        p(x_s = y | x_t = x) = sum_a p(a | x_t) q(x | y) q_s(y | a) / q_t(x | a),

    and as a jump process x turns into y at the rate (-alpha'/alpha) / V p_t(y) / p_t(x) (rates "reverse"), or, with the same
    marginals and fewer jumps, at the rate -alpha'/(1 - alpha) p(x_0 = y | x_t) (rates "flow"). Predictions: "logits" of
    p(x_0 | x_t), or "ratio", log p_t(y) / p_t(x_t) per value y (the concrete score; that of y = x_t is not read).
    """

    source: ClassVar[str] = "Lou, Meng and Ermon 2024, arXiv 2310.16834; Austin et al. 2021, arXiv 2107.03006"
    items: ClassVar[tuple[str, ...]] = ("12.02", "12.04")
    provides: ClassVar[frozenset[str]] = frozenset({"tokens", "reverse", "jumps"})
    predictions: ClassVar[tuple[str, ...]] = ("logits", "ratio")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"schedule": "cosine"}, {"schedule": "exponential", "values": 2})

    schedule: Literal["linear", "cosine", "exponential"] = dc.param(
        default="linear", doc="alpha: 1 - t, cos(pi t / 2)^2, or exp(-7 t)"
    )

    @property
    def min_time(self) -> float:
        """Ratios grow as 1/t; training starts here."""
        return 1e-3

    def coeffs(self, t: Tensor) -> Kept:
        """alpha and its derivative."""
        return kept(self.schedule, t)

    def marginal(self, x0: Tensor, at: Kept) -> Tensor:
        """alpha at x_0, the rest spread over all values."""
        alpha = lifted(at.alpha, x0)
        return alpha * one_hot(x0, self.values) + (1 - alpha) / self.values

    def kernel(self, x: Tensor, t: Kept, s: Kept, probs: Tensor) -> Tensor:
        """Bayes' rule, normalised."""
        before, step = lifted(s.alpha, x), lifted(t.alpha / s.alpha, x)
        weight = probs / self._likelihood(x, t)
        spread = before * weight + (1 - before) / self.values * weight.sum(-1, keepdim=True)
        law = (step * one_hot(x, self.values) + (1 - step) / self.values) * spread
        return law / law.sum(-1, keepdim=True)

    def _likelihood(self, x: Tensor, at: Kept) -> Tensor:
        """q(x_t = x | x_0 = a) for every a: symmetric, so the marginal as a function of its start."""
        return self.marginal(x, at).clamp_min(1e-30)

    def posterior(self, x: Tensor, out: Tensor, at: Kept, reading: dc.Reading) -> Categorical:
        """Logits as they are; ratios by inverting p_t(y)/p_t(x) = alpha w_y + (1 - alpha)/V sum w, w_a = p(a)/q(x|a)."""
        if reading.prediction == "logits":
            return Categorical(x, at, out.log_softmax(-1))
        here = one_hot(x, self.values) > 0
        log_ratio = torch.where(here, 0.0, out.double())
        ratio, alpha = log_ratio.exp(), lifted(at.alpha, x)
        weight = ratio - (1 - alpha) / self.values * ratio.sum(-1, keepdim=True)
        law = (weight * self._likelihood(x, at)).clamp_min(1e-30)
        return Categorical(x, at, law.log().log_softmax(-1).to(out.dtype), log_ratio)

    def jump_keep(self, t: Kept, s: Kept, rates: str = "reverse") -> Any:
        """exp(-int_s^t scale): alpha_t / alpha_s, or (1 - alpha_s) / (1 - alpha_t)."""
        return t.alpha / s.alpha if rates == "reverse" else (1 - s.alpha) / (1 - t.alpha)

    def jump_scale(self, at: Kept, rates: str = "reverse") -> Any:
        """-alpha'/alpha, or -alpha'/(1 - alpha): the common factor of all jump rates."""
        return -at.dalpha / (at.alpha if rates == "reverse" else 1 - at.alpha)

    def jump_weights(self, posterior: Categorical, rates: str = "reverse") -> Tensor:
        """p_t(y) / p_t(x) / V, 0 at y = x; or p(x_0 = y | x_t), a redraw, which may keep the value: (*x.shape, V)."""
        if rates == "flow":
            return posterior.probs
        return self._ratio(posterior) / self.values * (1 - one_hot(posterior.x, self.values))

    def _ratio(self, posterior: Categorical) -> Tensor:
        """p_t(y) / p_t(x) = E[q(y|x_0) / q(x|x_0) | x_t = x]."""
        if posterior.log_ratio is not None:
            return posterior.log_ratio.exp()
        alpha = lifted(posterior.at.alpha, posterior.x)
        weight = posterior.probs / self._likelihood(posterior.x, posterior.at)
        ratio = alpha * weight + (1 - alpha) / self.values * weight.sum(-1, keepdim=True)
        return ratio / chosen(ratio, posterior.x)[..., None]

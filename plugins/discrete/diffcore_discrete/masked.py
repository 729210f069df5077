"""Masked diffusion: every token turns into a mask, once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc

from .categorical import Categorical, lifted, one_hot
from .schedule import Kept, kept, time_of
from .tokens import Tokens, certain, entries_of, log_share


@dc.component
class Masked(Tokens):
    """q(x_t | x_0) = alpha_t at x_0 and 1 - alpha_t at the mask, which is the value V. T = 1; x_1 is all masks.

    A token is masked at the rate b = -alpha'/alpha, alpha = exp(-int b). Given x_0 a mask at t is x_0 at s < t with probability
    (alpha_s - alpha_t) / (1 - alpha_t), and values that show never change. So the reverse kernel is

        p(x_s | x_t = mask) = (alpha_s - alpha_t) / (1 - alpha_t) p(x_0 | x_t) + (1 - alpha_s) / (1 - alpha_t) [mask],

    and as a jump process it goes to value y at the rate -alpha' / (1 - alpha) p(x_0 = y | x_t). What the network says of values
    that show is not read. Predictions: "logits" of p(x_0 | x_t); "ratio", where logits plus log alpha / ((1 - alpha) V) are
    log p_t(y) / p_t(x_t) (the concrete score) and zero logits a uniform guess.
    """

    source: ClassVar[str] = "Sahoo et al. 2024, arXiv 2406.07524; Shi et al. 2024, arXiv 2406.04329"
    items: ClassVar[tuple[str, ...]] = ("12.02", "12.03", "R23")
    provides: ClassVar[frozenset[str]] = frozenset({"tokens", "reverse", "jumps", "masks"})
    predictions: ClassVar[tuple[str, ...]] = ("logits", "ratio")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"schedule": "cosine"},)
    expected_failures: ClassVar[Mapping[str, str]] = {"prior_is_keyed": "the prior is one state: all entries are masked"}

    schedule: Literal["linear", "cosine"] = dc.param(default="linear", doc="alpha: 1 - t, or cos(pi t / 2)^2")

    @property
    def states(self) -> int:
        """V values and the mask."""
        return self.values + 1

    @property
    def mask(self) -> int:
        """The state of a masked entry."""
        return self.values

    @property
    def min_time(self) -> float:
        """The weight of the bound grows as 1/t; training starts here."""
        return 1e-4

    @property
    def prior_probs(self) -> Tensor:
        """The mask for sure."""
        return one_hot(torch.tensor(self.mask), self.states)

    def prior(self, event: Any, draw: dc.Draw) -> Tensor:
        """All entries masked."""
        return torch.full((len(draw.ids), *entries_of(self, event)), self.mask, device=draw.device)

    def coeffs(self, t: Tensor) -> Kept:
        """alpha and its derivative."""
        return kept(self.schedule, t)

    def time_of_share(self, alpha: Tensor) -> Tensor:
        """The time at which a share alpha still shows."""
        return time_of(self.schedule, alpha)

    def marginal(self, x0: Tensor, at: Kept) -> Tensor:
        """alpha at x_0, 1 - alpha at the mask."""
        alpha = lifted(at.alpha, x0)
        return alpha * one_hot(x0, self.states) + (1 - alpha) * self.prior_probs.to(x0.device)

    def kernel(self, x: Tensor, t: Kept, s: Kept, probs: Tensor) -> Tensor:
        """A mask is revealed with the probability above; what shows stays."""
        stays = lifted(self.jump_keep(t, s), x)
        revealed = torch.cat([(1 - stays) * probs, stays.expand(*x.shape, 1)], -1)
        return torch.where((x == self.mask)[..., None], revealed, one_hot(x, self.states))

    def posterior(self, x: Tensor, out: Tensor, at: Kept, reading: dc.Reading) -> Categorical:
        """The network's law where there is a mask, certainty elsewhere."""
        logp = certain(out.log_softmax(-1), x, x != self.mask)
        if reading.prediction == "logits":
            return Categorical(x, at, logp)
        shift = log_share(at) - math.log(self.values)
        return Categorical(x, at, logp, out.double() + lifted(shift, x))

    def jump_keep(self, t: Kept, s: Kept, rates: str = "reverse") -> Any:
        """exp(-int_s^t rate), the probability that a mask stays one: (1 - alpha_s) / (1 - alpha_t)."""
        return (1 - s.alpha) / (1 - t.alpha)

    def jump_scale(self, at: Kept, rates: str = "reverse") -> Any:
        """-alpha' / (1 - alpha): the rate at which a mask is revealed."""
        return -at.dalpha / (1 - at.alpha)

    def jump_weights(self, posterior: Categorical, rates: str = "reverse") -> Tensor:
        """p(x_0 = y | x_t) for masks, 0 elsewhere: (*x.shape, V). From ratios: (1 - alpha) / alpha p_t(y) / p_t(mask)."""
        if posterior.log_ratio is None:
            weights = posterior.probs
        else:
            weights = (posterior.log_ratio - lifted(log_share(posterior.at), posterior.x)).exp()
        return weights * (posterior.x == self.mask)[..., None]

"""What is known of clean tokens: a categorical distribution per entry; and how a uniform number becomes a token."""

from __future__ import annotations

from typing import Any, NamedTuple

import attrs
import torch
from torch import Tensor

import diffcore as dc

NEVER = -1e9
"""The log-probability of what cannot be: finite, so that weighted sums of logits stay numbers; its exponential is 0."""


@attrs.frozen(eq=False)
class Categorical:
    """p(x_0 | x_t) entry by entry. x: tokens x_t (B, *shape); logp: (B, *shape, V), normalised over the last axis.

    log_ratio: log p_t(y) / p_t(x_t) per value y of an entry, where the network predicts ratios, else None.
    """

    x: Tensor
    at: Any
    logp: Tensor
    log_ratio: Tensor | None = None

    @property
    def probs(self) -> Tensor:
        """Probabilities in float64."""
        return self.logp.double().exp()

    @property
    def mean(self) -> Tensor:
        """The expected value of each entry, for pictures of tokens that are ordered (grey levels)."""
        values = torch.arange(self.logp.shape[-1], dtype=self.logp.dtype, device=self.logp.device)
        return self.logp.exp() @ values

    def replace(self, logits: Tensor) -> Categorical:
        """The same tokens under other logits, which are normalised."""
        return Categorical(self.x, self.at, logits.log_softmax(-1))

    def detach(self) -> Categorical:
        """Without its history of gradients."""
        ratio = None if self.log_ratio is None else self.log_ratio.detach()
        return Categorical(self.x, self.at, self.logp.detach(), ratio)


class Entries(NamedTuple):
    """Independent tokens: probs (B, *shape, K), float64, not necessarily normalised."""

    probs: Tensor

    def sample(self, z: Tensor) -> Tensor:
        """By inversion of the uniform numbers z, shape of z."""
        return pick(z, self.probs)

    def log_prob(self, x: Tensor) -> Tensor:
        """log probability of all entries of a sample together, float64 [B]; -inf for what cannot be."""
        found = chosen(self.probs, x).log() - self.probs.sum(-1).log()
        return found.flatten(1).sum(1)


def pick(z: Tensor, probs: Tensor) -> Tensor:
    """The index whose interval of the cumulative sum holds z in [0, 1): int64, shape of z; always within range.

    probs (..., K) are float64 and need not be normalised: single precision would distort rare tokens
    (Zheng et al. 2025, arXiv 2409.02908).
    """
    levels = probs.cumsum(-1)
    return (z.double()[..., None] * levels[..., -1:] >= levels[..., :-1]).sum(-1)


def one_hot(x: Tensor, count: int) -> Tensor:
    """Certainty: probability 1 at x, float64 (*x.shape, count)."""
    return torch.nn.functional.one_hot(x, count).double()


def lifted(value: Any, x: Tensor) -> Tensor:
    """A scalar, (B,) or per-entry number in float64 against (*x.shape, K)."""
    tensor = torch.as_tensor(value, dtype=torch.float64, device=x.device)
    tensor = dc.expand(tensor, x)
    return tensor if tensor.ndim == 0 else tensor[..., None]


def chosen(values: Tensor, x: Tensor) -> Tensor:
    """values (*x.shape, K) at the index x of each entry, shape of x."""
    return values.gather(-1, x[..., None])[..., 0]

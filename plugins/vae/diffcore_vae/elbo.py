"""Bounds of log p(x): the ELBO, term by term, and importance weights."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

import diffcore as dc

from .gaussians import Normal, standard_log_prob, total
from .module import VAEModule


class Terms(NamedTuple):
    """ELBO = log_likelihood - sum of the divergences; log_likelihood (B,), one divergence (B, *latent) per level, in nats."""

    log_likelihood: Tensor
    divergences: tuple[Tensor, ...]

    @property
    def rate(self) -> Tensor:
        """The sum of all divergences, (B,)."""
        return sum((total(d) for d in self.divergences[1:]), start=total(self.divergences[0]))

    @property
    def elbo(self) -> Tensor:
        """The bound, (B,)."""
        return self.log_likelihood - self.rate


class Climb(NamedTuple):
    """The posteriors q of every level on the way up, and their samples."""

    q: tuple[Normal, ...]
    z: tuple[Tensor, ...]


def climb(net: VAEModule, x: Tensor, eps: tuple[Tensor, ...], **cond: Any) -> Climb:
    """z_1 ~ q(. | x), z_{i+1} ~ q(. | z_i), with the noises eps."""
    q = [net.posterior(x, **cond)]
    z = [q[0].sample(eps[0])]
    for i in range(len(eps) - 1):
        q.append(net.up(i, z[i]))
        z.append(q[-1].sample(eps[i + 1]))
    return Climb(tuple(q), tuple(z))


def terms(net: VAEModule, x: Tensor, eps: tuple[Tensor, ...], **cond: Any) -> Terms:
    """The ELBO at the noises eps, everything in closed form that is so.

    Below the top: -H(q(z_i | z_{i-1})) - log p(z_i | z_{i+1}) at the sample; at the top KL(q(z_L | z_{L-1}) || N(0, I)).
    """
    q, z = climb(net, x, eps, **cond)
    below = [-q[i].entropy() - net.down(i, z[i + 1]).log_prob(z[i]) for i in range(len(z) - 1)]
    return Terms(net.log_likelihood(x, z[0], **cond), (*below, q[-1].rate()))


def log_weight(net: VAEModule, x: Tensor, eps: tuple[Tensor, ...], **cond: Any) -> Tensor:
    """log p(x, z) - log q(z | x) at the noises eps, (B,): an unbiased estimate of the ELBO, exp of it one of p(x)."""
    q, z = climb(net, x, eps, **cond)
    value = net.log_likelihood(x, z[0], **cond) + total(standard_log_prob(z[-1]))
    for i, (law, sample) in enumerate(zip(q, z, strict=True)):
        value = value - total(law.log_prob(sample))
        if i + 1 < len(z):
            value = value + total(net.down(i, z[i + 1]).log_prob(sample))
    return value


def noise(net: VAEModule, x: Tensor, draw: dc.Draw) -> tuple[Tensor, ...]:
    """Standard normal noise for every level, in the precision of x."""
    return tuple(draw.fold(i).normal(shape, x.dtype) for i, shape in enumerate(net.latents))

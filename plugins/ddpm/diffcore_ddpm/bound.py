"""The terms of the variational bound of a chain, per sample and in bits per dimension.

    -log p(x_0) <= KL(q(x_N|x_0) || p(x_N)) + sum_{i > 1} E KL(q(x_{i-1}|x_i, x_0) || p(x_{i-1}|x_i)) + E[-log p(x_0|x_1)]

Source: Ho et al. 2020 (arXiv 2006.11239), equations 5 and 13; Nichol and Dhariwal 2021 (arXiv 2102.09672), equations 4 to 7.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

import diffcore as dc

from .kernels import Kernels, kernels
from .learned import fraction_of

Variance = Literal["small", "large", "learned"]


def steps_of(process: dc.Process, above: Tensor, t: Tensor, s: Tensor) -> Kernels:
    """The kernels of steps t -> s, [B]. In the step to clean data beta~ = 0 is replaced by that of the step above -> t."""
    k = kernels(process, torch.stack([above, t, s]))
    small = torch.where(s == 0, k.small[0], k.small[1])
    return Kernels(k.t.at(1), k.s.at(1), k.keep[1], k.gain[1], small, k.large[1])


def step_term(k: Kernels, x0: Tensor, known: dc.Posterior, variance: Variance, levels: int | None) -> Tensor:
    """The bound's term of one step per sample, [B]: a KL divergence, or the decoder's where the step ends at clean data.

    x_s ~ N(keep x_t + gain E[x_0|x_t], v): q has the same keep, so the means differ by gain (x_0 - E[x_0|x_t]).
    """
    small, large, gain = (dc.expand(v.to(x0.dtype), x0) for v in (k.small.log(), k.large.log(), k.gain))
    log_v = _log_variance(variance, small, large, known)
    off = gain * (x0 - known.mean)
    divergence = 0.5 * (log_v - small + torch.exp(small - log_v) + off**2 * torch.exp(-log_v) - 1)
    last = dc.expand(k.s.sigma == 0, x0)
    return _bits(torch.where(last, surprise(x0, x0 - off, log_v, levels), divergence))


def prior_term(process: dc.Process, x0: Tensor) -> Tensor:
    """KL(N(alpha_T x_0, sigma_T^2) || N(0, p^2)) per sample, [B]; p is the standard deviation of the process's prior."""
    at: Any = process.coeffs(torch.tensor(process.T, dtype=torch.float64))
    p = getattr(process, "prior_std", float(at.sigma))
    ratio = float(at.sigma) ** 2 / p**2
    return _bits(0.5 * (ratio - 1 - math.log(ratio) + (float(at.alpha) / p * x0) ** 2))


def surprise(x0: Tensor, mean: Tensor, log_v: Tensor, levels: int | None) -> Tensor:
    """-log p(x_0) entry by entry, in nats, under N(mean, v).

    levels: x_0 is one of that many even values of [-1, 1] and p is the mass of its bin, the two outermost reaching to infinity;
    None: p is the density.
    """
    scale = torch.exp(-0.5 * log_v)
    if levels is None:
        return 0.5 * (math.log(2 * math.pi) + log_v + ((x0 - mean) * scale) ** 2)
    half = 1 / (levels - 1)
    low = torch.where(x0 < -1 + half, -1e6, (x0 - half - mean) * scale)
    high = torch.where(x0 > 1 - half, 1e6, (x0 + half - mean) * scale)
    return -_log_mass(low, high)


def _log_variance(variance: Variance, small: Tensor, large: Tensor, known: dc.Posterior) -> Tensor:
    if variance == "learned":
        return small + fraction_of(known) * (large - small)
    return small if variance == "small" else large


def _log_mass(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)) for low < high, accurate in both tails."""
    mirrored = low + high > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    below, above = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return above + torch.log(-torch.expm1(below - above))


def _bits(nats: Tensor) -> Tensor:
    return nats.flatten(1).mean(1) / math.log(2)

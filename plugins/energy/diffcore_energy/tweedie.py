"""Tweedie's formulas: moments of x_0 given x_t from the score and its derivatives.

log p_t(x) + |x|^2 / (2 sigma^2) is, as a function of alpha x / sigma^2, the cumulant generating function of x_0 given x_t up
to a constant (for shift = 0; a shift moves x). Each derivative of the posterior mean is the next cumulant times alpha / sigma^2:

    E[x_0|x]    = (x - shift + sigma^2 s) / alpha
    Cov[x_0|x]  = (sigma^2 / alpha) grad E[x_0|x] = (sigma^2 / alpha^2)(I + sigma^2 grad s)
    kappa_3     = (sigma^2 / alpha)^2 grad grad E[x_0|x] = (sigma^2 / alpha)^3 grad grad s

Source: Efron 2011, J. Am. Stat. Assoc. 106; Meng et al. 2021 (arXiv 2111.04726); Lai et al. 2025
(arXiv 2510.21890), chapter 3, for alpha = 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import diffcore as dc
from diffcore_energy.trace import jacobian


def posterior_mean(x: Tensor, score: Tensor, at: dc.Coeffs) -> Tensor:
    """E[x_0|x_t = x] from the score, shape of x; needs alpha > 0."""
    scale = 1 / at.alpha
    return dc.lincomb((scale, x - dc.expand(at.shift, x)), (at.sigma**2 * scale, score))


def posterior_covariance(model: Any, x: Tensor, t: Any, **cond: Any) -> Tensor:
    """Cov[x_0|x_t = x], (B, D, D) over flattened entries, of a denoiser at time t; needs alpha > 0. D reverse passes.

    It is symmetric for an exact denoiser; a network's is as symmetric as its field is conservative.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        known = model(x, t, **cond)
        found = jacobian(known.mean, x)
    return (found * _gain(known.at, found)).detach()


def third_cumulant(model: Any, x: Tensor, t: Any, **cond: Any) -> Tensor:
    """E[(x_0 - m)(x_0 - m)(x_0 - m)|x_t = x], (B, D, D, D), of a denoiser at time t; needs alpha > 0. D + D^2 reverse passes."""
    with dc.second_derivatives():
        x = x.detach().requires_grad_()
        known = model(x, t, **cond)
        second = jacobian(known.mean, x)
        third = jacobian(second, x).unflatten(1, second.shape[1:])
    return (third * _gain(known.at, third) ** 2).detach()


def _gain(at: Any, like: Tensor) -> Any:
    """sigma^2 / alpha."""
    return dc.expand(at.sigma**2 / at.alpha, like)

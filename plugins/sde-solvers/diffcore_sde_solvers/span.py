"""The reverse SDE with noise rate eta: a step with its linear part and its noise exact, and points within it.

In lam = log(alpha / sigma), rising, and with x* = E[x_0 | x], the SDE is

    dx = [(dlog sigma / dlam - eta) x + (1 + eta) alpha x*] dlam + sqrt(2 eta) sigma dw.

y = (x / sigma) e^(eta lam) takes the linear part away: with p = e^((1 + eta) lam) and q = e^(2 eta lam)

    dy = x* dp + dB(q),     B a standard Brownian motion in the clock q.

So with h = lam_s - lam_t and d = e^-h a frozen x* gives x_s = (sigma_s / sigma_t) d^eta x_t + (alpha_s - alpha_t keep) x*
+ sigma_s sqrt(1 - d^(2 eta)) z. Everything is finite from pure noise (p = q = 0) to clean data.
"""

from __future__ import annotations

import torch
from torch import Tensor

import diffcore as dc


def linear(t: dc.Coeffs, s: dc.Coeffs, eta: float) -> dc.Linear:
    """The weights of a step with x* frozen."""
    span = dc.Span.between(t, s)
    return span.damped(span.damping**eta)


def at_lam(process: dc.Process, lam: Tensor, fine: Tensor, t: dc.Coeffs) -> dc.Coeffs:
    """The coefficients where log(alpha / sigma) = lam, and those of t where it is not fine to ask.

    What is read there has weight 0, but 0 times infinity is not: a sigma of 0 is replaced by 1.
    """
    times = process.t_of_lam(torch.where(fine, lam, 0.0))
    u = process.coeffs(torch.where(fine, times, t.t))
    return u._replace(sigma=torch.where(u.sigma > 0, u.sigma, 1.0))

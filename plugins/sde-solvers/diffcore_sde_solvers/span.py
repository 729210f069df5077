"""One step t -> s of the reverse SDE with noise rate eta, its linear part and its noise exact. Elementwise, float64.

In lam = log(alpha / sigma), rising, and with x* = E[x_0 | x], the SDE is

    dx = [(dlog sigma / dlam - eta) x + (1 + eta) alpha x*] dlam + sqrt(2 eta) sigma dw.

y = (x / sigma) e^(eta lam) takes the linear part away: with p = e^((1 + eta) lam) and q = e^(2 eta lam)

    dy = x* dp + dB(q),     B a standard Brownian motion in the clock q.

So with h = lam_s - lam_t and d = e^-h a frozen x* gives x_s = (sigma_s / sigma_t) d^eta x_t + (alpha_s - alpha_t keep) x*
+ sigma_s sqrt(1 - d^(2 eta)) z. Everything is finite from pure noise (p = q = 0) to clean data.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

import diffcore as dc

NO_SIGNAL = 1e-4
"""Below this ratio alpha / sigma a state counts as pure noise: nothing is divided by alpha."""


class Linear(NamedTuple):
    """x_s = keep x_t + gain x* + noise z."""

    keep: Tensor
    gain: Tensor
    noise: Tensor


def damping(t: dc.Coeffs, s: dc.Coeffs) -> Tensor:
    """d = e^-h in [0, 1]; 1 where time stands still."""
    return torch.where(t.t == s.t, 1.0, (s.sigma * t.alpha) / (t.sigma * s.alpha)).clamp_max(1.0)


def linear(t: dc.Coeffs, s: dc.Coeffs, eta: float) -> Linear:
    """The weights of a step with x* frozen."""
    d = damping(t, s)
    keep = torch.where(t.t == s.t, 1.0, s.sigma / t.sigma * d**eta)
    noise = s.sigma * torch.expm1(2 * eta * d.log()).neg() ** 0.5 if eta else torch.zeros_like(d)
    return Linear(keep, s.alpha - t.alpha * keep, noise)


def pure_noise(c: dc.Coeffs) -> Tensor:
    """Where alpha / sigma is as good as zero."""
    return c.alpha <= NO_SIGNAL * c.sigma


def at_lam(process: dc.Process, lam: Tensor, fine: Tensor, t: dc.Coeffs) -> dc.Coeffs:
    """The coefficients where log(alpha / sigma) = lam, and those of t where it is not fine to ask.

    What is read there has weight 0, but 0 times infinity is not: a sigma of 0 is replaced by 1.
    """
    times = cast("dc.AffineProcess", process).t_of_lam(torch.where(fine, lam, 0.0))
    u = process.coeffs(torch.where(fine, times, t.t))
    return u._replace(sigma=torch.where(u.sigma > 0, u.sigma, 1.0))


def any_of(mask: Tensor) -> tuple[int, ...]:
    """Per step, 1 if the mask holds for any entry: a static entry of a plan."""
    return tuple(int(v) for v in mask.reshape(len(mask), -1).any(1).tolist())

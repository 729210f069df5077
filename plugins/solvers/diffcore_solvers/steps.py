"""Coefficients of one step t -> s < t of an affine process, elementwise and in float64.

With h = lam_s - lam_t > 0, freezing x* = E[x_0 | x_t] solves the probability-flow ODE over the step exactly:

    x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) x*,     alpha_s (1 - e^-h) = alpha_s - alpha_t sigma_s / sigma_t

(Lai et al. 2025, arXiv 2510.21890, equations of section 9.4). Both weights are finite from pure noise (alpha_t = 0) to clean
data (sigma_s = 0), and are exactly 1 and 0 for entries whose time stands still (per-pixel time).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

import diffcore as dc

NO_SIGNAL = 1e-4
"""Below this ratio alpha / sigma a state counts as pure noise: dividing by alpha would only amplify its rounding."""

NEAR_DATA = 1e-6
"""The noise level at which the velocity of an entry that rests at clean data is read."""


def decay(t: dc.Coeffs, s: dc.Coeffs) -> Tensor:
    """sigma_s / sigma_t, the weight of x_t."""
    return torch.where(t.t == s.t, 1.0, s.sigma / t.sigma)


def exact(t: dc.Coeffs, s: dc.Coeffs) -> tuple[Tensor, Tensor]:
    """The weights of x_t and of x*: sigma_s / sigma_t and alpha_s (1 - e^-h)."""
    keep = decay(t, s)
    return keep, s.alpha - t.alpha * keep


def damping(t: dc.Coeffs, s: dc.Coeffs) -> Tensor:
    """e^-h = (sigma_s / alpha_s) / (sigma_t / alpha_t), in [0, 1]."""
    return torch.where(t.t == s.t, 1.0, (s.sigma * t.alpha) / (t.sigma * s.alpha)).clamp_max(1.0)


def pure_noise(c: dc.Coeffs) -> Tensor:
    """Where alpha / sigma is zero or as good as zero."""
    return c.alpha <= NO_SIGNAL * c.sigma


def regular(process: dc.Process, s: dc.Coeffs | dc.Instant) -> Tensor:
    """Where a velocity can be evaluated: sigma > 0, or t >= min_time for a process without coefficients."""
    return s.sigma > 0 if isinstance(s, dc.Coeffs) else s.t >= process.min_time


def readable(c: dc.Coeffs | dc.Instant) -> dc.Coeffs | dc.Instant:
    """The same times, with coefficients at which a velocity is finite.

    Only an entry that rests at clean data (per-pixel time) is asked for its velocity at sigma = 0. Its weight is 0, but 0 times
    infinity is not: it is read at a level near 0 instead, while the network is still told its true time.
    """
    if not isinstance(c, dc.Coeffs) or bool((c.sigma > 0).all()):
        return c
    rests = c.sigma == 0
    return c._replace(sigma=torch.where(rests, NEAR_DATA, c.sigma), dsigma=torch.where(rests, 1.0, c.dsigma))


def time_of(process: dc.Process, lam: Tensor) -> Tensor:
    """The times at which log(alpha / sigma) = lam, of a process with the capability "affine"."""
    return cast("dc.AffineProcess", process).t_of_lam(lam)


def any_of(mask: Tensor) -> tuple[int, ...]:
    """Per step, 1 if the mask holds for any entry: a static entry of a plan."""
    return tuple(int(v) for v in mask.reshape(len(mask), -1).any(1).tolist())

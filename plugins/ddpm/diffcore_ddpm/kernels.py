"""The reverse kernels of a chain whose indices are the times of a grid: weights and the two variances."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import diffcore as dc


class Kernels(NamedTuple):
    """q(x_s | x_t, x_0) = N(keep x_t + gain x_0, small I) for every step t -> s, float64.

    With alpha_{t|s} = alpha_t / alpha_s and beta = sigma_t^2 - alpha_{t|s}^2 sigma_s^2 (the variance of x_t given x_s):

        keep = alpha_{t|s} sigma_s^2 / sigma_t^2,  gain = alpha_s beta / sigma_t^2,
        small = beta~ = beta sigma_s^2 / sigma_t^2,  large = beta.

    On consecutive indices of a chain these are equations 6 and 7 of Ho et al. 2020; on a subset of them, of the respaced chain.
    """

    t: dc.Coeffs
    s: dc.Coeffs
    keep: Tensor
    gain: Tensor
    small: Tensor
    large: Tensor


def kernels(process: dc.Process, grid: Tensor) -> Kernels:
    """The kernels between consecutive times of a falling grid [N + 1, ...]; exactly x_s = x_t where time stands still.

    Raises `IncompatibleError` for a process with a moving mean (`shift`).
    """
    t, s = dc.centred_pairs(process, grid)
    span = process.span(t, s)
    fresh = torch.where(span.live, 1 - span.damping**2, 0.0)
    keep = torch.where(span.live, span.keep * span.damping, 1.0)
    return Kernels(t, s, keep, s.alpha * fresh, s.sigma**2 * fresh, t.sigma**2 * fresh)

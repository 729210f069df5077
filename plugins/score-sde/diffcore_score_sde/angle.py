"""The clock of the probability-flow ODE: the logarithm of the angle theta = atan(sigma / alpha).

Equal steps of r = log theta are equal steps of the log-SNR where there is little noise (theta is about sigma / alpha) and
equal steps of the angle, in which every affine process is a rotation of x_0 into eps, where there is much. So one clock serves
VP, VE, flow matching and learned schedules, from sigma / alpha = 1e-5 to alpha = 0:

    d theta / dt = (alpha sigma' - sigma alpha') / (alpha^2 + sigma^2),    dt / dr = theta / (d theta / dt).

Source: Lai et al. 2025 (arXiv 2510.21890), section 6.3 (all affine processes are one in the angle).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import diffcore as dc


def affine(process: Any, who: str) -> dc.AffineProcess:
    """The process as an affine one. Raises `IncompatibleError` where it is not."""
    if "affine" not in process.provides:
        raise dc.IncompatibleError(f"{who} needs 'affine'; process {type(process).__name__} does not provide it")
    return process


def first_time(process: dc.Process, cut: float) -> float:
    """The time at which data is put: min_time, or cut * T where that is larger (at t = 0 the score is singular)."""
    return max(process.min_time, cut * process.T)


def rate(c: dc.Coeffs) -> Any:
    """dt / dr at these coefficients; finite at alpha = 0."""
    theta = torch.atan2(c.sigma, c.alpha) if isinstance(c.sigma, Tensor) else math.atan2(c.sigma, c.alpha)
    return theta * (c.alpha**2 + c.sigma**2) / (c.alpha * c.dsigma - c.sigma * c.dalpha)


def size(c: dc.Coeffs) -> Any:
    """R = sqrt(alpha^2 + sigma^2): the unit in which x is measured along the way."""
    return (c.alpha**2 + c.sigma**2) ** 0.5


def growth(c: dc.Coeffs) -> Any:
    """R' / R."""
    return (c.alpha * c.dalpha + c.sigma * c.dsigma) / (c.alpha**2 + c.sigma**2)


def position(process: dc.AffineProcess, t: float) -> Tensor:
    """r at time t, float64."""
    c = process.coeffs(torch.tensor(t, dtype=torch.float64))
    return torch.atan2(c.sigma, c.alpha).log()


def times(process: dc.AffineProcess, first: float, last: float, where: Tensor) -> Tensor:
    """The times at the fractions `where` (0 to 1) of the way in r from `first` to `last`, float64; beyond them the ends."""
    low, high = position(process, first), position(process, last)
    theta = (low + where.double() * (high - low)).exp()
    inside = (where > 0) & (where < 1)
    t = process.t_of_lam(-torch.tan(torch.where(inside, theta, 0.5)).log())
    return torch.where(inside, t, torch.where(where <= 0, t.new_tensor(first), t.new_tensor(last)))

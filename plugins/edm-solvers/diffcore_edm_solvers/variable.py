"""The variable u in which the probability-flow ODE is integrated, and the state y = x / S that goes with it.

    t:      dx/dt = v                                             S = 1
    sigma:  d(x / alpha) / drho = e, rho = sigma / alpha          S = alpha
    lam:    dx/dlam = v / lam', lam = log(alpha / sigma)          S = 1
    angle:  dy/dphi = cos(phi) e - sin(phi) x*                    S = (alpha^2 + sigma^2)^(1/2), phi = arctan(sigma / alpha)

with v = alpha' x* + sigma' e* and e = E[eps | x_t] (Lai et al. 2025, arXiv 2510.21890, sections 9.2 to 9.4).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

import diffcore as dc

Variable = Literal["t", "sigma", "lam", "angle"]
READS: dict[Variable, str] = {"t": "velocity", "sigma": "eps", "lam": "velocity", "angle": "v"}
"""What k stands for: with y = x / S, dy/du = pace k."""


def position(variable: Variable, c: dc.Coeffs) -> Tensor:
    """u at given coefficients; infinite for lam at both ends, and for sigma at pure noise."""
    if variable == "angle":
        return torch.atan2(c.sigma, c.alpha)
    return c.t if variable == "t" else c.sigma / c.alpha if variable == "sigma" else c.lam


def scale(variable: Variable, c: dc.Coeffs) -> Tensor:
    """S."""
    if variable == "angle":
        return (c.alpha**2 + c.sigma**2) ** 0.5
    return c.alpha if variable == "sigma" else torch.ones_like(c.alpha)


def pace(variable: Variable, c: dc.Coeffs) -> Tensor:
    """The factor that makes k, as `READS` says, the slope dy/du."""
    return 1 / c.dlam if variable == "lam" else torch.ones_like(c.alpha)


def time_at(process: dc.Process, variable: Variable, u: Tensor) -> Tensor:
    """The time at which the variable is u."""
    if variable == "t":
        return u
    level = {"lam": lambda u: u, "sigma": lambda u: -u.log(), "angle": lambda u: -u.tan().log()}[variable](u)
    return process.t_of_lam(level)


def divisible(variable: Variable, t: dc.Coeffs, s: dc.Coeffs, closed: bool) -> Tensor:
    """Where a step has an inside in this variable: it moves, and u (and, if `closed`, the slope at s) is finite at both ends.

    In t none ends at sigma = 0 either, whatever the method: under VP sigma grows like sqrt(t), and no rule in t integrates that.
    """
    fine = (s.t != t.t) & (t.sigma > 0)
    if closed or variable not in ("sigma", "angle"):
        fine = fine & (s.sigma > 0)
    return fine if variable in ("t", "angle") else fine & ~t.pure_noise & ~s.pure_noise


def between(process: dc.Process, variable: Variable, t: dc.Coeffs, s: dc.Coeffs, share: float, fine: Tensor) -> dc.Coeffs:
    """The coefficients at a share of the step in u; those of t where it has no inside."""
    if share in (0, 1):
        return process.coeffs(torch.where(fine & (share == 1), s.t, t.t))
    first, last = (torch.where(fine, position(variable, c), 1.0) for c in (t, s))
    return process.coeffs(torch.where(fine, time_at(process, variable, first + share * (last - first)), t.t))


def refuse(process: dc.Process, at: Any, *, rising_from_data: bool = False) -> None:
    """Refuse a process whose mean is shifted, and a run that rises from clean data, where x_t says nothing of the noise."""
    dc.refuse_shift(process, at)
    if rising_from_data:
        raise dc.SpecError("a run from data to noise cannot start at sigma = 0; start it at a small time above 0")

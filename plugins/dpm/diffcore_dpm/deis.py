"""DEIS: exponential Adams-Bashforth with the noise prediction a polynomial in t or in sigma / alpha."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

import diffcore as dc
from diffcore_dpm.multistep import Multistep, history, tail
from diffcore_dpm.span import Prediction, span, weigh

NODES = 64
"""Gauss-Legendre nodes of the integrals over a step."""


@dc.component
class DEIS(Multistep):
    """x_s / alpha_s = x_t / alpha_t + int e*(rho) drho, rho = sigma / alpha, with e* replaced by the polynomial of degree
    `degree` through the last evaluations e_(i-j):

        x_s = (alpha_s / alpha_t) x_t + alpha_s sum_j C_j e_(i-j),     C_j = int_(rho_t)^(rho_s) l_j drho.

    `variable: t` (tAB): the l_j are polynomials in the time t, integrated in float64 to rounding. `variable: rho` (rhoAB): they
    are polynomials in rho, integrated in closed form. Degree 0 is DDIM. One evaluation a step. The first steps have fewer
    evaluations to go by, so the global order is 2 for every degree from 1 on.
    """

    source: ClassVar[str] = "Zhang and Chen 2023, arXiv 2204.13902, equations 14 and 15"
    items: ClassVar[tuple[str, ...]] = ("9.08", "9.09", "R2")
    both_ways: ClassVar[bool] = True
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"degree": 0}, {"degree": 3}, {"variable": "rho"})

    degree: int = dc.param(default=2, ge=0, le=3, doc="degree of the polynomial: the number of earlier evaluations used")
    variable: Literal["t", "rho"] = dc.param(default="t", doc="what e* is a polynomial of: the time t, or rho = sigma / alpha")

    @property
    def order(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The order of a run from its first step."""
        return min(self.degree, 1) + 1

    @property
    def memory(self) -> int:
        """One earlier evaluation per degree."""
        return self.degree

    @property
    def reads(self) -> Prediction:
        """The noise prediction."""
        return "eps"

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `gain`: the weights of x_t and of x*(x_t), which hold e_i; `w1`, ...: of e_(i-1), ..."""
        t, s = dc.centred_pairs(process, grid)
        over = span(t, s, "eps")
        ready = (t.alpha > 0) & (t.t != s.t)
        if self.variable == "rho":
            coordinate = torch.cat([t.sigma / t.alpha, s.sigma[-1:] / s.alpha[-1:]])
            moments = [torch.full_like(over.full, 1 / (k + 1)) for k in range(self.degree + 1)]
        else:
            coordinate = torch.cat([torch.where(t.alpha > 0, t.t, torch.inf), s.t[-1:]])
            moments = _time_moments(process, t, s, ready, self.degree + 1)
        w = weigh(over, *history(coordinate, self.degree, self.limit), moments)
        return dc.Plan(t=t, keep=w.keep, gain=w.gain, **tail(w.tail))


def _time_moments(process: dc.Process, t: dc.Coeffs, s: dc.Coeffs, ready: Tensor, count: int) -> list[Tensor]:
    """Averages over drho of u^k, u = (tau - t) / (s - t): quadrature in lam, or in rho for the step to sigma_s = 0.

    In a step that rises to alpha_s = 0, rho has no end and all of its range lies at s: u = 1.
    """
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(NODES))
    share = ((nodes + 1) / 2).reshape(-1, *[1] * t.t.ndim)
    low, high = (torch.where(ready, v, 0.0) for v in (t.lam, torch.where(s.alpha > 0, s.lam, t.lam)))
    lam = torch.where(s.sigma > 0, low + share * (high - low), low - torch.log1p(-share))
    tau = process.t_of_lam(lam)
    u = torch.where(ready, (tau - t.t) / torch.where(ready, s.t - t.t, 1.0), share)
    u = torch.where(s.alpha > 0, u, 1.0)
    density = weights.reshape(share.shape) * torch.where(s.sigma > 0, torch.exp(low - lam), 1.0)
    total = density.sum(0)
    return [(density * u**k).sum(0) / total for k in range(count)]

"""Heun's method on the reverse SDE, in the variable that has additive noise and no linear part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_sde_solvers.span import linear


@dc.component
class StochasticHeun(dc.Stepper):
    """The trapezoidal rule for dy = x* dp + dB(q), y = (x / sigma) e^(eta lam), p = e^((1 + eta) lam), q = e^(2 eta lam):

        x1  = k x_t + g x*(x_t, t) + n z,                  k = (sigma_s / sigma_t) d^eta,    d = e^-h
        x_s = k x_t + g (x*(x_t, t) + x*(x1, s)) / 2 + n z,    g = alpha_s - alpha_t k,  n = sigma_s sqrt(1 - d^(2 eta)).

    Weak order 2, strong order 1. eta = 0 is Heun's method for x / sigma in alpha / sigma, of order 2. The marginal of a known
    point is exact at any step size. Two evaluations a step; where sigma_s = 0 the step is x1, so N steps to t = 0 cost 2 N - 1.

    Raises `IncompatibleError` for a process that shifts its mean.
    """

    source: ClassVar[str] = "Platen 1999, Acta Numerica 8, section 7; variable: Montanari 2023, arXiv 2305.10690 (eta = 1)"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    order: ClassVar[int | None] = 2
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"eta": 0.0}, {"eta": 0.5})

    eta: float = dc.param(default=1.0, ge=0, le=10, doc="noise rate: 0 is the ODE, 1 the reverse SDE")

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `gain`, `noise` of x1; `u`, `half`: where x* is evaluated again and the weight of the difference."""
        t, s = dc.centred_pairs(process, grid)
        over, fine = linear(t, s, self.eta), s.sigma > 0
        u, inner = process.coeffs(torch.where(fine, s.t, t.t)), dc.any_of(fine)
        return dc.Plan(
            t=t,
            u=u,
            keep=over.keep,
            gain=over.gain,
            half=torch.where(fine, over.gain / 2, 0.0),
            inner=inner,
            noise=over.noise if self.eta else None,
            asks=dc.asked(t, (u, inner)),
        )

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """Predict, then average the two values of x*."""
        p = field.posterior(x, row.t)
        ahead = p.blend(row.keep, row.gain, (row.noise, z))
        if not row.inner:
            return dc.Moved(ahead)
        m = field.posterior(ahead, row.u).mean
        return dc.Moved(p.blend(row.keep, row.gain - row.half, (row.half, m), (row.noise, z), out=row.out))

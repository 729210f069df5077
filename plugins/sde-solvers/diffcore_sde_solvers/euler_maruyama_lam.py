"""Euler-Maruyama on the reverse SDE in lam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_sde_solvers.span import linear


@dc.component
class EulerMaruyamaLam(dc.Stepper):
    """With h = lam_s - lam_t, lam = log(alpha / sigma), l = dlog sigma / dlam at t, x* = E[x_0 | x_t] and noise rate eta,

        x_s = (1 + h (l - eta)) x_t + (1 + eta) h alpha_t x* + sigma_t sqrt(2 eta h) z.

    The noise is additive, so strong and weak order are 1; eta = 0 is Euler's method in lam. One evaluation a step. lam is
    infinite at pure noise and at clean data: there the step has its linear part exact, x_s = alpha_s x* + sigma_s z for eta > 0.

    Raises `IncompatibleError` for a process that shifts its mean.
    """

    source: ClassVar[str] = "Maruyama 1955; Song et al. 2021, arXiv 2011.13456, equation 6; in lam: Lu et al. 2022, 2211.01095"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    order: ClassVar[int | None] = 1
    additive_noise: ClassVar[bool] = True
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"eta": 0.0}, {"eta": 0.5})

    eta: float = dc.param(default=1.0, ge=0, le=10, doc="noise rate: 0 is the ODE, 1 the reverse SDE")

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `gain`, `noise`: the weights of x_t, x* and z."""
        t, s = dc.centred_pairs(process, grid)
        exact, h = linear(t, s, self.eta), -dc.Span.between(t, s).damping.log()
        jump, still = t.pure_noise | (s.sigma == 0), t.t == s.t

        def weight(inner: Tensor, at_jump: Tensor, at_rest: float) -> Tensor:
            return torch.where(still, at_rest, torch.where(jump, at_jump, inner))

        keep = weight(1 + h * (t.dsigma / t.sigma / t.dlam - self.eta), exact.keep, 1.0)
        gain = weight((1 + self.eta) * h * t.alpha, exact.gain, 0.0)
        noise = weight(t.sigma * (2 * self.eta * h) ** 0.5, exact.noise, 0.0)
        return dc.Plan(t=t, keep=keep, gain=gain, noise=noise if self.eta else None)

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """One step of the planned weights."""
        return dc.Moved(field.posterior(x, row.t).blend(row.keep, row.gain, (row.noise, z), out=row.out))

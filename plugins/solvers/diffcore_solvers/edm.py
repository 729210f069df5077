"""The sampler of EDM for any affine process: Heun's method in sigma / alpha, with optional churn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

LARGEST_GAMMA = 2**0.5 - 1


@dc.component
class EDMHeun(dc.Stepper):
    """With rho = sigma / alpha, a step first raises the noise, rho^ = (1 + gamma) rho at time t^, then goes down to rho_s:

        x^  = (alpha^ / alpha_t) x_t + alpha^ sqrt(rho^2 (t^) - rho^2 (t)) s_noise z
        x1  = (sigma_s / sigma^) x^ + alpha_s (1 - q) x*(x^, t^),                         q = rho_s / rho^
        x_s = x1 + alpha_s (1 - q) (x*(x1, s) - x*(x^, t^)) / (2 q)

    which is Heun's rule for dy/drho = (y - x*) / rho, y = x / alpha. gamma = min(s_churn / steps, sqrt 2 - 1) where
    s_min <= rho <= s_max, but rho^ never exceeds the level of the process at T. Where sigma_s = 0, and where alpha_t is as
    good as 0 (rho infinite), the step is x1: N steps of EDM to t = 0 cost 2 N - 1 evaluations. s_churn = 0 is deterministic
    and of second order.
    """

    source: ClassVar[str] = "Karras et al. 2022, arXiv 2206.00364, algorithm 2"
    items: ClassVar[tuple[str, ...]] = ("9.15", "R10")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    order: ClassVar[int | None] = 2
    variants: ClassVar[tuple[Mapping[str, float], ...]] = ({"s_churn": 10.0},)

    s_churn: float = dc.param(default=0.0, ge=0, le=1e6, doc="total noise added over the run, as in the paper; 0 draws none")
    s_min: float = dc.param(default=0.0, ge=0, le=1e6, doc="smallest sigma / alpha at which noise is added")
    s_max: float | None = dc.param(
        default=None, gt=0, le=1e6, doc="largest sigma / alpha at which noise is added; none: no limit"
    )
    s_noise: float = dc.param(default=1.0, gt=0, le=10, doc="factor of the added noise, slightly above 1 against lost detail")

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`t`, `u`: the two times of evaluation; `lift`, `noise`: up to t^; `keep`, `gain`: down to s; `second`: Heun."""
        t, s = dc.centred_pairs(process, grid)
        hat, lift, noise = self._raise(process, t, s.t < t.t)
        fine = (s.sigma > 0) & ~hat.pure_noise
        keep, gain = process.span(hat, s)[2:4]
        u = process.coeffs(torch.where(fine, s.t, hat.t))
        slope = gain * (hat.sigma * s.alpha) / (2 * hat.alpha * s.sigma)
        corrected = dc.any_of(fine)
        return dc.Plan(
            t=hat,
            u=u,
            lift=lift,
            keep=keep,
            gain=gain,
            second=torch.where(fine, slope, 0.0),
            corrected=corrected,
            noise=noise,
            asks=dc.asked(hat, (u, corrected)),
        )

    def _raise(self, process: dc.Process, t: dc.Coeffs, moves: Tensor) -> tuple[dc.Coeffs, Tensor, Tensor | None]:
        """The coefficients at t^, and the weights of x_t and z in x^; an entry whose time stands still is left alone."""
        gamma = min(self.s_churn / len(t.t), LARGEST_GAMMA)
        if gamma == 0:
            return t, torch.ones_like(t.t), None
        rho = t.sigma / t.alpha
        churned = moves & rho.isfinite() & (rho >= self.s_min) & (rho <= (torch.inf if self.s_max is None else self.s_max))
        level = torch.where(churned, (1 + gamma) * rho, 1.0)
        hat = process.coeffs(torch.where(churned, process.t_of_lam(-level.log()).clamp_max(process.T), t.t))
        added = hat.alpha * ((hat.sigma / hat.alpha) ** 2 - rho**2).clamp_min(0.0) ** 0.5 * self.s_noise
        return hat, torch.where(churned, hat.alpha / t.alpha, 1.0), torch.where(churned, added, 0.0)

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """Up to t^, down by the Euler step, then Heun's correction."""
        x = x if z is None else dc.lincomb((row.lift, x), (row.noise, z))
        m = field.posterior(x, row.t).mean
        x = dc.lincomb((row.keep, x), (row.gain, m))
        if not row.corrected:
            return dc.Moved(x)
        slope = (row.second, field.posterior(x, row.u).mean), (-row.second, m)
        return dc.Moved(dc.lincomb((1, x), *slope, out=row.out))

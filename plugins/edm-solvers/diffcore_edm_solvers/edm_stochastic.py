"""The stochastic sampler of EDM around any Runge-Kutta method: raise the noise, then step down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_edm_solvers.runge_kutta import RungeKutta
from diffcore_edm_solvers.variable import time_at

LARGEST_GAMMA = 2**0.5 - 1


@dc.component
class EDMStochastic(RungeKutta):
    """With rho = sigma / alpha, a step first raises the noise to rho^ = (1 + gamma) rho, reached at time t^,

        x^ = (alpha^ / alpha_t) x_t + alpha^ sqrt(rho^^2 - rho^2) s_noise z,

    then goes from t^ to s by one step of `method` in `variable` (see runge-kutta). gamma = min(s_churn / steps, sqrt 2 - 1) where
    s_min <= rho <= s_max, else 0; rho^ never exceeds the level of the process at T, so that the first step from T adds no noise.
    heun in sigma is algorithm 2 of the paper, and `edm-heun` with the same fields. Levels are sigma / alpha, so that under any
    affine process the samples are those of EDM's process, scaled.

    The paper's values for ImageNet-64: s_churn 40, s_min .05, s_max 50, s_noise 1.003 at 256 steps.
    """

    source: ClassVar[str] = "Karras et al. 2022, arXiv 2206.00364, algorithm 2 and table 5"
    items: ClassVar[tuple[str, ...]] = ("9.15", "R10")
    both_ways: ClassVar[bool] = False
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"method": "euler"},
        {"method": "midpoint", "variable": "lam", "s_min": 0.05},
    )

    s_churn: float = dc.param(default=10.0, ge=0, le=1e6, doc="total noise added over the run, as in the paper; 0 draws none")
    s_min: float = dc.param(default=0.0, ge=0, le=1e6, doc="smallest sigma / alpha at which noise is added")
    s_max: float | None = dc.param(
        default=None, gt=0, le=1e6, doc="largest sigma / alpha at which noise is added; none: no limit"
    )
    s_noise: float = dc.param(default=1.0, gt=0, le=10, doc="factor of the added noise, slightly above 1 against lost detail")

    @property
    def order(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the method where no noise is added."""
        return None if self.s_churn else self.tableau.order

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """The rows from t^ to s; `lift`, `noise`: the weights of x_t and z in x^."""
        t, s = process.pairs(grid)
        gamma = min(self.s_churn / len(t.t), LARGEST_GAMMA)
        if gamma == 0:
            return self.rows(process, t, s, lift=torch.ones_like(t.t))
        rho = t.sigma / t.alpha
        churned = (s.t < t.t) & rho.isfinite() & (rho >= self.s_min)
        churned = churned & (rho <= (torch.inf if self.s_max is None else self.s_max))
        level = time_at(process, "sigma", torch.where(churned, (1 + gamma) * rho, 1.0)).clamp_max(process.T)
        hat = process.coeffs(torch.where(churned, level, t.t))
        added = hat.alpha * ((hat.sigma / hat.alpha) ** 2 - rho**2).clamp_min(0.0) ** 0.5 * self.s_noise
        lift = torch.where(churned, hat.alpha / t.alpha, 1.0)
        return self.rows(process, hat, s, lift=lift, noise=torch.where(churned, added, 0.0))

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """Up to t^, then down."""
        x = x if z is None else dc.lincomb((row.lift, x), (row.noise, z))
        return super().step(field, x, row, carry, z)

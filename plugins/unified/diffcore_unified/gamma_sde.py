"""The gamma family of reverse SDEs: one set of marginals, any amount of noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc

POINTS = 32
"""Points of the midpoint rule for the noise of a step, where it has no closed form in lam."""


@dc.component
class GammaSDE(dc.Stepper):
    """For every noise level gamma(t) >= 0 the SDE, run from T to 0 (|dt| backwards, v the probability-flow velocity),

        dx = (v - gamma(t)^2 score / 2) dt + gamma(t) dw

    has the marginals of the process. gamma(t) = 0 is the probability-flow ODE, gamma(t) = g(t) the reverse SDE. `law` and
    the factor `gamma` choose it: gamma(t)^2 = gamma^2 times g^2 = -2 sigma^2 lam' ("g"), sigma ("sigma"), or 1 ("constant").

    A step freezes x* = E[x_0 | x_t] and solves the rest exactly, an Ornstein-Uhlenbeck process in the noise:

        x_s = alpha_s x* + (sigma_s / sigma_t) e^-A (x_t - alpha_t x*) + sigma_s sqrt(1 - e^-2A) z,
        A = int_s^t gamma(u)^2 / (2 sigma_u^2) du

    so keep^2 sigma_t^2 + noise^2 = sigma_s^2 for every gamma: the marginals given x_0 are exact at any step size. With "g"
    A = gamma^2 (lam_s - lam_t): gamma = 0 is DDIM, gamma = 1 the ancestral kernel. The other laws integrate by the midpoint
    rule. Order 1 (weak order 1 with noise), one evaluation a step; finite at pure noise and at clean data.

    Raises `IncompatibleError` for a process with a moving mean.
    """

    source: ClassVar[str] = (
        "Lai et al. 2025, arXiv 2510.21890, chapter 6; Ma et al. 2024 (SiT), arXiv 2401.08740; Lu et al. 2022, 2211.01095"
    )
    items: ClassVar[tuple[str, ...]] = ("6.16",)
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    order: ClassVar[int | None] = 1
    additive_noise: ClassVar[bool] = True
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"gamma": 0.0},
        {"gamma": 0.5},
        {"gamma": 2.0},
        {"law": "sigma"},
        {"law": "constant", "gamma": 0.1},
    )

    gamma: float = dc.param(default=1.0, ge=0, le=100, doc="factor of the noise level; 0 draws no noise")
    law: Literal["g", "sigma", "constant"] = dc.param(default="g", doc="what gamma(t)^2 is proportional to")

    @property
    def both_ways(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Without noise the step is the ODE's, in either direction."""
        return self.gamma == 0

    def strength(self, at: dc.Coeffs) -> Tensor:
        """gamma(t)^2, shape of at.t, in data^2 per time."""
        unit = {"g": lambda: -2 * at.sigma**2 * at.dlam, "sigma": lambda: at.sigma, "constant": lambda: torch.ones_like(at.t)}
        return self.gamma**2 * unit[self.law]()

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `gain`, `noise`: the weights of x_t, x* and z."""
        t, s = dc.centred_pairs(process, grid)
        span = process.span(t, s)
        if self.gamma == 0:
            return dc.Plan(t=t, keep=span.keep, gain=span.gain)
        damping = span.damping**self.gamma**2 if self.law == "g" else torch.exp(-self._quadrature(process, t.t, s.t))
        return dc.Plan(t=t, **span.damped(damping)._asdict())

    def _quadrature(self, process: dc.Process, t: Tensor, s: Tensor) -> Tensor:
        """A by the midpoint rule: it may be off, as any A keeps the marginals, but not negative."""
        inside = (torch.arange(POINTS, dtype=torch.float64, device=t.device) + 0.5) / POINTS
        at = process.coeffs(s + (t - s) * inside.view(-1, *[1] * t.ndim))
        return (t - s) * (self.strength(at) / (2 * at.sigma**2)).mean(0)

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """One step of the planned weights."""
        return dc.Moved(field.posterior(x, row.t).blend(row.keep, row.gain, (row.noise, z), out=row.out))

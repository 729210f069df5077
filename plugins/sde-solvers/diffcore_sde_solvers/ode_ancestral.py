"""Ancestral steps of any ODE solver: down below the next level, then fresh noise up to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_sde_solvers.stochastic_heun import StochasticHeun


@dc.component
class ODEAncestral(dc.Stepper):
    """With rho = sigma / alpha, a step t -> s goes by the ODE solver `of` to the time d of level rho_d, then back
    by the forward kernel:

        rho_d = rho_s sqrt(1 - eta^2 (1 - rho_s^2 / rho_t^2)),      x_d = ODE(x_t, t -> d),
        x_s = (alpha_s / alpha_d) x_d + alpha_s sqrt(rho_s^2 - rho_d^2) z.

    These are k-diffusion's sigma_down and sigma_up, for any affine process (flow matching included). An exact ODE step keeps the
    marginals exactly for every eta, so those of the samples have the order of `of`. A first-order `of` exact for frozen x*
    (DDIM) gives the DDIM family, eta = 1 the ancestral kernel. eta = 0 is `of` itself. Evaluations are those of `of`.
    d is never below the smallest time the process has a network for, unless s is.

    Raises `SpecError` for a solver that has a grid or a loop of its own, draws noise or remembers earlier steps, and
    `IncompatibleError` where it does not fit the process.
    """

    source: ClassVar[str] = "k-diffusion, get_ancestral_step (Crowson 2022); Song et al. 2021, arXiv 2010.02502, equation 16"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    additive_noise: ClassVar[bool] = True
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"eta": 0.5},)

    of: dc.Stepper = dc.param(
        factory=lambda: StochasticHeun(eta=0.0), doc="deterministic one-step solver; its `steps` are unused"
    )
    eta: float = dc.param(default=1.0, ge=0, le=1, doc="noise rate: 0 is the ODE, 1 the ancestral kernel's noise")

    def __attrs_post_init__(self) -> None:
        """Refuse a solver that cannot be run step by step on this solver's grid."""
        dc.check_within(self.of, "ode-ancestral")

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """The steps t -> d of `of`, every other one of those t, d, t, d, ...; `rise`, `noise`: the weights of x_d and z."""
        t, s = dc.centred_pairs(process, grid)
        down = self._down(process, t, s)
        ends = torch.stack([t.t, torch.where(t.t == s.t, t.t, down.t)], 1).flatten(0, 1)
        rise = torch.where(t.t == s.t, 1.0, s.alpha / down.alpha)
        up = (s.sigma**2 - (rise * down.sigma) ** 2).clamp_min(0.0) ** 0.5
        noise = torch.where((t.t == s.t) | (s.t == down.t), 0.0, up) if self.eta else None
        plan = dc.Plan.over(self.of, process, ends, repeat=range(0, len(ends), 2), rise=rise, noise=noise)
        if plan.entries["inner"].stochastic:
            raise dc.SpecError(f"solver {type(self.of).__name__} draws noise; ode-ancestral needs a deterministic one")
        return plan

    def _down(self, process: dc.Process, t: dc.Coeffs, s: dc.Coeffs) -> dc.Coeffs:
        """The coefficients at d."""
        if not self.eta:
            return s
        share = (s.sigma * t.alpha / (s.alpha * t.sigma)) ** 2
        rho = s.sigma / s.alpha * (1 - self.eta**2 * (1 - share)).clamp_min(0.0) ** 0.5
        times = process.t_of_lam(-torch.where(rho > 0, rho, 1.0).log())
        low = torch.minimum(s.t, torch.full_like(s.t, process.min_time))
        return process.coeffs(times.maximum(low).minimum(s.t))

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """Down by the ODE, up by the noise."""
        below = self.of.step(field, x, row.inner, None, None).x
        return dc.Moved(dc.lincomb((row.rise, below), (row.noise, z)))

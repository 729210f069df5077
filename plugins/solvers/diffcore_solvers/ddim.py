"""DDIM, from the deterministic solver (eta = 0) to ancestral sampling (eta = 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

import diffcore as dc


@dc.component
class DDIM(dc.Stepper):
    """With x* = E[x_0 | x_t], e* = E[eps | x_t], h = lam_s - lam_t and c = eta sigma_s sqrt(1 - e^-2h),

        x_s = alpha_s x* + sqrt(sigma_s^2 - c^2) e* + c z = k x_t + (alpha_s - alpha_t k) x* + c z,
        k = (sigma_s / sigma_t) sqrt(1 - eta^2 (1 - e^-2h)).

    The marginal of x_s given x_0 is right for every eta. eta = 0 integrates the probability-flow ODE with x* frozen: first
    order, and exact in one step where x* is constant. One evaluation a step. Published tables print c with t and s exchanged;
    the form above is the one with c^2 <= sigma_s^2.
    """

    source: ClassVar[str] = "Song, Meng and Ermon 2021, arXiv 2010.02502, equations 12 and 16"
    items: ClassVar[tuple[str, ...]] = ("9.01", "9.03", "9.06", "R1")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    order: ClassVar[int | None] = 1
    additive_noise: ClassVar[bool] = True
    variants: ClassVar[tuple[Mapping[str, float], ...]] = ({"eta": 0.5}, {"eta": 1.0})

    @property
    def both_ways(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Without noise the step is its ODE's, in either direction."""
        return self.eta == 0

    eta: float = dc.param(default=0.0, ge=0, le=1, doc="share of the ancestral kernel's standard deviation; 0 draws no noise")

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep` = k, `gain` = alpha_s - alpha_t k, `noise` = c."""
        t, s = dc.centred_pairs(process, grid)
        span = process.span(t, s)
        return dc.Plan(t=t, **span.fresh(self.eta)._asdict()) if self.eta else dc.Plan(t=t, keep=span.keep, gain=span.gain)

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """k x_t + (alpha_s - alpha_t k) x* + c z."""
        return dc.Moved(field.posterior(x, row.t).blend(row.keep, row.gain, (row.noise, z), out=row.out))

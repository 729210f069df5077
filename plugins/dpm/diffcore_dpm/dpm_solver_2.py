"""DPM-Solver-2: the exponential midpoint rule in lam for the noise prediction."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

import diffcore as dc
from diffcore_dpm.singlestep import Inner, Singlestep, midpoint


@dc.component
class DPMSolver2(Singlestep):
    """With e = E[eps | x_t], h = lam_s - lam_t, and u the time at lam_t + h/2,

        y   = (alpha_u / alpha_t) x_t - sigma_u (e^(h/2) - 1) e(x_t, t)
        x_s = (alpha_s / alpha_t) x_t - sigma_s (e^h - 1) e(y, u).

    Second order, two evaluations a step. u at another share r of the step: e(y, u) is replaced by
    (1 - 1/2r) e(x_t, t) + (1/2r) e(y, u). The steps from pure noise and to clean data have no inside and are DDIM's.
    """

    source: ClassVar[str] = "Lu et al. 2022, arXiv 2206.00927, algorithm 1"
    items: ClassVar[tuple[str, ...]] = ("9.11", "R3")
    order: ClassVar[int | None] = 2

    r: float = dc.param(default=0.5, gt=0, lt=1, doc="where the inner evaluation is, as a share of the step in lam")

    def inner(self, process: dc.Process, t: dc.Coeffs, s: dc.Coeffs, fine: Tensor) -> Inner:
        """The weights of the midpoint rule."""
        return midpoint(process, t, s, "eps", fine, self.r)

"""DPM-Solver-3: the third-order singlestep solver in lam for the noise prediction."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

import diffcore as dc
from diffcore_dpm.singlestep import Inner, Singlestep, thirds


@dc.component
class DPMSolver3(Singlestep):
    """With e = E[eps | x_t], h = lam_s - lam_t, r_1 = 1/3, r_2 = 2/3, and u, v the times at lam_t + r_1 h, lam_t + r_2 h,

        y   = (alpha_u / alpha_t) x_t - sigma_u (e^(r_1 h) - 1) e(x_t, t)
        D_1 = e(y, u) - e(x_t, t)
        y'  = (alpha_v / alpha_t) x_t - sigma_v (e^(r_2 h) - 1) e(x_t, t) - 2 sigma_v ((e^(r_2 h) - 1) / (r_2 h) - 1) D_1
        D_2 = e(y', v) - e(x_t, t)
        x_s = (alpha_s / alpha_t) x_t - sigma_s (e^h - 1) e(x_t, t) - (sigma_s / r_2) ((e^h - 1) / h - 1) D_2.

    Third order, three evaluations a step. The steps from pure noise and to clean data have no inside and are DDIM's.
    """

    source: ClassVar[str] = "Lu et al. 2022, arXiv 2206.00927, algorithm 2"
    items: ClassVar[tuple[str, ...]] = ("9.11", "R4")
    order: ClassVar[int | None] = 3
    inner_count: ClassVar[int] = 2

    def inner(self, process: dc.Process, t: dc.Coeffs, s: dc.Coeffs, fine: Tensor) -> Inner:
        """The weights of both stages."""
        return thirds(process, t, s, "eps", fine)

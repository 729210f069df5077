"""DPM-Solver++ (2S): the exponential midpoint rule in lam for the data prediction."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

import diffcore as dc
from diffcore_dpm.singlestep import Inner, Singlestep, midpoint
from diffcore_dpm.span import Prediction


@dc.component
class DPMpp2S(Singlestep):
    """With m = E[x_0 | x_t], h = lam_s - lam_t, and u the time at lam_t + h/2,

        y   = (sigma_u / sigma_t) x_t + alpha_u (1 - e^(-h/2)) m(x_t, t)
        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) m(y, u).

    Second order, two evaluations a step. u at another share r of the step: m(y, u) is replaced by
    (1 - 1/2r) m(x_t, t) + (1/2r) m(y, u). The steps from pure noise and to clean data have no inside and are DDIM's.
    """

    source: ClassVar[str] = "Lu et al. 2022, arXiv 2211.01095, algorithm 1"
    items: ClassVar[tuple[str, ...]] = ("9.16", "R5")
    order: ClassVar[int | None] = 2
    reads: ClassVar[Prediction] = "x0"

    r: float = dc.param(default=0.5, gt=0, lt=1, doc="where the inner evaluation is, as a share of the step in lam")

    def inner(self, process: dc.Process, t: dc.Coeffs, s: dc.Coeffs, fine: Tensor) -> Inner:
        """The weights of the midpoint rule."""
        return midpoint(process, t, s, "x0", fine, self.r)

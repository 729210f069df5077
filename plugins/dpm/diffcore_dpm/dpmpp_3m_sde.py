"""DPM-Solver++ (3M) on the reverse SDE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

import diffcore as dc
from diffcore_dpm.multistep import Multistep, history, tail
from diffcore_dpm.span import positions, span, weigh


@dc.component
class DPMpp3MSDE(Multistep):
    """The parabola of `dpmpp-3m` under the weights of the reverse SDE with noise rate eta: with k = (1 + eta) h,

        x_s = (sigma_s / sigma_t) e^(-eta h) x_t + alpha_s k [phi_1(-k) m_i + phi_2(-k) D_1 + 2 phi_3(-k) D_2]
              + sigma_s sqrt(1 - e^(-2 eta h)) z.

    `compat: true` leaves out the factor 2 of D_2, as the published program does. eta = 0 is `dpmpp-3m`.
    """

    source: ClassVar[str] = "k-diffusion, sample_dpmpp_3m_sde (Crowson 2023); Lu et al. 2022, arXiv 2211.01095"
    additive_noise: ClassVar[bool] = True
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"eta": 0.5, "compat": True},)

    eta: float = dc.param(default=1.0, ge=0, le=10, doc="noise rate: 0 is the ODE, 1 the reverse SDE")
    compat: bool = dc.param(default=False, doc="leave out the factor 2 of the second difference, as the published program does")

    @property
    def memory(self) -> int:
        """Two earlier evaluations."""
        return 2

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `gain`, `w1`, `w2`, `noise`: the weights of x_t, m_i, m_(i-1), m_(i-2), z."""
        t, s = dc.centred_pairs(process, grid)
        over = span(t, s, eta=self.eta)
        one, line, square = over.moments(3)
        moments = one, line, square / 2 if self.compat else square
        w = weigh(over, *history(positions(t, s), 2, self.limit), moments)
        return dc.Plan(t=t, keep=w.keep, gain=w.gain, **tail(w.tail), noise=over.noise if self.eta else None)

"""DPM-Solver++ (3M): three-step exponential Adams-Bashforth in lam for the data prediction."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

import diffcore as dc
from diffcore_dpm.multistep import Multistep, history, tail
from diffcore_dpm.span import positions, span, weigh


@dc.component
class DPMpp3M(Multistep):
    """The parabola through m_i, m_(i-1), m_(i-2) (m = E[x_0 | x_t]), integrated exactly. With r_j = h_(i-1-j) / h_i,

        d_0 = (m_i - m_(i-1)) / r_0,   d_1 = (m_(i-1) - m_(i-2)) / r_1,   D_2 = (d_0 - d_1) / (r_0 + r_1),   D_1 = d_0 + r_0 D_2
        x_s = (sigma_s / sigma_t) x_t + alpha_s [h phi_1(-h) m_i + h phi_2(-h) D_1 + 2 h phi_3(-h) D_2].

    D_2 h^-2 is half of the second derivative of m in lam, hence the factor 2, which several published programs leave out;
    `compat: true` leaves it out too, to repeat their samples, and the order is then 2. The first steps have one and two
    evaluations to go by; the first, of first order, caps the global order at 2 (`exp-adams` has a start that keeps 3).
    """

    source: ClassVar[str] = "Lu et al. 2022, arXiv 2211.01095; Lai et al. 2025, arXiv 2510.21890, section 9.5"
    items: ClassVar[tuple[str, ...]] = ("9.16", "R6")
    order: ClassVar[int | None] = 2
    both_ways: ClassVar[bool] = True

    compat: bool = dc.param(default=False, doc="leave out the factor 2 of the second difference, as widely used programs do")

    @property
    def memory(self) -> int:
        """Two earlier evaluations."""
        return 2

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `gain`, `w1`, `w2`: the weights of x_t, m_i, m_(i-1), m_(i-2)."""
        t, s = dc.centred_pairs(process, grid)
        over = span(t, s)
        one, line, square = over.moments(3)
        moments = one, line, square / 2 if self.compat else square
        w = weigh(over, *history(positions(t, s), 2, self.limit), moments)
        return dc.Plan(t=t, keep=w.keep, gain=w.gain, **tail(w.tail))

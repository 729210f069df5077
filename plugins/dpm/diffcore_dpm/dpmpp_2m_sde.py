"""SDE-DPM-Solver++ (2M): the two-step method on the reverse SDE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc
from diffcore_dpm.multistep import Multistep, history, tail
from diffcore_dpm.span import positions, span, weigh


@dc.component
class DPMpp2MSDE(Multistep):
    """The reverse SDE with noise rate eta, its linear part and its noise exact, m = E[x_0 | x_t] on a line in lam:

        x_s = (sigma_s / sigma_t) e^(-eta h) x_t + alpha_s (1 - e^(-(1 + eta) h)) (m_i + c (m_i - m_(i-1)) h_i / h_(i-1))
              + sigma_s sqrt(1 - e^(-2 eta h)) z.

    c = 1/2 (`midpoint`), or the exact mean of the line over the step, phi_2 / phi_1 at -(1 + eta) h (`heun`). eta = 1 is the
    reverse SDE of Song et al., eta = 0 DPM-Solver++ (2M) on the ODE; every eta has the same marginals.
    """

    source: ClassVar[str] = "Lu et al. 2022, arXiv 2211.01095, appendix B.4; k-diffusion (Crowson 2023)"
    additive_noise: ClassVar[bool] = True
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"eta": 0.5, "variant": "heun"}, {"eta": 0.0})

    eta: float = dc.param(default=1.0, ge=0, le=10, doc="noise rate: 0 is the ODE, 1 the reverse SDE")
    variant: Literal["midpoint", "heun"] = dc.param(
        default="midpoint", doc="weight of the difference: 1/2, or its exact integral"
    )

    @property
    def memory(self) -> int:
        """One earlier evaluation."""
        return 1

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `gain`, `w1`, `noise`: the weights of x_t, m_i, m_(i-1), z."""
        t, s = dc.centred_pairs(process, grid)
        over = span(t, s, eta=self.eta)
        one, line = over.moments(2)
        moments = one, torch.full_like(line, 0.5) if self.variant == "midpoint" else line
        w = weigh(over, *history(positions(t, s), 1, self.limit), moments)
        return dc.Plan(t=t, keep=w.keep, gain=w.gain, **tail(w.tail), noise=over.noise if self.eta else None)

"""DPM-Solver++ on the reverse SDE, singlestep: an inner evaluation at a noised point half-way."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_dpm.singlestep import between, counts
from diffcore_dpm.span import divisible, span, weigh


@dc.component
class DPMppSDE(dc.Stepper):
    """The midpoint rule of `dpmpp-2s` on the reverse SDE with noise rate eta. u is the time at lam_t + r h, m = E[x_0 | x_t],

        y   = (sigma_u / sigma_t) e^(-eta r h) x_t + alpha_u (1 - e^(-(1 + eta) r h)) m(x_t, t) + sigma_u b z_1
        x_s = (sigma_s / sigma_t) e^(-eta h) x_t + alpha_s (1 - e^(-(1 + eta) h)) ((1 - 1/2r) m(x_t, t) + (1/2r) m(y, u))
              + sigma_s (e^(-eta (1 - r) h) b z_1 + c z_2),      b^2 = 1 - e^(-2 eta r h),   c^2 = 1 - e^(-2 eta (1 - r) h).

    z_1 and z_2 are the noise of the two parts of the step, so y and x_s lie on one Brownian path. Two evaluations a step, of
    weak order 2 at r = 1/2. eta = 0 is `dpmpp-2s`. The steps from pure noise and to clean data have one evaluation.
    """

    source: ClassVar[str] = "k-diffusion, sample_dpmpp_sde (Crowson 2022); Lu et al. 2022, arXiv 2211.01095, equation 13"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    eta: float = dc.param(default=1.0, ge=0, le=10, doc="noise rate: 0 is the ODE, 1 the reverse SDE")
    r: float = dc.param(default=0.5, gt=0, lt=1, doc="where the inner evaluation is, as a share of the step in lam")

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `gain`, `w_u`; `u`, `u_keep`, `u_gain`, `u_noise` of y; `first`, `second`: the weights of z_1, z_2 in x_s."""
        t, s = dc.centred_pairs(process, grid)
        fine = divisible(t, s)
        u = between(process, t, s, self.r, fine)
        to_u, over, rest = (span(a, b, eta=self.eta) for a, b in ((t, u), (t, s), (u, s)))
        ones = torch.ones_like(over.keep)
        w, inside = weigh(over, [self.r * ones], [fine], [ones, ones / 2]), counts(fine, 1)
        entries = {"u": u, "u_keep": to_u.keep, "u_gain": to_u.gain, "u_noise": to_u.noise, "w_u": w.tail[0], "inner": inside}
        return dc.Plan(
            t=t,
            keep=w.keep,
            gain=w.gain,
            **entries,
            first=torch.where(fine, rest.keep * to_u.noise, 0.0),
            second=rest.noise,
            noise=over.noise if self.eta else None,
            asks=dc.asked(t, (u, inside)),
        )

    def draws(self, process: dc.Process, x: dc.State, draw: dc.Draw) -> dc.State:
        """z_1 and z_2."""
        return process.noise.like(x, draw.fold(1)), process.noise.like(x, draw.fold(2))

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """One step."""
        one, two = z or (None, None)
        p = field.posterior(x, row.t)
        ends = (row.first, one), (row.second, two)
        if not row.inner:
            return dc.Moved(p.blend(row.keep, row.gain, *ends, out=row.out))
        m = field.posterior(p.blend(row.u_keep, row.u_gain, (row.u_noise, one)), row.u).mean
        return dc.Moved(p.blend(row.keep, row.gain, (row.w_u, m), *ends, out=row.out))

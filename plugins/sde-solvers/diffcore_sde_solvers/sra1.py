"""A stochastic Runge-Kutta method of strong order 1.5 on the reverse SDE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_sde_solvers.path import Path
from diffcore_sde_solvers.span import at_lam, linear


@dc.component
class SRA1(dc.Stepper):
    """Roessler's SRA1 for dy = x* dp + dB(q), y = (x / sigma) e^(eta lam), p = e^((1 + eta) lam), q = e^(2 eta lam):

        y_u = y_t + (3/4) dp x*(y_t, t) + (3/2) I,                    p_u = p_t + (3/4) dp
        y_s = y_t + dp (x*(y_t, t) + 2 x*(y_u, u)) / 3 + dB,

    with dB = sqrt(dq) z_1 and I = sqrt(dq) (z_1 / 2 + z_2 / sqrt 12), the average of B(q') - B(q_t) over the step. Strong order
    1.5 and weak order 2 on a path that gives both noises (see `brownian`), weak order 2 with fresh ones. eta = 0 is Ralston's
    method for x / sigma in alpha / sigma. Two evaluations a step, one where sigma_s = 0.

    Raises `IncompatibleError` for a process that shifts its mean.
    """

    source: ClassVar[str] = "Roessler 2010, SIAM J. Numer. Anal. 48(3), 922-952 (SRA1)"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    order: ClassVar[int | None] = 2
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"eta": 0.0}, {"eta": 0.5})

    eta: float = dc.param(default=1.0, ge=0, le=10, doc="noise rate: 0 is the ODE, 1 the reverse SDE")

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`u`, `u_keep`, `u_gain`, `u_noise` of the stage (`u_noise`: of I); `keep`, `gain`, `part`, `noise` of x_s."""
        t, s = dc.centred_pairs(process, grid)
        over, fine, d = linear(t, s, self.eta), (s.sigma > 0) & (s.t != t.t), dc.Span.between(t, s).damping
        share = 0.75 + 0.25 * d ** (1 + self.eta)  # p_u / p_s
        u = at_lam(process, s.lam + share.log() / (1 + self.eta), fine, t)
        to_u, inner = linear(t, u, self.eta), dc.any_of(fine)
        spread = 1.5 * u.sigma * share ** (-self.eta / (1 + self.eta)) * (over.noise / s.sigma)
        return dc.Plan(
            t=t,
            u=u,
            u_keep=to_u.keep,
            u_gain=to_u.gain,
            u_noise=torch.where(fine, spread, 0.0),
            keep=over.keep,
            gain=over.gain,
            part=torch.where(fine, over.gain * 2 / 3, 0.0),
            inner=inner,
            noise=over.noise if self.eta else None,
            asks=dc.asked(t, (u, inner)),
        )

    def draws(self, process: dc.Process, x: dc.State, draw: dc.Draw) -> dc.State:
        """z_1 and z_2."""
        return process.noise.like(x, draw.fold(1)), process.noise.like(x, draw.fold(2))

    def on_path(self, path: Path, lam: float, end: float) -> dc.State:
        """z_1 and z_2 of a Brownian path between two levels."""
        return path.increment(lam, end)

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """One step."""
        one, two = z or (None, None)
        p = field.posterior(x, row.t)
        if not row.inner:
            return dc.Moved(p.blend(row.keep, row.gain, (row.noise, one), out=row.out))
        average = (row.u_noise * 0.5, one), (row.u_noise * 12**-0.5, two)
        m = field.posterior(p.blend(row.u_keep, row.u_gain, *average), row.u).mean
        return dc.Moved(p.blend(row.keep, row.gain - row.part, (row.part, m), (row.noise, one), out=row.out))

"""The classical Runge-Kutta method on the probability-flow ODE."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class RK4(dc.Stepper):
    """With h = s - t and m = (t + s) / 2,

        k1 = v(x, t), k2 = v(x + h k1 / 2, m), k3 = v(x + h k2 / 2, m), k4 = v(x + h k3, s),
        x_s = x + h (k1 + 2 k2 + 2 k3 + k4) / 6.

    Fourth order in t, four evaluations a step. Only k4 needs the velocity at s; where sigma_s = 0 the first two stages finish
    the step as the midpoint rule, so that N steps to t = 0 cost 4 N - 2 evaluations.
    """

    source: ClassVar[str] = "Kutta 1901"
    items: ClassVar[tuple[str, ...]] = ("9.23", "A3")
    requires: ClassVar[frozenset[str]] = frozenset({"velocity", "flat"})
    both_ways: ClassVar[bool] = True
    order: ClassVar[int | None] = 4

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`m`, `u`: where k2, k3 and k4 are taken; `outer`, `second`, `third`: the weights of k1 and k4, k2, k3."""
        t, s = process.pairs(grid)
        h, middle, fine = s.t - t.t, (t.t + s.t) / 2, process.regular(s)
        u = s if bool(fine.all()) else process.coeffs(torch.where(fine, s.t, middle))
        m, closed = process.coeffs(middle), dc.any_of(fine)
        return dc.Plan(
            t=t.readable(),
            m=m.readable(),
            u=u.readable(),
            half=h / 2,
            reach=u.t - t.t,
            outer=torch.where(fine, h / 6, 0.0),
            second=torch.where(fine, h / 3, h),
            third=torch.where(fine, h / 3, 0.0),
            closed=closed,
            asks=dc.asked(t, m, (m, closed), (u, closed)),
        )

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """Four slopes, or two where the last would be singular."""
        k1 = field.velocity(x, row.t)
        k2 = field.velocity(dc.lincomb((1, x), (row.half, k1)), row.m)
        if not row.closed:
            return dc.Moved(dc.lincomb((1, x), (row.second, k2), out=row.out))
        k3 = field.velocity(dc.lincomb((1, x), (row.half, k2)), row.m)
        k4 = field.velocity(dc.lincomb((1, x), (row.reach, k3)), row.u)
        slopes = (row.outer, k1), (row.second, k2), (row.third, k3), (row.outer, k4)
        return dc.Moved(dc.lincomb((1, x), *slopes, out=row.out))

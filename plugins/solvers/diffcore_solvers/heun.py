"""Heun's method on the probability-flow ODE."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class Heun(dc.Stepper):
    """The explicit trapezoidal rule in t: with k1 = v(x_t, t) and k2 = v(x_t + (s - t) k1, s),

        x_s = x_t + (s - t) (k1 + k2) / 2.

    Second order, two evaluations a step. Where sigma_s = 0 the velocity may be singular and the step is Euler's, so that N
    steps to t = 0 cost 2 N - 1 evaluations; with per-pixel time this is decided pixel by pixel.
    """

    source: ClassVar[str] = "Heun 1900; Karras et al. 2022, arXiv 2206.00364, algorithm 1"
    items: ClassVar[tuple[str, ...]] = ("9.23", "A3")
    requires: ClassVar[frozenset[str]] = frozenset({"velocity", "flat"})
    both_ways: ClassVar[bool] = True
    order: ClassVar[int | None] = 2

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`u`, `reach`: where k2 is taken and how far that is; `first`, `second`: weights of k1 and k2."""
        t, s = process.pairs(grid)
        dt, fine = s.t - t.t, process.regular(s)
        u = s if bool(fine.all()) else process.coeffs(torch.where(fine, s.t, t.t))
        second, corrected = torch.where(fine, dt / 2, 0.0), dc.any_of(fine)
        return dc.Plan(
            t=t.readable(),
            u=u.readable(),
            reach=u.t - t.t,
            first=dt - second,
            second=second,
            corrected=corrected,
            asks=dc.asked(t, (u, corrected)),
        )

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """Predict by Euler, average the two slopes."""
        k1 = field.velocity(x, row.t)
        if not row.corrected:
            return dc.Moved(dc.lincomb((1, x), (row.first, k1), out=row.out))
        k2 = field.velocity(dc.lincomb((1, x), (row.reach, k1)), row.u)
        return dc.Moved(dc.lincomb((1, x), (row.first, k1), (row.second, k2), out=row.out))

"""Euler's method on the probability-flow ODE."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

import diffcore as dc


@dc.component
class Euler(dc.Stepper):
    """x_s = x_t + (s - t) v(x_t, t), with v the probability-flow velocity. First order, one evaluation a step.

    Equal to `ddim` where alpha and sigma are affine in t (flow matching, EDM), less accurate elsewhere. The velocity is never
    evaluated at the end of the grid, so a grid may end at t = 0.
    """

    source: ClassVar[str] = "Song et al. 2021, arXiv 2011.13456, equation 13; Lipman et al. 2023, arXiv 2210.02747"
    items: ClassVar[tuple[str, ...]] = ("4.04", "4.08", "9.23")
    requires: ClassVar[frozenset[str]] = frozenset({"velocity", "flat"})
    both_ways: ClassVar[bool] = True
    order: ClassVar[int | None] = 1

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`dt` = s - t < 0."""
        t, s = process.pairs(grid)
        return dc.Plan(t=t.readable(), dt=s.t - t.t)

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """x + dt v."""
        return dc.Moved(dc.lincomb((1, x), (row.dt, field.velocity(x, row.t)), out=row.out))

"""DPM-Solver++ (2M): two-step exponential Adams-Bashforth in lam for the data prediction."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class DPMpp2M(dc.Stepper):
    """With h_i the step in lam, r = h_i / h_(i-1), and m_i = E[x_0 | x_(t_i)],

        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) ((1 + r/2) m_i - (r/2) m_(i-1)).

    Second order, one evaluation a step. r = 0 (plain first order) where no line can be drawn through two points: in the first
    step, after a step from pure noise, and in the step to sigma_s = 0. These are weights of the plan; no NaN or infinity
    enters it.
    """

    source: ClassVar[str] = "Lu et al. 2022, arXiv 2211.01095, algorithm 2"
    items: ClassVar[tuple[str, ...]] = ("9.16", "R5")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    order: ClassVar[int | None] = 2

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `now`, `before`: the weights of x_t, m_i and m_(i-1)."""
        t, s = dc.centred_pairs(process, grid)
        span = process.span(t, s)
        h, full = span.h, span.gain
        r = torch.cat([torch.zeros_like(h[:1]), h[1:] / h[:-1]])
        half = torch.where(r.isfinite(), r / 2, 0.0)
        return dc.Plan(t=t, keep=span.keep, now=full * (1 + half), before=-full * half)

    def init(self, x: dc.State) -> dc.State:
        """No history: a zero that the first step weighs with 0."""
        return dc.tree_map(torch.zeros_like, x)

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """One step; the carry becomes m_i."""
        m = field.posterior(x, row.t).mean
        return dc.Moved(dc.lincomb((row.keep, x), (row.now, m), (row.before, carry)), m)

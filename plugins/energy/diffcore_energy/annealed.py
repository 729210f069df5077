"""Annealed Langevin dynamics: Langevin steps at each level of a falling ladder of noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_energy.langevin import level_plan, level_step


@dc.component
class AnnealedLangevin(dc.Stepper):
    """At each time t of the grid but the last, `inner` steps x <- x + eta s(x, t) + sqrt(2 eta) z, eta = size sigma_t^2; then on
    to the next level as x <- (alpha_s / alpha_t) x, which at alpha = 1 is x itself; to clean data by x <- E[x_0|x_t].

    The publication's eta_l = delta sigma_l^2 / sigma_1^2 is size = delta / sigma_1^2, and its step alpha_l is 2 eta_l: its
    epsilon = 2e-5 with sigma_1 = .01 is size = .1. Langevin runs at every level, the smallest too; the last step to clean data
    is that of later work. Stable for size < 2; the levels are sampled with a bias of O(size), which the next level forgets.
    Where alpha_t = 0 (pure noise) x is scaled with sigma instead.

    Evaluations: inner a step, and one more for the last. Steps have `inner` noises each, held at once.
    """

    source: ClassVar[str] = "Song and Ermon 2019, arXiv 1907.05600; Jolicoeur-Martineau et al. 2020, arXiv 2009.05475"
    items: ClassVar[tuple[str, ...]] = ("3.15", "R12")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    example: ClassVar[Mapping[str, Any]] = {"inner": 1}
    expected_failures: ClassVar[Mapping[str, str]] = {
        "marginals": "each level keeps the bias of its step size and the memory of its few steps, whatever their number"
    }

    inner: int = dc.param(default=100, ge=1, le=100_000, doc="Langevin steps per level")
    size: float = dc.param(default=0.1, gt=0, lt=2, doc="eta / sigma_t^2")

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """The level of each step is its start."""
        t, s = process.pairs(grid)
        dc.refuse_shift(process, t)
        signal = t.alpha > 0
        keep = torch.where(signal, s.alpha / torch.where(signal, t.alpha, 1.0), s.sigma / t.sigma)
        return level_plan(t, self.size * t.sigma**2, keep, s, t.t != s.t, self.inner)

    def draws(self, process: dc.Process, x: dc.State, draw: dc.Draw) -> dc.State:
        """One noise per Langevin step; alone where there is one."""
        if self.inner == 1:
            return process.noise.like(x, draw)
        return tuple(process.noise.like(x, draw.fold(k)) for k in range(self.inner))

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """The Langevin steps of one level, and the way to the next."""
        zs = (z,) if self.inner == 1 else (None,) * self.inner if z is None else z
        return dc.Moved(level_step(field, x, row, zs))

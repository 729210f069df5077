"""The unadjusted Langevin algorithm at one noise level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_energy.langevin import level_plan, level_step


@dc.component
class ULA(dc.Stepper):
    """x <- x + eta s(x) + sqrt(2 eta) z with the score s of one noise level sigma / alpha = `level`, once a step.

    The grid only counts the steps. A run to clean data (sigma_s = 0) ends with x <- E[x_0|x]; a run to a later time ends with x
    at the level itself. Start it at the level (`sample(..., x)`), or anywhere: a chain forgets. For a Gaussian of variance V per
    entry it is stable for eta < 2 V, and its stationary variance is V / (1 - eta / (2 V)). Between far modes it does not move in
    any useful time: that is what annealing is for.
    """

    source: ClassVar[str] = "Roberts and Tweedie 1996, Bernoulli 2; Song and Ermon 2019, arXiv 1907.05600"
    items: ClassVar[tuple[str, ...]] = ("3.04",)
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    example: ClassVar[Mapping[str, Any]] = {"level": 0.3}
    expected_failures: ClassVar[Mapping[str, str]] = {
        "marginals": "the chain stays at one noise level, with the bias of its step size, whatever the number of steps"
    }

    eta: float = dc.param(default=0.01, gt=0, le=10, doc="step size", unit="data^2")
    level: float | None = dc.param(default=None, gt=0, le=1e6, doc="sigma / alpha of the chain; that of min_time where null")

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """One level for all steps. Raises `IncompatibleError` where there is none."""
        t, s = process.pairs(grid)
        level = process.coeffs(self._time(process).to(grid.device).expand(t.t.shape).clone())
        dc.refuse_shift(process, level)
        eta = torch.full_like(t.t, self.eta)
        return level_plan(level, eta, torch.ones_like(eta), s, t.t != s.t, 1)

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """One Langevin step."""
        return dc.Moved(level_step(field, x, row, (z,)))

    def _time(self, process: Any) -> Tensor:
        if self.level is not None:
            return process.t_of_lam(torch.tensor(-math.log(self.level), dtype=torch.float64))
        t = torch.tensor(process.min_time, dtype=torch.float64)
        if float(process.coeffs(t).sigma) == 0:
            raise dc.IncompatibleError(
                f"ula needs a noise level: {type(process).__name__} has sigma = 0 at min_time; give 'level'"
            )
        return t

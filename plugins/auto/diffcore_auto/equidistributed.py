"""The grid of equal shares of the local error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

import diffcore as dc
from diffcore_auto.calibrated_grid import CalibratedGrid, error_of
from diffcore_auto.density import klub, measured, proposals, shared
from diffcore_auto.levels import last_time, times_at
from diffcore_auto.trial import Trial


@dc.component
class Equidistributed(CalibratedGrid):
    """N equal shares of int n(lam) dlam, n a density of steps measured on the model in one fine run of 64 steps.

        local-error  n ~ (w s / (alpha^2 s^2 + sigma^2)^(1/2) |d^p f / dlam^p|)^(1 / (p + 1))    least sum of local errors
        klub         n ~ (e^lam |dm / dlam|)^(2/3)                                               least bound of the KL divergence

    with m = E[x_0 | x_t] along the trajectories, s the RMS of x_0, and |.| the RMS over states and entries; f = m with w = alpha,
    or f = E[eps | x_t] with w = sigma. A fifth of the mean of n is added everywhere. The last step, to clean data, takes one
    share. Of local-error both f and p = 1, 2, 3 are tried on the states, and the best is taken.
    """

    source: ClassVar[str] = (
        "Sabour et al. 2024, arXiv 2404.14507, theorem 3.1 (klub, here made small by equal shares); Xue et al. 2024, "
        "arXiv 2402.17376 (sum of local errors); de Boor 1973 (equal shares)"
    )

    density: Literal["local-error", "klub"] = dc.param(default="local-error", doc="what is shared out")

    def propose(self, trial: Trial, solver: dc.Solver, starts: Mapping[str, Tensor], best: str) -> Tensor:
        """From one fine run, and one run of the solver for each proposal."""
        process, slopes = trial.field.process, measured(trial.field, trial.x)
        end = last_time(process, self.end)
        rules = [klub(slopes)] if self.density == "klub" else [(levels, n) for _, levels, n in proposals(slopes, process)]
        grids = [times_at(process, shared(process, process.T, *rule, solver.steps), process.T, end) for rule in rules]
        return min(grids, key=lambda nodes: error_of(trial, solver, nodes, self.measure))

"""The grid that ends nearest to a fine solution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

import diffcore as dc
from diffcore_auto.calibrated_grid import CalibratedGrid
from diffcore_auto.descent import Shape, descend
from diffcore_auto.trial import Trial, calls_of


@dc.component
class Endpoint(CalibratedGrid):
    """min over t_1 > ... > t_(N-1) of sum_b log(1 + e_b^2 / c^2), e_b = |x_N(x_T; t) - Psi(x_T)| / sqrt(D) for the states x_T,

    Psi a fine solution from the same noise, the ends fixed. The free numbers are log(lam_i - lam_(i-1)); the method is
    Levenberg-Marquardt with a Jacobian of differences between runs, so that any solver and any guidance will do. It starts at
    the best standard grid. c is twice the median e_b there: states that end in another mode count little; with `measure: rms`
    it is infinite, which is least squares.

    Cost in runs of N steps: about (N + 3) per round, beside the fine solution.
    """

    source: ClassVar[str] = (
        "Watson et al. 2021, arXiv 2106.03802 (steps searched for a model); Tong et al. 2024, arXiv 2405.15506 (distance to a "
        "fine solution at the end)"
    )

    rounds: int = dc.param(default=6, ge=1, le=1000, doc="Levenberg-Marquardt steps at most")

    def propose(self, trial: Trial, solver: dc.Solver, starts: Mapping[str, Tensor], best: str) -> Tensor:
        """From the best standard grid."""
        return tuned(trial, solver, starts[best], self.rounds, robust=self.measure == "median")


def tuned(trial: Trial, solver: dc.Solver, nodes: Tensor, rounds: int, calls: int | None = None, robust: bool = True) -> Tensor:
    """Nodes that end nearer to the goal, in at most as many evaluations as `calls`, by default those of the first grid."""
    allowed = calls_of(trial.field, solver, nodes) if calls is None else calls
    shape = Shape(trial.field.process, float(nodes[0]), float(nodes[-1]))
    return descend(_runner(trial, solver, allowed), shape, nodes, rounds, robust).nodes


def _runner(trial: Trial, solver: dc.Solver, allowed: int) -> Callable[[Tensor], Tensor | None]:
    def run(nodes: Tensor) -> Tensor | None:
        try:
            return trial.offsets(solver, nodes) if calls_of(trial.field, solver, nodes) <= allowed else None
        except dc.DiffcoreError:
            return None

    return run

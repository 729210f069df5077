"""DPM-Solver-v3: exponential Adams in the parametrisation that statistics of the model make best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

import diffcore as dc
from diffcore_dpm.carried import HEAD, entries
from diffcore_dpm.curves import Curves
from diffcore_dpm.multistep import TAIL, Multistep
from diffcore_dpm.statistics import PER, collect

PLAIN = Curves({"lam": torch.zeros(1), "l": torch.ones(1), "s": torch.zeros(1), "b": torch.zeros(1)})
"""The statistics with which it is DPM-Solver++."""


@dc.component
class DPMSolverV3(dc.Calibrated, Multistep):
    """With y = x_t / alpha, f = E[eps | x_t] e^-lam - l y, L = int l, S = int s, B = int e^-S b (from the start of a step),

        y_s = e^-L_s y_t - int e^(L - L_s + S) (g + B) dlam,     g = e^-S f - B a polynomial in lam through the last evaluations.

    l, s, b are functions of lam, found on `calibration` states of a trained model (`diffcore calibrate RUN`, or
    `dc.calibrated(solver, dc.calibrate(solver, field, x))`; see `statistics`): l makes f as independent of x as a linear term
    can, s and b make g as constant along a trajectory. (l, s, b) = (1, 0, 0) is DPM-Solver++, (0, -1, 0) is DPM-Solver. For
    Gaussian data with a diagonal covariance every step is exact. One evaluation a step; the corrector solves a step again with
    the evaluation made at its end. The integrals are computed in float64 in the plan.

    The step to sigma_s = 0 is of first order and continues every entry as Gaussian:
    y_s = sqrt(1 - l) y_t - f / (1 + sqrt(1 - l)).
    (The paper ends before sigma = 0.) The step from alpha = 0 is of first order too, with l = 1 below alpha / sigma = 1e-4.

    Raises `SpecError` where it runs before it is calibrated.
    """

    source: ClassVar[str] = "Zheng, Lu, Chen and Zhu 2023, arXiv 2310.13268, sections 3.2 and 3.3; Lai et al. 2025, section 9.7"
    items: ClassVar[tuple[str, ...]] = ("9.20", "R8")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"points": 1, "corrector": False}, {"points": 3, "corrector": False})

    points: int = dc.param(default=2, ge=1, le=3, doc="evaluations that the predictor interpolates")
    corrector: bool = dc.param(default=True, doc="correct every state with the evaluation made at it, at no cost: one order more")
    calibration: int = dc.param(
        default=256, ge=0, le=1_000_000, doc="states on which the statistics are found; 0: l = 1, s = b = 0, no calibration"
    )
    calibration_levels: int = dc.param(
        default=96, ge=8, le=10_000, doc="number of nodes in lam at which the statistics are found"
    )
    calibration_batch: int = dc.param(
        default=64, ge=1, le=1_000_000, doc="states at a time while the statistics are found; bounds the memory"
    )
    per: PER = dc.param(default="entry", doc="statistics for every entry of the state, or one of each for every time")

    @property
    def order(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """points, one more with the corrector; the ramp of the first steps caps it at 2, or 3 with the corrector."""
        return min(self.points, 2) + self.corrector

    @property
    def memory(self) -> int:
        """The predictor's earlier evaluations; the corrector needs one more."""
        return self.points - 1 + self.corrector

    @property
    def calibrate_on(self) -> int:
        """`calibration`."""
        return self.calibration

    def calibrate(self, field: dc.Field, x: dc.State, solver: dc.Solver) -> Mapping[str, Tensor]:
        """`lam`, `l`, `s`, `b`."""
        return collect(field, x, self.calibration_levels, self.calibration_batch, self.per)

    def calibrated_as(self) -> dc.Solver:
        """The statistics are those of the model, whatever the steps; a grid that is calibrated has its own."""
        free = attrs.fields_dict(DPMSolverV3)
        if isinstance(self.grid, dc.Calibrated) and self.grid.calibrate_on:
            return self
        return attrs.evolve(self, grid=None, **{name: free[name].default for name in ("steps", "points", "corrector")})

    def calibrated(self, found: Mapping[str, Tensor]) -> dc.Solver:
        """The solver that runs."""
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(DPMSolverV3)}
        return Informed(**fields, known=dc.Table(found))

    def why(self, found: Mapping[str, Tensor]) -> Sequence[str]:
        """The means of l, s and b at some lam."""
        lines = ["lam: l, s, b (means over the entries); 1, 0, 0 is DPM-Solver++"]
        for i in torch.linspace(0, len(found["lam"]) - 1, 6).round().long().tolist():
            shown = [f"{float(found[name][i].mean()):.4f}" for name in ("l", "s", "b")]
            lines.append(f"{float(found['lam'][i]):.2f}: {', '.join(shown)}")
        return lines

    def stand_in(self) -> dc.Solver:
        """This solver with l = 1, s = b = 0: DPM-Solver++ with the same steps, points and corrector."""
        return attrs.evolve(self, calibration=0)

    @property
    def curves(self) -> Curves:
        """The statistics. Raises `SpecError` where there are none yet."""
        if self.calibration:
            raise dc.SpecError(
                "solver 'dpm-solver-v3' must be calibrated to a model first: diffcore calibrate RUN, or dc.calibrated(solver, "
                "dc.calibrate(solver, field, x))"
            )
        return PLAIN

    def init(self, x: dc.State) -> tuple[dc.State, ...]:
        """No history; with a corrector the corrected state comes first."""
        return tuple(dc.tree_map(torch.zeros_like, x) for _ in range(self.memory + self.corrector))

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`read`: f_i = read x_i - x*; `base`, `now`, `w1`, ...: of the prediction; `own`, `back`, `c0`, ...: of the correction.

        `shift`, `fixed`: what both add to every entry, from b.
        """
        t, s = dc.centred_pairs(process, grid)
        rows: dict[str, Any] = {**entries(t, s, self.curves, self.points, self.limit, self.corrector)}
        return dc.Plan(t=t, **rows)

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """Evaluate, correct, predict."""
        f = field.posterior(x, row.t).blend(row.read, -1.0)
        one = dc.tree_map(lambda leaf: leaf.new_ones((1,) * leaf.ndim), x)
        past = [f, *carry[self.corrector :]]
        if self.corrector:
            x = dc.lincomb((row.own, x), (row.back, carry[0]), *_terms(row, HEAD, past), (row.fixed, one))
        after = dc.lincomb((row.base, x), *_terms(row, ("now", *TAIL), past[: self.points]), (row.shift, one))
        return dc.Moved(after, (*([x] if self.corrector else []), *past[: self.memory]))


@dc.component
class Informed(DPMSolverV3):
    """DPM-Solver-v3 that knows its model."""

    known: dc.Table

    @property
    def calibrate_on(self) -> int:
        """Nothing is to be found out any more."""
        return 0

    @property
    def curves(self) -> Curves:
        """What was found."""
        return Curves(self.known)


def _terms(row: Any, names: Sequence[str], states: Sequence[dc.State]) -> list[tuple[Any, dc.State]]:
    return [(getattr(row, name), state) for name, state in zip(names, states, strict=False)]

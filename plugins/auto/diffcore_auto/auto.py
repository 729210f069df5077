"""The solver with the smallest measured error at a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
from torch import Tensor

import diffcore as dc
from diffcore_auto.calibrated_grid import packed, unpacked
from diffcore_auto.candidates import Candidate, candidates
from diffcore_auto.endpoint import tuned
from diffcore_auto.race import Placed, race
from diffcore_auto.reference import solve
from diffcore_auto.trial import MEASURE, Measure, Trial, summary

SHOWN = 10
TUNED = {1: 1, 2: 3, 3: 8}
"""How many of the best solvers have their grid optimised, by effort."""
ROUNDS = 6


@dc.component
class Auto(dc.Calibrated, dc.Stepper):
    """argmin over installed deterministic solvers, their settings and grids of e(solver, grid) at `nfe` evaluations of the field,

        e = median_b e_b    (or the root of the mean of e_b^2),    e_b = |x_N(x_T) - Psi(x_T)| / sqrt(D),

    measured on this model and its guidance from the same noise, Psi a fine solution (`reference.solve`). The states are halved.
    On the first half: successive halving over all candidates (standard grids, and equal shares of the measured local error),
    then the grids of the best solvers are optimised (see grid `endpoint`). The rows of the documentation stay in to the last
    comparison. The errors that are reported are those of the second half. With `grid` only that grid is tried.

    The solver and its times are kept, not the search: a calibrated `auto` is the chosen solver on an `explicit` grid.
    Raises `SpecError` where no candidate runs, or for a `grid` that itself needs a calibration.
    """

    source: ClassVar[str] = "successive halving: Jamieson and Talwalkar 2016, arXiv 1502.07943"
    requires: ClassVar[frozenset[str]] = frozenset({"affine", "velocity", "flat"})

    nfe: int | None = dc.param(default=None, ge=1, le=1_000_000, doc="evaluations of the field in a run; `steps` where null")
    effort: int = dc.param(default=2, ge=1, le=3, doc="1: few solvers and grids; 2: all; 3: all, and more grids are optimised")
    optimize: bool = dc.param(default=True, doc="whether the grids of the best solvers are optimised")
    measure: Measure = dc.param(default="median", doc=MEASURE)
    calibration: int = dc.param(
        default=128, ge=0, le=1_000_000, doc="states at T it is calibrated on, half of them to report; 0: Euler's rule"
    )

    @property
    def budget(self) -> int:
        """Evaluations of the field."""
        return self.steps if self.nfe is None else self.nfe

    @property
    def calibrate_on(self) -> int:
        """`calibration`."""
        return self.calibration

    def calibrate(self, field: dc.Field, x: dc.State, solver: dc.Solver) -> Mapping[str, Tensor]:
        """`times`, and `told` (JSON): the solver's spec, the table of candidates, the cost."""
        if isinstance(self.grid, dc.Calibrated) and self.grid.calibrate_on:
            raise dc.SpecError("'auto' optimises its grid itself; leave its grid out, or name one that needs no calibration")
        with dc.Meter() as meter:
            nodes, told = self._searched(field, x)
        return {"times": nodes.cpu(), "told": packed({**told, "calls": meter.calls})}

    def _searched(self, field: dc.Field, x: dc.State) -> tuple[Tensor, dict[str, Any]]:
        """The times of the best solver, and what is told of the search."""
        skipped = list[str]()
        goal = solve(field, x, self._end(field.process))
        trial = Trial(field, x, goal.x)
        seen, unseen = trial.rows(0, trial.size // 2), trial.rows(trial.size // 2, trial.size)
        entrants = candidates(seen.field, seen.x, self.budget, self.effort == 1, self.grid, skipped)
        placed = race(seen, entrants, self.measure, TUNED[self.effort])
        if not placed or placed[0].cause:
            raise dc.SpecError(f"no solver ran in {self.budget} evaluations of this field; {_reasons(placed, skipped)}")
        finals = self._optimised(seen, placed)
        chosen = finals[0].candidate
        table = [(p.candidate.label, p.error, *_judged(unseen, p)) for p in finals]
        others = [p for p in placed if not p.cause and all(p.candidate is not f.candidate for f in finals)]
        told = {
            "solver": dict(chosen.spec),
            "table": table,
            "others": [(p.candidate.label, p.error, p.states) for p in others[:SHOWN]],
            "skipped": skipped + [f"{p.candidate.label}: {p.cause}" for p in placed if p.cause],
            "tried": len(placed),
            "reference": attrs.asdict(attrs.evolve(goal, x=None)),
        }
        return chosen.nodes, told

    def _end(self, process: dc.Process) -> float:
        """The last time of a run."""
        return 0.0 if self.grid is None else float(self.grid.nodes(process, self.budget, process.T)[-1])

    def _optimised(self, trial: Trial, placed: Sequence[Placed]) -> list[Placed]:
        """The best of every one of the best solvers and the documented rows, then the grids of the best optimised on half of the
        states, all judged on the rest."""
        best = _by_solver(placed)[: TUNED[self.effort]]
        known = [p.candidate for p in placed if p.candidate.documented and not p.cause and p not in best]
        if not self.optimize or self.budget < 2:
            return race(trial, [*(p.candidate for p in best), *known], self.measure, len(best) + len(known))
        made, part = list[Candidate](), trial.rows(0, trial.size // 2)
        for p in best:
            c = p.candidate
            nodes = tuned(part, c.solver, c.nodes, ROUNDS, self.budget, self.measure == "median")
            made.append(attrs.evolve(c, grid=f"optimised from {c.grid}", nodes=nodes))
        rest = trial.rows(trial.size // 2, trial.size)
        entrants = [*(p.candidate for p in best), *known, *made]
        return race(rest, entrants, self.measure, len(entrants))

    def calibrated(self, found: Mapping[str, Tensor]) -> dc.Solver:
        """The chosen solver on its times, as an explicit grid."""
        times = found["times"].tolist()
        spec = {**unpacked(found["told"])["solver"], "steps": len(times) - 1, "grid": {"type": "explicit", "times": times}}
        return dc.Registry.load().make("solver", spec)

    def why(self, found: Mapping[str, Tensor]) -> Sequence[str]:
        """The table of the finalists, those that came near, what was skipped, the reference and the cost."""
        told = unpacked(found["told"])
        first, *others = told["table"]
        return [
            f"chosen: {first[0]}",
            f"error per dimension on states not used to choose: median {first[2]:.3g}, rms {first[3]:.3g}; "
            f"{self.measure} when choosing: {first[1]:.3g}",
            *(f"  {label}: median {m:.3g}, rms {r:.3g}; when choosing {used:.3g}" for label, used, m, r in others),
            *(f"  {label}: when choosing {error:.3g} on {states} states" for label, error, states in told["others"]),
            f"candidates tried: {told['tried']}",
            *(f"skipped: {line}" for line in told["skipped"]),
            f"fine solution: {told['reference']['solver']}, {told['reference']['steps']} steps, "
            f"{told['reference']['error']:.2g} from that of half as many",
            f"cost of the calibration: {told['calls']} calls of the network on batches of up to {self.calibration}",
            "times: " + ", ".join(f"{t:.4g}" for t in found["times"].tolist()),
        ]

    def stand_in(self) -> dc.Solver:
        """As many steps of one call each as there are evaluations."""
        return attrs.evolve(self, steps=self.budget, nfe=None, calibration=0)

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`h`: s - t of Euler's rule, where nothing is to be calibrated. Raises `SpecError` before it is."""
        if self.calibration:
            raise dc.SpecError(
                "solver 'auto' must be calibrated to a model first: diffcore calibrate RUN, or dc.calibrated(solver, "
                "dc.calibrate(solver, field, x))"
            )
        t, s = process.pairs(grid)
        return dc.Plan(t=t, h=s.t - t.t)

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """x_s = x_t + (s - t) v(x_t, t)."""
        return dc.Moved(dc.lincomb((1, x), (row.h, field.velocity(x, row.t))))


def _by_solver(placed: Sequence[Placed]) -> list[Placed]:
    """The best of every solver and setting that ran, in order."""
    seen = dict[dc.Solver, Placed]()
    for p in placed:
        if not p.cause:
            seen.setdefault(p.candidate.solver, p)
    return list(seen.values())


def _judged(trial: Trial, placed: Placed) -> tuple[float, float]:
    """Median and RMS on states that were not used to choose."""
    errors = trial.offsets(placed.candidate.solver, placed.candidate.nodes).norm(dim=1)
    return summary(errors, "median"), summary(errors, "rms")


def _reasons(placed: Sequence[Placed], skipped: Sequence[str]) -> str:
    return "; ".join([*skipped, *(f"{p.candidate.label}: {p.cause}" for p in placed)][:5]) or "none is installed"

"""What the calibrated grids share: the trial, the standard grids to beat, and the decision on states they have not seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

import diffcore as dc
from diffcore_auto.cosine import Cosine
from diffcore_auto.explicit import Explicit
from diffcore_auto.levels import END, End, last_time
from diffcore_auto.reference import solve
from diffcore_auto.standard import nodes_of
from diffcore_auto.trial import MEASURE, Measure, Trial


@dc.component
class CalibratedGrid(dc.Calibrated, dc.Grid):
    """A grid found for one model, solver and number of steps; `propose` finds it.

    Half of the states are for finding it. On the other half it is compared with the best standard grid (chosen on the first
    half), and gives way to it where it is worse.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    end: End = dc.param(default="zero", doc=END)
    calibration: int = dc.param(
        default=128, ge=0, le=1_000_000, doc="states at T it is calibrated on, half of them to decide; 0: equal angles"
    )
    measure: Measure = dc.param(default="median", doc=MEASURE)

    @property
    def calibrate_on(self) -> int:
        """`calibration`."""
        return self.calibration

    def propose(self, trial: Trial, solver: dc.Solver, starts: Mapping[str, Tensor], best: str) -> Tensor:
        """The nodes for a solver, from the trial on half of the states; `starts[best]` is the best standard grid."""
        raise NotImplementedError

    def calibrate(self, field: dc.Field, x: dc.State, solver: dc.Solver) -> Mapping[str, Tensor]:
        """`times`, and `told` (JSON): what they were compared with, and the cost in calls of the network."""
        with dc.Meter() as meter:
            nodes, told = self._compared(field, x, solver)
        return {"times": nodes.cpu(), "told": packed({**told, "calls": meter.calls})}

    def _compared(self, field: dc.Field, x: dc.State, solver: dc.Solver) -> tuple[Tensor, dict[str, Any]]:
        """The proposed times or the best standard ones, as the half of the states says on which nothing was chosen."""
        goal = solve(field, x, last_time(field.process, self.end))
        trial, half = Trial(field, x, goal.x), len(dc.leaves(x)[0]) // 2
        seen, unseen = trial.rows(0, half), trial.rows(half, trial.size)
        starts = nodes_of(field, solver, self.end)
        errors = {name: error_of(seen, solver, nodes, self.measure) for name, nodes in starts.items()}
        best = min(errors, key=lambda name: errors[name])
        nodes = self.propose(seen, solver, starts, best)
        found, known = (error_of(unseen, solver, n, self.measure) for n in (nodes, starts[best]))
        told = {"standard": best, "known": known, "found": found, "measure": self.measure}
        return nodes if found <= known else starts[best], told

    def calibrated(self, found: Mapping[str, Tensor]) -> dc.Grid:
        """The times found, as an explicit grid."""
        return Explicit(times=tuple(found["times"].tolist()))

    def why(self, found: Mapping[str, Tensor]) -> Sequence[str]:
        """The comparison on the states that were not used, and the times."""
        told = unpacked(found["told"])
        better = told["found"] <= told["known"]
        ratio = f" ({told['known'] / told['found']:.2f} times less)" if better and told["found"] > 0 else ""
        kept = "" if better else f"; no better, so '{told['standard']}' is kept"
        return [
            f"error on held-out states ({told['measure']}): {told['found']:.3g}{ratio}, best standard grid "
            f"'{told['standard']}': {told['known']:.3g}{kept}",
            f"cost of the calibration: {told['calls']} calls of the network on batches of up to {self.calibration}",
            "times: " + ", ".join(f"{t:.4g}" for t in found["times"].tolist()),
        ]

    def stand_in(self) -> dc.Grid:
        """Equal angles, with the same end."""
        return attrs.evolve(self, calibration=0)

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """Equal angles where nothing is to be calibrated. Raises `SpecError` for a grid that has not been calibrated."""
        if not self.calibration:
            return Cosine(end=self.end).nodes(process, steps, start)
        raise dc.SpecError(
            f"grid {type(self).__name__} must be calibrated to a model first: "
            "diffcore calibrate RUN, or dc.calibrated(solver, dc.calibrate(solver, field, x))"
        )


def error_of(trial: Trial, solver: dc.Solver, nodes: Tensor, measure: Measure) -> float:
    """The error of a run; infinite where it fails."""
    try:
        return trial.error(solver, nodes, measure)
    except dc.DiffcoreError:
        return torch.inf


def packed(value: Any) -> Tensor:
    """JSON as bytes, uint8."""
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def unpacked(value: Tensor) -> Any:
    """What was packed."""
    return json.loads(bytes(value.tolist()))

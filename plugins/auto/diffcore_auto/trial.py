"""One comparison: a field, start states, and where a fine solution takes them."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import torch
from torch import Tensor

import diffcore as dc

Measure = Literal["rms", "median"]
MEASURE = (
    "what is compared: the root mean square over the states, or their median, which a few states in the wrong mode do not rule"
)


@attrs.frozen
class Trial:
    """States x at T of a field, and `goal`, where they end."""

    field: dc.Field
    x: dc.State
    goal: dc.State

    def rows(self, first: int, last: int) -> Trial:
        """The trial on some of the states."""
        cut: Any = lambda leaf: leaf[first:last]  # noqa: E731
        return Trial(bound(self.field, first, last), dc.tree_map(cut, self.x), dc.tree_map(cut, self.goal))

    @property
    def size(self) -> int:
        """The number of states."""
        return len(dc.leaves(self.x)[0])

    def offsets(self, solver: dc.Solver, nodes: Tensor) -> Tensor:
        """x - goal at the end of a run, [B, D]; divided by sqrt(D), so that a row's norm is its RMS per dimension."""
        found = dc.sample(self.field, solver, self.x, grid=nodes).x
        pairs = zip(dc.leaves(found), dc.leaves(self.goal), strict=True)
        flat = torch.cat([(a - b).flatten(1) for a, b in pairs], 1)
        return flat / flat.shape[1] ** 0.5

    def error(self, solver: dc.Solver, nodes: Tensor, measure: Measure) -> float:
        """The error of one run; raises what the run raises."""
        return summary(self.offsets(solver, nodes).norm(dim=1), measure)


def bound(field: dc.Field, first: int, last: int) -> dc.Field:
    """The field under the conditions of some of its rows."""
    return field.bound({k: v[first:last] if isinstance(v, Tensor) and v.ndim else v for k, v in field.cond.items()})


def summary(errors: Tensor, measure: Measure) -> float:
    """One number for the errors [B] of the states."""
    return float(errors.double().square().mean().sqrt() if measure == "rms" else errors.double().median())


def calls_of(field: dc.Field, solver: dc.Solver, nodes: Tensor) -> int:
    """Evaluations of the field in one run, as its plan declares them."""
    return sum(map(len, field.steps(solver).plan(field.process, nodes).asks))

"""The walk of an embedded pair: attempts, each accepted or rejected for every sample on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import attrs
import torch
from torch import Tensor

import diffcore as dc
from diffcore_edm_solvers.control import Tolerance
from diffcore_edm_solvers.journey import Journey, Rows, put, taken, weight, which
from diffcore_edm_solvers.tableau import Tableau
from diffcore_edm_solvers.variable import READS, Variable, pace, position, scale, time_at


class Attempt(NamedTuple):
    """A step that may be taken: the state and slope at its end, that end, and the estimated error of the state."""

    x: dc.State
    slope: dc.State
    at: dc.Coeffs
    error: dc.State


@attrs.define
class Walk(Journey):
    """`slope`: k at (x, t) where `known`; `length`: the next step in the variable, > 0; `before`: err of the last one taken."""

    tableau: Tableau
    variable: Variable
    tolerance: Tolerance
    max_steps: int
    slope: dc.State = attrs.field(init=False)
    known: Tensor = attrs.field(init=False)
    length: Tensor = attrs.field(init=False)
    before: Tensor = attrs.field(init=False)
    accepted: Tensor = attrs.field(init=False)
    rejected: Tensor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.slope = dc.tree_map(torch.zeros_like, self.x)
        self.known = torch.zeros_like(self.evaluations, dtype=torch.bool)
        self.length, self.before = torch.zeros_like(self.t), torch.ones_like(self.t)
        self.accepted = self.rejected = self.evaluations

    def jump(self, goal: Tensor) -> None:
        """Slopes are of no use after a jump."""
        self.known = self.known & (self.t == goal)
        super().jump(goal)

    def walk(self, goal: Tensor) -> None:
        """Attempt steps until every sample has arrived."""
        start = self.accepted + self.rejected
        while not isinstance(rows := which(self.t != goal), tuple):
            late = (self.t != goal) & (self.accepted + self.rejected - start >= self.max_steps)
            if bool(late.any()):
                raise self._lost(late, f"have not arrived after max_steps = {self.max_steps}; raise it, or rtol and atol")
            fresh = which((self.t != goal) & ~self.known)
            if not isinstance(fresh, tuple):
                self._begin(fresh, goal)
            self._advance(rows, goal)

    def _begin(self, rows: Rows, goal: Tensor) -> None:
        """The slopes at the start of samples that have none, and their first steps."""
        x, c, span = self._here(rows, goal)
        k = self.posterior(x, c, rows).read(READS[self.variable])
        length = torch.minimum(self.tolerance.first(x, self._change(c, c, k)), span.abs())
        y, at = self._stage(x, c, length * span.sign(), 1.0, (1.0,), [k], [c])
        bent = self.posterior(y, at, rows).read(READS[self.variable])
        change = dc.lincomb((1.0, self._change(c, at, bent)), (-1.0, self._change(c, c, k)))
        chosen = self.tolerance.second(length, x, change, self._change(c, c, k))
        self.slope, self.length = put(self.slope, rows, k), put(self.length, rows, torch.minimum(chosen, span.abs()))
        self.known = put(self.known, rows, torch.ones_like(chosen, dtype=torch.bool))

    def _change(self, c: dc.Coeffs, at: dc.Coeffs, k: dc.State) -> dc.State:
        """S dy/du: how fast x changes with the variable."""
        return dc.lincomb((weight(scale(self.variable, c) * pace(self.variable, at), k), k))

    def _here(self, rows: Rows, goal: Tensor) -> tuple[dc.State, dc.Coeffs, Tensor]:
        """States and coefficients of some samples, and how far they have to go."""
        process = self.field.process
        c, end = process.coeffs(taken(self.t, rows)), process.coeffs(taken(goal, rows))
        return taken(self.x, rows), c, position(self.variable, end) - position(self.variable, c)

    def _advance(self, rows: Rows, goal: Tensor) -> None:
        """One attempt of the samples `rows`."""
        x, c, span = self._here(rows, goal)
        wanted, before = taken(self.length, rows), taken(self.before, rows)
        lands = wanted >= span.abs() * (1 - 1e-9)
        step = torch.where(lands, span, wanted * span.sign())
        if bool((position(self.variable, c) + step == position(self.variable, c)).any()):
            raise self._lost(
                self.t != goal, "have steps that vanish: the field is not finite there, or too rough for rtol and atol"
            )
        tried = self._attempt(x, c, step, torch.where(lands, taken(goal, rows), torch.nan), rows)
        err = self.tolerance.norm(tried.error, x, tried.x)
        good = err <= 1
        new = step.abs() * self.tolerance.factor(err, before, good)
        self.length = put(self.length, rows, torch.where(lands & good, torch.maximum(wanted, new), new))
        self.before = put(self.before, rows, torch.where(good, err.clamp_min(1e-4), before))
        self.x = put(self.x, rows, _chosen(good, tried.x, x))
        self.slope = put(self.slope, rows, _chosen(good, tried.slope, taken(self.slope, rows)))
        self.t = put(self.t, rows, torch.where(good, tried.at.t, c.t))
        self.accepted = put(self.accepted, rows, taken(self.accepted, rows) + good)
        self.rejected = put(self.rejected, rows, taken(self.rejected, rows) + ~good)

    def _attempt(self, x: dc.State, c: dc.Coeffs, step: Tensor, landing: Tensor, rows: Rows) -> Attempt:
        """All stages; `landing`: the end of the step where it is known to be the goal, else NaN."""
        tableau, y = self.tableau, x
        nodes, slopes = [c], [taken(self.slope, rows)]
        for share, row in zip((*tableau.c[1:], 1), (*tableau.a[1:], tableau.b), strict=True):
            y, at = self._stage(x, c, step, share, row, slopes, nodes, landing)
            slopes.append(self.posterior(y, at, rows).read(READS[self.variable]))
            nodes.append(at)
        paces = [scale(self.variable, nodes[-1]) * step * pace(self.variable, at) for at in nodes]
        terms = zip(tableau.error, paces, slopes, strict=True)
        return Attempt(y, slopes[-1], nodes[-1], dc.lincomb(*((weight(e * v, k), k) for e, v, k in terms if e)))

    def _stage(
        self,
        x: dc.State,
        c: dc.Coeffs,
        step: Tensor,
        share: float,
        row: Sequence[float],
        slopes: Sequence[dc.State],
        nodes: Sequence[dc.Coeffs],
        landing: Tensor | None = None,
    ) -> tuple[dc.State, dc.Coeffs]:
        """The state S (y_t + H sum_j a_j k_j) at a share of the step, and the coefficients there."""
        process = self.field.process
        time = time_at(process, self.variable, position(self.variable, c) + share * step)
        if share == 1 and landing is not None:
            time = torch.where(landing.isnan(), time, landing)
        at = process.coeffs(time)
        size = scale(self.variable, at)
        terms = [
            (weight(size * step * a * pace(self.variable, n), x), k) for a, n, k in zip(row, nodes, slopes, strict=True) if a
        ]
        return dc.lincomb((weight(size / scale(self.variable, c), x), x), *terms), at

    def _lost(self, which_ones: Tensor, what: str) -> dc.NumericsError:
        times = self.t[which_ones]
        return dc.NumericsError(
            f"{int(which_ones.sum())} of {len(self.t)} samples {what} (they are at t = {float(times.min()):.4g} to "
            f"{float(times.max()):.4g}, rtol = {self.tolerance.rtol:g}, atol = {self.tolerance.atol:g})"
        )


def _chosen(mask: Tensor, x: dc.State, y: dc.State) -> Any:
    return dc.tree_map(lambda a, b: torch.where(dc.expand(mask, a), a, b), x, y)

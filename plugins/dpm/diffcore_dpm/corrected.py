"""Exponential Adams predictor with an optional corrector that reuses the next evaluation, so that it costs none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import diffcore as dc
from diffcore_dpm.multistep import TAIL, Multistep, history, later, tail
from diffcore_dpm.span import Reading, Span, Weights, divisible, positions, span, value, weigh

HEAD = ("c0", "c1", "c2", "c3", "c4", "c5")
"""Weights of the corrector: of the newest evaluation, of the one the step began with, and of those before."""


@dc.component
class Corrected(Multistep):
    """The step i from t_i, with f the data or the noise prediction and x^c the corrected state:

        evaluate  f_i = f(x_i, t_i)
        correct   x^c_i = pull x^c_(i-1) + int P(lam) with P through f_i, f_(i-1), f_(i-2), ... over the last step
        predict   x_(i+1) = pull x^c_i + int P(lam) with P through f_i, f_(i-1), ...

    `points` evaluations in the predictor, one more in the corrector. Without a corrector x^c = x.
    """

    points: int = dc.param(default=2, ge=1, le=5, doc="evaluations that the predictor interpolates")
    prediction: Reading = dc.param(default="x0", doc="what is interpolated")
    corrector: bool = dc.param(default=True, doc="correct every state with the evaluation made at it, at no cost: one order more")

    @property
    def memory(self) -> int:
        """The predictor's earlier evaluations; the corrector needs one more."""
        return self.points - 1 + self.corrector

    @property
    def reads(self) -> Reading:
        """The prediction chosen."""
        return self.prediction

    def fractions(self, over: Span, active: list[Tensor], count: int) -> list[Tensor]:
        """The averages of u^k over the step that the weights are made of; exact ones here."""
        return over.moments(count)

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `gain`, `w1`, ...: the prediction; `base`: of the corrected state; `own`, `back`, `c0`, ...: the correction."""
        t, s = dc.centred_pairs(process, grid)
        return dc.Plan(t=t, **self.entries(t, s, torch.zeros_like(t.t, dtype=torch.bool)))

    def entries(self, t: dc.Coeffs, s: dc.Coeffs, skip: Tensor) -> dict[str, Any]:
        """The entries of the plan; states after a step in `skip` are not corrected."""
        over = span(t, s, self.prediction)
        nodes, active = history(positions(t, s, self.prediction), self.points - 1, self.limit)
        w = weigh(over, nodes, active, self.fractions(over, active, self.points))
        if not self.corrector:
            return {"keep": w.keep, "gain": w.gain, **tail(w.tail)}
        on = divisible(t, s, self.prediction) & (s.sigma > 0) & ~skip
        back = self._correction(over, nodes, active, on)
        return {**_from_corrected(over, w, back["back"] != 0), **back, **tail(w.tail)}

    def _correction(self, over: Span, nodes: list[Tensor], active: list[Tensor], on: Tensor) -> dict[str, Tensor]:
        """The weights of the correction in row i, which is of the step before: x^c = own x + back x^c + c_0 f_i + ..."""
        ahead = torch.ones_like(over.keep)
        inside = [on, *(a & on for a in active)]
        w = weigh(over, [ahead, *nodes], inside, self.fractions(over, inside, self.points + 1))
        first = over.full - sum(w.tail)
        row = [w.tail[0], *(torch.where(on, v, 0.0) for v in (first, *w.tail[1:]))]
        weights = [later(torch.where(on, over.pull, 0.0)), *map(later, row)]
        return {"own": (weights[0] == 0).double(), **dict(zip(("back", *HEAD), weights, strict=False))}

    def init(self, x: dc.State) -> tuple[dc.State, ...]:
        """No history; with a corrector the corrected state comes first."""
        return tuple(dc.tree_map(torch.zeros_like, x) for _ in range(self.memory + self.corrector))

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """Evaluate, correct, predict."""
        if not self.corrector:
            return super().step(field, x, row, carry, z)
        p = field.posterior(x, row.t)
        f, (before, *past) = value(p, self.prediction), carry
        known = zip(HEAD, (f, *past), strict=False)
        x = dc.lincomb((row.own, x), (row.back, before), *((getattr(row, name), g) for name, g in known))
        return dc.Moved(self.predict(p, row, x, past[:-1]), (x, f, *past[:-1]))

    def predict(self, p: dc.Posterior, row: Any, x: dc.State, past: list[dc.State]) -> dc.State:
        """The next state from the corrected one."""
        terms = ((getattr(row, name), g) for name, g in zip(("base", *TAIL), (x, *past), strict=False))
        return p.blend(row.keep, row.gain, *terms)


def _from_corrected(over: Span, w: Weights, corrected: Tensor) -> dict[str, Tensor]:
    """The prediction from x^c where it is not x: `base` x^c + (`keep` x + `gain` x*), the latter two holding f_i alone."""
    now = over.full - sum(w.tail)
    return {
        "base": torch.where(corrected, over.pull, 0.0),
        "keep": torch.where(corrected, now * over.own_x, w.keep),
        "gain": torch.where(corrected, now * over.own_m, w.gain),
    }

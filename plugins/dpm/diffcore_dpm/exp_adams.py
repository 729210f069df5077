"""Adams methods with the linear part solved: the family that DDIM, DPM-Solver++ multistep and UniPC are members of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc
from diffcore_dpm.corrected import Corrected
from diffcore_dpm.multistep import history
from diffcore_dpm.singlestep import Inner, asked_within, counts, midpoint, stages, thirds
from diffcore_dpm.span import Reading, divisible, positions, value


@dc.component
class ExpAdams(Corrected):
    """With P the polynomial through the last `points` evaluations, integrated exactly, m = E[x_0 | x_t], e = E[eps | x_t],

        x0:    x_s = (sigma_s / sigma_t) x_t + sigma_s int e^lam P dlam      P through m, of lam = log(alpha / sigma)
        eps:   x_s = (alpha_s / alpha_t) x_t - alpha_s int e^-lam P dlam     P through e, of lam
        v:     x_s = (S_s / S_t) x_t + S_s int P dphi                        P through cos(phi) e - sin(phi) m, of phi
        flow:  x_s = (S_s / S_t) x_t + S_s int P du                          P through e - m, of u

        phi = arctan(sigma / alpha), S = (alpha^2 + sigma^2)^(1/2);      u = sigma / (alpha + sigma), S = alpha + sigma

    phi and u are finite at pure noise and at clean data, so v and flow keep their order to both ends, where x0 and eps take
    steps of first order; their best grids are `crash`, `straight` and `cosine`. One evaluation a step. `corrector` solves every
    step again with the evaluation made at its end. The first steps have fewer evaluations to go by (`start: ramp`), which caps
    the global order at 2, or 3 with the corrector. `start: singlestep` makes them with one or two inner evaluations each
    (`points` - 2 steps), which caps it at 4. The order is points + corrector below these caps. A step uses fewer points where
    it is more than `limit` times as long as those before (see `history`).
    """

    source: ClassVar[str] = "Norsett 1969; Hochbruck and Ostermann 2010, Acta Numerica 19, sections 2.5 and 5; Lu et al. 2022"
    items: ClassVar[tuple[str, ...]] = ("9.10", "9.18", "9.19")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"points": 2, "prediction": "eps"},
        {"points": 2, "corrector": True},
        {"points": 2, "prediction": "v"},
        {"points": 3, "prediction": "flow", "corrector": True},
    )

    prediction: Reading = dc.param(
        default="x0", doc="what is interpolated: m or e in lam, v in the angle, the velocity e - m in the straight path's time"
    )
    corrector: bool = dc.param(
        default=False, doc="correct every state with the evaluation made at it, at no cost: one order more"
    )
    start: Literal["ramp", "singlestep"] = dc.param(default="ramp", doc="first steps: of lower order, or with inner evaluations")

    @property
    def order(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The order of a run from its first step."""
        return min(self.points + self.corrector, 4 if self._inner else 2 + self.corrector)

    @property
    def both_ways(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The steps are those of an ODE."""
        return True

    @property
    def _inner(self) -> int:
        """Inner evaluations of the first steps: one gives them order 2, two order 3."""
        return min(self.points + self.corrector - 2, 2) if self.start == "singlestep" and self.points > 2 else 0

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """The entries of the family; with a singlestep start also those of its stages, and `stages`: how many there are."""
        if not self._inner:
            return super().plan(process, grid)
        t, s = dc.centred_pairs(process, grid)
        known = history(positions(t, s, self.prediction), self.points - 2, torch.inf)[1][-1]
        first = divisible(t, s, self.prediction) & ~known
        inner = (midpoint if self._inner == 1 else thirds)(process, t, s, self.prediction, first)
        inside = counts(first, self._inner)
        entries = _start(self.entries(t, s, first), inner)
        return dc.Plan(t=t, **entries, stages=inside, asks=asked_within(t, inner))

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """One step; in the first ones, the stages of the singlestep start."""
        if not (self._inner and row.stages):
            return super().step(field, x, row, carry, z)
        p = field.posterior(x, row.t)
        after = p.blend(row.keep, row.gain, stages(field, p, row, self.prediction))
        known = (value(p, self.prediction), *carry[self.corrector : -1])
        return dc.Moved(after, (x, *known) if self.corrector else known)


def _start(entries: dict[str, Any], inner: Inner) -> dict[str, Any]:
    """The entries with the weights of the inner stages in place of those of the history where the start has stages."""
    own = {"keep": inner.keep, "gain": inner.gain}
    chosen = {k: torch.where(inner.fine, own.get(k, torch.zeros_like(v)), v) if k in SHARED else v for k, v in entries.items()}
    return {**chosen, **inner.entries}


SHARED = ("keep", "gain", "base", "w1", "w2", "w3", "w4")
"""What a row says of its prediction, by whichever rule."""

"""Embedded Runge-Kutta pairs with a step size of its own for every sample."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor

import diffcore as dc
from diffcore_edm_solvers.continuous import Continuous
from diffcore_edm_solvers.control import Tolerance
from diffcore_edm_solvers.journey import Journey
from diffcore_edm_solvers.tableau import TABLEAUS
from diffcore_edm_solvers.walk import Walk


class Counts(NamedTuple):
    """Per sample so far, [B]: steps accepted and rejected, and evaluations of the field."""

    accepted: Tensor
    rejected: Tensor
    evaluations: Tensor


@dc.component
class Adaptive(Continuous):
    """Steps of the higher order p of a pair p(q), whose difference from the lower order q estimates the error of the step:

        e = S H sum_i (b_i - b^_i) k_i,   err = sqrt(mean (e / (atol + rtol max(|x_t|, |x_s|)))^2) over the entries of one sample.

    A step is accepted where err <= 1; the next is chosen by PI control (see `Tolerance`). Each sample has its own time and step
    and depends on no other; those that have arrived are not evaluated any more. The slope at the end of a step is the first of
    the next: bogacki-shampine, 3(2), costs 3 evaluations a step, dormand-prince, 5(4), 6, and each run 2 for its first step.
    The global error is proportional to the tolerance, to the power p / (q + 1).

    The last step of a stretch is cut to its end. From alpha = 0 and to sigma = 0 see `jump`.

    `own` of a frame are the `Counts` of every sample: accepted, rejected, evaluations. `sample(...).nfe` is the mean,
    and the calls of the network are as many as the sample with the most evaluations (and more where samples part) needs.

    Raises `NumericsError` where a sample has not arrived after max_steps steps of a stretch, or its step vanishes.
    """

    source: ClassVar[str] = "Bogacki and Shampine 1989; Dormand and Prince 1980; Hairer, Norsett and Wanner 1993, section II.4"
    items: ClassVar[tuple[str, ...]] = ("4.08", "9.23")
    method: Literal["bogacki-shampine", "dormand-prince"] = dc.param(default="dormand-prince", doc="the pair: 3(2) or 5(4)")
    max_steps: int = dc.param(
        default=1000, ge=1, le=10_000_000, doc="steps, rejected ones included, that a sample may take in one stretch"
    )

    def journey(self, field: dc.Field, x: dc.State, t: Tensor) -> Journey:
        """The samples at their start."""
        tableau = TABLEAUS[self.method]
        tolerance = Tolerance(self.rtol, self.atol, min(tableau.order, tableau.embedded) + 1)
        return Walk(field, x, t, tableau, self.variable, tolerance, self.max_steps)

    def shown(self, journey: Any) -> Counts:
        """The counts."""
        return Counts(journey.accepted, journey.rejected, journey.evaluations)

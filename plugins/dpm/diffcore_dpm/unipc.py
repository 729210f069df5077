"""UniPC: the unified predictor-corrector in lam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc
from diffcore_dpm.corrected import Corrected
from diffcore_dpm.span import Prediction, Span


@dc.component
class UniPC(Corrected):
    """UniP-p with p = `points`, and UniC-p unless `corrector: false`. With h = lam_s - lam_t, D_j = f_j - f_i at lam_i + r_j h,

        eps:  x_s = (alpha_s / alpha_t) x_t - sigma_s (e^h - 1) f_i - sigma_s B(h) sum_j a_j D_j / r_j
        x0:   x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) f_i + alpha_s B(h) sum_j a_j D_j / r_j

    B = h (bh1), or e^h - 1 for eps and 1 - e^-h for x0 (bh2). Where several D_j are used, the a_j match the moments of the
    exact integral, B cancels and the step is that of `exp-adams`; with a single D_j (UniP-2, UniC-1) a = 1/2 as published.
    UniP-2 of bh2 with x0 is `dpmpp-2m`. One evaluation a step; the corrector reuses the next one; the last state is not
    corrected.
    """

    source: ClassVar[str] = "Zhao et al. 2023, arXiv 2302.04867, algorithms 1 and 2, section 3.4"
    items: ClassVar[tuple[str, ...]] = ("9.22", "R9")
    both_ways: ClassVar[bool] = True
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"points": 1, "variant": "bh1"},
        {"points": 3, "prediction": "eps", "corrector": False},
    )

    prediction: Prediction = dc.param(
        default="x0", doc="what is interpolated in lam: the data prediction x0 or the noise prediction eps"
    )
    points: int = dc.param(default=2, ge=1, le=3, doc="evaluations that the predictor interpolates: the order p in the paper")
    variant: Literal["bh1", "bh2"] = dc.param(default="bh2", doc="B(h) where a single difference is used: h, or e^h - 1")

    @property
    def order(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """p, one more with the corrector; the ramp of the first steps caps it at 2, or 3 with the corrector."""
        return min(self.points, 2) + self.corrector

    def fractions(self, over: Span, active: list[Tensor], count: int) -> list[Tensor]:
        """Exact averages, but for a single difference that of u is B(h) / 2, over the weight of a constant."""
        exact = over.moments(count)
        if count == 1:
            return exact
        alone = sum((on.int() for on in active), torch.zeros_like(over.full)) == 1
        half = torch.full_like(over.rate, 0.5)
        if self.variant == "bh1":
            rate = torch.where(alone, over.rate, 1.0)
            half = half * rate / torch.expm1(-rate).neg()
        return [exact[0], torch.where(alone, half, exact[1]), *exact[2:]]

"""Inversion: how well data survives being encoded as noise and decoded."""

from __future__ import annotations

from typing import ClassVar

import torch

import diffcore as dc
from diffcore_score_sde.coding import decode, encode
from diffcore_score_sde.evidence import BLOCKS, field_of, mean_of, rows


@dc.component
class RoundTrip(dc.Metric):
    """x_T = Psi_{0->T}(x_0), x_0' = Psi_{T->0}(x_T) along the probability-flow ODE of real data.

    `round trip`: the mean of |x_0' - x_0|^2 / D, which falls with the order of the integration: 8 in all, as a square.
    `code size`: the mean of |x_T|^2 / (D sigma_T^2), 1 (+ signal left at T) for a perfect model, whose codes are the prior's.

    Raises `DataError` for data behind a codec, `IncompatibleError` for a process that is not affine.
    """

    source: ClassVar[str] = "Song et al. 2021, arXiv 2011.13456, appendix D.4"
    items: ClassVar[tuple[str, ...]] = ("4.09",)
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    of_data: ClassVar[bool] = True
    least_real: ClassVar[int] = BLOCKS

    n: int = dc.param(default=128, ge=4, le=10_000_000, doc="real samples")
    steps: int = dc.param(default=40, ge=1, le=100_000, doc="steps each way, four evaluations each")
    tolerance: float | None = dc.param(default=None, gt=0, le=1, doc="rtol and atol of the adaptive method; null: fixed steps")
    cut: float = dc.param(default=1e-5, gt=0, lt=1, doc="least time of the data, as a fraction of T")

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """`round trip` and `code size` over the first n real samples."""
        self.check(ev)
        x, field = rows(ev, field_of(ev, "round-trip"), self.n)
        code = encode(field, x, steps=self.steps, tolerance=self.tolerance, cut=self.cut)
        back = decode(field, code, steps=self.steps, tolerance=self.tolerance, cut=self.cut)
        sigma = float(field.process.coeffs(torch.tensor(field.process.T, dtype=torch.float64)).sigma.detach())
        against = f"{len(x)} of {ev.reference_name}"
        return {
            "round trip": mean_of(((back - x) ** 2).flatten(1).mean(1).cpu(), against),
            "code size": mean_of((code**2).flatten(1).mean(1).cpu() / sigma**2, against),
        }

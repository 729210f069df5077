"""Sliced score matching: the trace by random probes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_energy.matching import PROBE, WEAK_PUSH, NoisedLoss
from diffcore_energy.trace import Probes, inner, probe, pulled


@dc.component
class SlicedScoreMatching(NoisedLoss):
    """w (q(e) - 2 sigma <v, (grad e) v>) / D at x_t, the mean over K probes v with E[v v^T] = I and e = -sigma s.

    q = <v, e>^2, or |e|^2 with `variance_reduction`, its expectation over v. Both are unbiased for implicit score matching; the
    variance falls as 1 / K. Rademacher probes give the trace exactly where the Jacobian is diagonal. Cost: K reverse passes
    that are differentiated again.

    x0 (B, ...), result (B,).
    """

    source: ClassVar[str] = "Song et al. 2019, arXiv 1905.07088"
    items: ClassVar[tuple[str, ...]] = ("3.06",)
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"variance_reduction": False, "probes": 2, "probe": "gaussian"},)
    expected_failures: ClassVar[Mapping[str, str]] = WEAK_PUSH

    probes: int = dc.param(default=1, ge=1, le=10_000, doc="probes per sample")
    probe: Probes = dc.param(default="rademacher", doc="law of the probes")
    variance_reduction: bool = dc.param(default=True, doc="|e|^2 in place of <v, e>^2 (needs probes of unit covariance)")

    def __call__(self, model: dc.Denoiser, x0: dc.State, draw: dc.Draw, **cond: Any) -> Tensor:
        """Losses (B,), differentiable in the model's parameters."""
        with dc.second_derivatives():
            xt, at, weight = self.noised(model, x0, draw)
            e = model(xt, at, **cond).eps
            vs = [probe(xt, self.probe, draw.fold(PROBE, k)) for k in range(self.probes)]
            slices = [self._square(e, v) - 2 * at.sigma * inner(v, pulled(e, xt, v)) for v in vs]
            return weight * torch.stack(slices).mean(0) / xt[0].numel()

    def _square(self, e: Tensor, v: Tensor) -> Tensor:
        return inner(e, e) if self.variance_reduction else inner(v, e) ** 2

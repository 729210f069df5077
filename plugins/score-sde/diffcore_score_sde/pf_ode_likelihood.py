"""Log-likelihood and bits per dimension of real data under the probability-flow ODE."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_score_sde.dequantise import dequantised, offset
from diffcore_score_sde.evidence import BLOCKS, field_of, mean_of, rows
from diffcore_score_sde.likelihood import Divergence, log_likelihood, probes_like

DEQUANTISE, PROBES = 1, 2


@dc.component
class PFODELikelihood(dc.Metric):
    """log p(x_0) = log N(x_T; 0, sigma_T^2 I) + int_0^T div v dt of real data, along dx = v dt from x_0.

    `log p`: nats per sample, of the density in the network's range. `bits/dim`: -log2 p / D; with `levels`, data of whole
    numbers is dequantised uniformly within its cells and log2((levels - 1) / 2) is added, so that the value is an upper bound
    of the discrete code length (see `diffcore_score_sde.dequantise.offset`; published numbers for 256 levels differ by
    0.006 where the cells fill [-1, 1] exactly). Data is put at t = max(min_time, cut T).

    divergence: `exact` costs D products with the Jacobian a step, for small D; the probes are unbiased estimates, `rademacher`
    of less variance. steps: 4 evaluations each, fourth order; tolerance: adaptive instead (torchdiffeq).

    Raises `DataError` for data off its levels or behind a codec, `IncompatibleError` for a process that is not affine.
    """

    source: ClassVar[str] = "Song et al. 2021, arXiv 2011.13456, equation 39; Grathwohl et al. 2019, arXiv 1810.01367"
    items: ClassVar[tuple[str, ...]] = ("4.10", "R13")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    of_data: ClassVar[bool] = True
    least_real: ClassVar[int] = BLOCKS

    n: int = dc.param(default=128, ge=4, le=10_000_000, doc="real samples")
    levels: int | None = dc.param(
        default=None, ge=2, le=65_536, doc="values of an entry, evenly over the range; null: continuous data"
    )
    divergence: Divergence = dc.param(default="rademacher", doc="exact trace, or the law of the Hutchinson probes")
    probes: int = dc.param(default=1, ge=1, le=10_000, doc="probes per sample")
    steps: int = dc.param(default=40, ge=1, le=100_000, doc="steps of the fixed fourth-order method")
    tolerance: float | None = dc.param(default=None, gt=0, le=1, doc="rtol and atol of the adaptive method; null: fixed steps")
    cut: float = dc.param(default=1e-5, gt=0, lt=1, doc="least time of the data, as a fraction of T")
    batch: int = dc.param(default=128, ge=1, le=10_000_000, doc="samples at once")
    seed: int = dc.param(default=0, ge=0, doc="seed of dequantisation and probes")

    def check(self, ev: dc.Evaluation) -> None:
        """Also refuses levels of data that has none."""
        super().check(ev)
        if self.levels is not None and ev.data is not None and ev.data.value_range is None:
            raise dc.DataError(f"{type(ev.data).__name__} has no range, so no levels; leave `levels` out of pf-ode-likelihood")

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """`log p` and `bits/dim` over the first n real samples."""
        self.check(ev)
        field = field_of(ev, "pf-ode-likelihood")
        x, field = rows(ev, field, self.n)
        ids = torch.arange(len(x)).split(self.batch)
        found = torch.cat([self._log_p(field.bound({k: v[i] for k, v in field.cond.items()}), x[i], i) for i in ids])
        bits = -found / (math.log(2) * x[0].numel()) + (0.0 if self.levels is None else offset(self.levels))
        against = f"{len(x)} of {ev.reference_name}, {self._said()}"
        return {"log p": mean_of(found, against), "bits/dim": mean_of(bits, against)}

    def _log_p(self, field: dc.Field, x: Tensor, ids: Tensor) -> Tensor:
        draw = dc.Draw(self.seed, ids, device=x.device)
        if self.levels is not None:
            x = dequantised(x, self.levels, draw.fold(DEQUANTISE))
        probes, weight = probes_like(x, self.divergence, self.probes, draw.fold(PROBES))
        found, _ = log_likelihood(field, x, probes, weight, steps=self.steps, tolerance=self.tolerance, cut=self.cut)
        return found.cpu()

    def _said(self) -> str:
        trace = "exact trace" if self.divergence == "exact" else f"{self.probes} {self.divergence} probes"
        if self.levels is None:
            return f"{trace}, density"
        return f"{trace}, {self.levels} levels dequantised (+ {offset(self.levels):.4f} bits/dim)"

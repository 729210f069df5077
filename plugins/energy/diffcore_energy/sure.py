"""Stein's unbiased risk estimate: the error of a denoiser, seen on noisy data alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc
from diffcore_energy.matching import PROBE, WEAK_PUSH, Noised, NoisedLoss
from diffcore_energy.trace import exact_trace, inner, probe, pulled


@dc.component
class SURE(NoisedLoss):
    """w (|m - x_t|^2 + 2 sigma^2 div m - D sigma^2) / (D sigma^2) with m = alpha E[x_0|x_t]: unbiased for
    w |m - alpha x_0|^2 / (D sigma^2), the risk in units of the noise, without a look at x_0.

    With m = x_t - sigma e it is w (|e|^2 - 2 sigma div e + D) / D: implicit score matching plus w, for every model.

    observed: the data is itself y = x_0 + observed n with n ~ N(0, I), and no clean data exists. Then x_t = alpha_t y at the one
    time with sigma_t / alpha_t = observed, no noise is added, and the network learns to denoise what it is trained on.

    x0 (B, ...), result (B,). Raises `SpecError` where the process never has that level.
    """

    source: ClassVar[str] = "Stein 1981, Ann. Statist. 9; Metzler et al. 2018, arXiv 1805.10531"
    items: ClassVar[tuple[str, ...]] = ("3.11", "3.12")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"divergence": "exact"},)
    expected_failures: ClassVar[Mapping[str, str]] = WEAK_PUSH

    divergence: Literal["exact", "rademacher", "gaussian"] = dc.param(default="rademacher", doc="trace, or law of one probe")
    observed: float | None = dc.param(
        default=None, gt=0, le=1e6, doc="noise level of the data itself; null: clean data, noised here"
    )

    def __call__(self, model: dc.Denoiser, x0: dc.State, draw: dc.Draw, **cond: Any) -> Tensor:
        """Losses (B,), differentiable in the model's parameters."""
        with dc.second_derivatives():
            xt, at, weight = self.noised(model, x0, draw)
            e = model(xt, at, **cond).eps
            return weight * (1 + (inner(e, e) - 2 * at.sigma * self._trace(e, xt, draw)) / xt[0].numel())

    def _trace(self, e: Tensor, xt: Tensor, draw: dc.Draw) -> Tensor:
        if self.divergence == "exact":
            return exact_trace(e, xt)
        v = probe(xt, self.divergence, draw.fold(PROBE))
        return inner(v, pulled(e, xt, v))

    def times(self, model: dc.Denoiser, draw: dc.Draw) -> Tensor:
        """Those of the law, or the one time of the observed level."""
        return super().times(model, draw) if self.observed is None else self._level(model.process).expand(len(draw.ids))

    def at_times(self, model: dc.Denoiser, x0: Tensor, t: Tensor, draw: dc.Draw, eps: Tensor | None = None) -> Noised:
        """Noised data; observed data is only scaled."""
        none = torch.zeros_like(x0) if self.observed is not None else eps
        return super().at_times(model, x0, t.to(x0.device), draw, none)

    def _level(self, process: dc.Process) -> Tensor:
        assert self.observed is not None
        t = process.t_of_lam(torch.tensor(-math.log(self.observed), dtype=torch.float64))
        if not abs(float(process.coeffs(t).lam) + math.log(self.observed)) < 1e-6:
            raise dc.SpecError(
                f"'observed' of SURE is {self.observed}, a level sigma / alpha that {type(process).__name__} never has"
            )
        return t

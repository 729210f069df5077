"""Laws of the training times, each given by its quantile function u -> t, which rises from min_time to T.

A time law is an importance weight: with density p(t), the loss E_p[w l] equals that of the uniform law with weight w p, and
differs only in the variance of its gradient (Lai et al. 2025, chapter 6).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc

NORMAL = NormalDist()


class QuantileLaw(dc.TimeLaw):
    """A law with a quantile function: its own draws are quantiles of independent uniform numbers."""

    def quantile(self, process: dc.Process, u: Tensor) -> Tensor:
        """The time below which a fraction u of the training times lies; u in [0, 1), float64 [B], and so the result."""
        raise NotImplementedError

    def __call__(self, process: dc.Process, draw: dc.Draw) -> Tensor:
        """Independent times, float64 [B]."""
        return self.quantile(process, draw.uniform())


@dc.component
class Uniform(QuantileLaw):
    """Uniform on [min_time, T], in t or in lam = log(alpha / sigma).

    Over `lam` the process must have a finite lam at both ends: raises `IncompatibleError` otherwise.
    """

    source: ClassVar[str] = "Ho et al. 2020, arXiv 2006.11239 (t); Kingma and Gao 2023, arXiv 2303.00848 (lam)"
    items: ClassVar[tuple[str, ...]] = ("4.06", "6.08")

    over: Literal["t", "lam"] = dc.param(default="t", doc="the variable that is uniform")

    def quantile(self, process: dc.Process, u: Tensor) -> Tensor:
        """min_time + u (T - min_time), or the time of lam_min_time + u (lam_T - lam_min_time)."""
        if self.over == "t":
            return process.min_time + u * (process.T - process.min_time)
        first, last = lam_ends(process)
        if not math.isfinite(first - last):
            raise dc.IncompatibleError(
                f"time law uniform over lam needs log(alpha / sigma) finite from t = {process.min_time:g} to {process.T:g}; "
                f"{type(process).__name__} has {first:g} and {last:g} there; choose 'over: t', 'lognormal' or 'logit-normal'"
            )
        return t_of_lam(process, first + u * (last - first))


@dc.component
class LogNormal(QuantileLaw):
    """log(sigma / alpha) ~ N(mean, std^2), restricted to [min_time, T]. At alpha = 1 the noise level is log-normal.

    Needs an affine process.
    """

    source: ClassVar[str] = "Karras et al. 2022, arXiv 2206.00364, table 1"
    items: ClassVar[tuple[str, ...]] = ("6.08", "D2")

    mean: float = dc.param(default=-1.2, ge=-50, le=50, doc="mean of log(sigma / alpha)")
    std: float = dc.param(default=1.2, gt=0, le=50, doc="standard deviation of log(sigma / alpha)")

    def quantile(self, process: dc.Process, u: Tensor) -> Tensor:
        """t(lam) at -lam = mean + std Phi^-1(v), v spread over the values of Phi from min_time to T."""
        first, last = lam_ends(process)
        z = normal_between((-first - self.mean) / self.std, (-last - self.mean) / self.std, u)
        return t_of_lam(process, -(self.mean + self.std * z))


@dc.component
class LogitNormal(QuantileLaw):
    """logit(t / T) ~ N(mean, std^2), restricted to [min_time, T]."""

    source: ClassVar[str] = "Esser et al. 2024, arXiv 2403.03206, section 3.1"
    items: ClassVar[tuple[str, ...]] = ("6.08",)

    mean: float = dc.param(
        default=0.0, ge=-50, le=50, doc="mean of logit(t / T); negative values train less noisy times more often"
    )
    std: float = dc.param(default=1.0, gt=0, le=50, doc="standard deviation of logit(t / T)")

    def quantile(self, process: dc.Process, u: Tensor) -> Tensor:
        """T sigmoid(mean + std Phi^-1(v)), v spread over the values of Phi from min_time to T."""
        least = process.min_time / process.T
        low = (math.log(least / (1 - least)) - self.mean) / self.std if least > 0 else -math.inf
        times = process.T * torch.sigmoid(self.mean + self.std * normal_between(low, math.inf, u))
        return times.clamp(process.min_time, process.T)


@dc.component
class LowDiscrepancy(QuantileLaw):
    """Another law at evenly spread quantiles u_i = (u_0 + i / B) mod 1, i the place in the global batch of B samples.

    Each time has the law itself, and every batch covers it: the variance of the loss between batches falls. u_0 is drawn
    once a batch and shared by all processes, so that their shares together are the batch of a single one.
    """

    source: ClassVar[str] = "Kingma et al. 2021, arXiv 2107.00630 (low-discrepancy sampler)"
    items: ClassVar[tuple[str, ...]] = ("6.08",)

    law: dc.TimeLaw = dc.param(factory=Uniform, doc="the law of each time")

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.law, QuantileLaw):
            raise dc.SpecError(f"'law' of LowDiscrepancy needs a quantile function; {type(self.law).__name__} has none")

    def quantile(self, process: dc.Process, u: Tensor) -> Tensor:
        """That of the law itself."""
        assert isinstance(self.law, QuantileLaw)
        return self.law.quantile(process, u)

    def __call__(self, process: dc.Process, draw: dc.Draw) -> Tensor:
        """Stratified times, float64 [B]."""
        place = torch.as_tensor(draw.ids, dtype=torch.float64, device=draw.device) % draw.total
        return self.quantile(process, (draw.shared_uniform() + place / draw.total) % 1)


def lam_ends(process: Any) -> tuple[float, float]:
    """log(alpha / sigma) at min_time and at T."""
    first, last = process.coeffs(torch.tensor([process.min_time, process.T], dtype=torch.float64)).lam.tolist()
    return first, last


def t_of_lam(process: Any, lam: Tensor) -> Tensor:
    """The times of these lam, kept within [min_time, T] against rounding."""
    return process.t_of_lam(lam).clamp(process.min_time, process.T)


def normal_between(low: float, high: float, u: Tensor) -> Tensor:
    """Quantiles of the standard normal law restricted to [low, high]."""
    first, last = (NORMAL.cdf(v) if math.isfinite(v) else float(v > 0) for v in (low, high))
    return torch.special.ndtri(first + u * (last - first))

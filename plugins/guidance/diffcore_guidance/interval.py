"""Guidance within limits of time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_guidance.posteriors import merge


@dc.component
class Interval(dc.Guidance):
    """Another guidance where t_low <= t <= t_high, the plain denoiser elsewhere.

    Guidance at high noise drives samples to few modes, at low noise it costs an evaluation for nothing. Times are those of the
    process (for EDM they are the sigma of the paper). Where t is a number, as in eager sampling, a step outside costs one
    evaluation. Where it is a tensor (per sample or per pixel, compiled steps) both are evaluated and chosen elementwise.

    Raises `SpecError` for an empty interval and for a guidance that changes the solver, which has no limits of time.
    """

    source: ClassVar[str] = "Kynkaanniemi et al. 2024, arXiv 2404.07724, equation 6"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    example: ClassVar[Mapping[str, Any]] = {"guidance": {"type": "cfg"}, "t_low": 0.1, "t_high": 0.8}
    neutral: ClassVar[Mapping[str, Any]] = {"t_low": 0.0, "t_high": 1e-9}

    guidance: dc.Guidance = dc.param(doc="what is applied inside")
    t_low: float = dc.param(default=0.0, ge=0, le=1e6, doc="smallest time with guidance, in the process's time")
    t_high: float | None = dc.param(
        default=None, gt=0, le=1e6, doc="largest time with guidance, in the process's time; T where null"
    )

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.t_high is not None and not self.t_low <= self.t_high:
            raise dc.SpecError(f"interval: t_low = {self.t_low} must not exceed t_high = {self.t_high}")
        if type(self.guidance).solver is not dc.Guidance.solver:
            raise dc.SpecError(f"interval cannot limit {type(self.guidance).__name__}, which changes the solver")

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the guidance inside needs."""
        return self.guidance.needs

    def guide(self, denoiser: Any, x: dc.State, t: Any, **cond: Any) -> dc.Posterior:
        """The guided or the plain posterior, by time."""
        guided, time = self.guidance.denoiser(denoiser), t.t if isinstance(t, (dc.Coeffs, dc.Instant)) else t
        inside = (time >= self.t_low) & (time <= (denoiser.process.T if self.t_high is None else self.t_high))
        if not isinstance(inside, Tensor):
            return guided(x, t, **cond) if inside else denoiser(x, t, **cond)

        def choose(plain: Tensor, other: Tensor) -> Tensor:
            return torch.where(dc.expand(inside, plain), other, plain)

        return merge(lambda *values: dc.tree_map(choose, *values), denoiser(x, t, **cond), guided(x, t, **cond))

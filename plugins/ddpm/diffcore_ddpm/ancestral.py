"""Ancestral sampling with the variances of DDPM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc

from .kernels import kernels
from .learned import fraction_of


@dc.component
class DDPM(dc.Stepper):
    """x_s = keep x_t + gain x* + sqrt(v) z with the weights of q(x_s | x_t, x_0) and x* = E[x_0 | x_t]. One evaluation a step.

    v is beta~ = beta sigma_s^2 / sigma_t^2 (`small`, exact for data at one point), beta = sigma_t^2 - (alpha_t / alpha_s)^2
    sigma_s^2 (`large`, exact for data N(0, I) under the chain), or between the two in its logarithm as the network says
    (`learned`, prediction `eps-range`). No noise is added in the step to clean data. On a grid that leaves indices out,
    beta and beta~ are those of the respaced chain. Raises `IncompatibleError` where `learned` meets a network that is not.
    """

    source: ClassVar[str] = (
        "Ho et al. 2020, arXiv 2006.11239, equations 7 and 11 and section 3.2; Nichol and Dhariwal 2021, arXiv 2102.09672, "
        "equation 15"
    )
    items: ClassVar[tuple[str, ...]] = ("2.11", "2.15", "2.16")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"variance": "large"},)

    variance: Literal["small", "large", "learned"] = dc.param(
        default="small", doc="variance of a step: beta~, beta, or the network's own between them"
    )

    @property
    def additive_noise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A learned variance is a function of the state, so its noise has no planned weight."""
        return self.variance != "learned"

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `gain`, `noise` = sqrt(v); with a learned variance `noise` = sqrt(beta) and `span` = log sqrt(beta~ / beta)."""
        k = kernels(process, grid)
        moving = (k.s.sigma > 0) & (k.large > 0)
        v = k.small if self.variance == "small" else k.large
        span = torch.where(moving, torch.log(k.s.sigma / k.t.sigma), 0.0)
        return dc.Plan(t=k.t, keep=k.keep, gain=k.gain, span=span, noise=torch.where(moving, v, 0.0).sqrt())

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """keep x_t + gain x* + sqrt(v) z."""
        known = field.posterior(x, row.t)
        if self.variance == "learned" and z is not None:
            z = torch.exp((1 - fraction_of(known)) * dc.expand(row.span, x)) * z
        return dc.Moved(known.blend(row.keep, row.gain, (row.noise, z), out=row.out))

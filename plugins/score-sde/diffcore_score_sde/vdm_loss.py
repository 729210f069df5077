"""The continuous-time variational bound of a diffusion model, with a schedule that learns to lower its variance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_score_sde.dequantise import spacing
from diffcore_score_sde.monotone import LearnedVDM

TIME, NOISE, FIRST = 1, 2, 3


@dc.component
class VDMLoss(dc.Loss):
    """An upper bound of -log p(x_0) in bits per dimension: (diffusion + prior + reconstruction) / (D log 2), with

        diffusion        (T - t_0) (-lam'(t)) |eps - eps*(x_t, t)|^2,  t uniform: half the integral of MSE_eps over -log SNR
        prior            KL(N(alpha_T x_0, sigma_T^2) | N(0, sigma_T^2)) = alpha_T^2 |x_0|^2 / (2 sigma_T^2)
        reconstruction   -log p(x_0 | x_t0): by entry a softmax over the `levels` of -(x_t0 - alpha v)^2 / (2 sigma^2); without
                         levels the density N(x_t0 / alpha, (sigma / alpha)^2), averaged in closed form.

    Times are spread evenly over the batch. t_0 = min_time, or cut T where sigma(min_time) = 0. Works with every affine
    process. The expected diffusion part depends on the process through lam(t_0) and lam_T only; so with a learned schedule
    (`vdm`) the gradient of a sample's diffusion part d with respect to the schedule between its ends is replaced by that of
    d^2, which lowers the variance; the network and learned ends get the gradient of the bound.

    Raises `DataError` for data that is not one tensor.
    """

    source: ClassVar[str] = "Kingma et al. 2021, arXiv 2107.00630, equations 8 to 12 and 17, appendix I.2"
    items: ClassVar[tuple[str, ...]] = ("4.17",)
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"levels": 17},)

    levels: int | None = dc.param(
        default=None, ge=2, le=65_536, doc="values of an entry, evenly over [-1, 1]; null: continuous data"
    )
    cut: float = dc.param(default=1e-3, gt=0, lt=1, doc="t_0 as a fraction of T where there is no noise at min_time")

    def __call__(self, model: dc.Denoiser, x0: dc.State, draw: dc.Draw, **cond: Any) -> Tensor:
        """The bound [B] in bits per dimension, for data x0 (B, ...) in [-1, 1] under conditions name -> (B, ...)."""
        if not isinstance(x0, Tensor):
            raise dc.DataError("the loss vdm is for data of one tensor")
        unit, first = x0[0].numel() * math.log(2), first_noise(model.process, self.cut)
        ends = [ends_of(model.process, t, x0) for t in (first, model.process.T)]
        found = self._diffusion(model, x0, first, draw, cond, unit)
        return found + (prior_divergence(x0, ends[1]) + self._reconstruction(x0, ends[0], draw.fold(FIRST))) / unit

    def _diffusion(
        self, model: dc.Denoiser, x0: Tensor, first: float, draw: dc.Draw, cond: dict[str, Any], unit: float
    ) -> Tensor:
        """The diffusion part, the schedule's gradient replaced by that of its square."""
        known: list[Tensor] = []

        def squared(value: Tensor) -> Tensor:
            if value.requires_grad:
                value.register_hook(lambda grad: 2 * known[0].to(grad) * grad)
            return value

        process: Any = model.process
        process = process.watched(squared) if isinstance(process, LearnedVDM) else process
        t = first + (process.T - first) * spread(draw.fold(TIME))
        noised = process.corrupt(x0, t, draw.fold(NOISE))
        at = noised.at._replace(time=model.reading.clock(process, noised.at.t))
        error = (model(noised.xt, at, **cond).eps - noised.eps).flatten(1).square().sum(1)
        value = (process.T - first) / unit * -process.coeffs(t).dlam.to(error) * error
        known.append(value.detach())
        return value

    def _reconstruction(self, x0: Tensor, at: dc.Coeffs, draw: dc.Draw) -> Tensor:
        """-log p(x_0 | x_t0) in nats, [B]."""
        width = at.sigma / at.alpha
        if self.levels is None:
            return x0[0].numel() * (0.5 + 0.5 * math.log(2 * math.pi) + width.log()).expand(len(x0))
        values = torch.linspace(-1, 1, self.levels, dtype=x0.dtype, device=x0.device)
        seen = x0 + width * draw.normal_like(x0)
        logits = -0.5 * ((seen[..., None] - values) / width) ** 2
        place = ((x0 + 1) / spacing(self.levels)).round().long().clamp(0, self.levels - 1)
        return -logits.log_softmax(-1).gather(-1, place[..., None]).flatten(1).sum(1)


def spread(draw: dc.Draw) -> Tensor:
    """(u_0 + i / B) mod 1, i the place in the global batch of B, u_0 one uniform number for all: uniform, of low discrepancy."""
    place = torch.as_tensor(draw.ids, dtype=torch.float64, device=draw.device) % draw.total
    return (draw.shared_uniform() + place / draw.total) % 1


def first_noise(process: Any, cut: float) -> float:
    """The first time of the bound: min_time, or cut T where there is no noise yet."""
    sigma = float(process.coeffs(torch.tensor(process.min_time, dtype=torch.float64)).sigma.detach())
    return process.min_time if sigma > 0 else cut * process.T


def ends_of(process: Any, t: float, like: Tensor) -> dc.Coeffs:
    """The coefficients at an end, differentiable in learned ends, in the dtype of the data."""
    return process.coeffs(torch.tensor(t, dtype=torch.float64, device=like.device)).cast(like.dtype)


def prior_divergence(x0: Tensor, at: dc.Coeffs) -> Tensor:
    """KL(q(x_T | x_0) | prior) = alpha^2 |x_0|^2 / (2 sigma^2), [B], nats."""
    return 0.5 * (at.alpha / at.sigma) ** 2 * x0.flatten(1).square().sum(1)

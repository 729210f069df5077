"""The MeanFlow loss: the average velocity between two times, learned from data by a differential identity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

import diffcore as dc

FIRST_TIME, SECOND_TIME, NOISE, APART, DROP = 1, 2, 3, 4, 5
Cond = Mapping[str, Any]


@dc.component
class MeanFlowLoss(dc.Loss):
    """|h(x_t, t, s) - sg(v - (t - s) dh/dt)|^2 with dh/dt = (d_x h) v + d_t h along the velocity v, for s <= t.

    (t - s) h(x_t, t, s) is the integral of the velocity from s to t; its derivative in t along the trajectory is the
    identity h = v - (t - s) dh/dt, whose right-hand side is the target, without gradient. v is the velocity of the sample,
    alpha' x_0 + sigma' eps: the target is linear in it, so its expectation given x_t has the marginal velocity. dh/dt is one
    forward derivative of the network with its input scaling and time embedding, tangents (v, 1, 0) in (x, t, s).

    Both times are drawn from the time law and put in order. A fraction `ratio` of the batch, spread evenly over it, keeps
    them apart and has the derivative computed; the rest is flow matching, s = t. With E the squared error, summed over the
    entries of a sample, the loss is E / sg(E + offset)^power. That weight falls with the sample's own error, so the minimiser
    is the posterior expectation only where E varies little around it, as for images; for a few entries take power 0.

    guidance w: v becomes w v + (1 - w) h(x_t, t, t; no condition) in the samples that keep their conditions, so that the
    network learns the guided field itself and is sampled without further guidance.

    Raises `IncompatibleError` where the model does not predict the velocity, or has no condition to guide by.
    """

    source: ClassVar[str] = "Geng et al. 2025, arXiv 2505.13447"
    items: ClassVar[tuple[str, ...]] = ("R16",)
    requires: ClassVar[frozenset[str]] = frozenset({"affine", "velocity", "flat"})
    predictions: ClassVar[tuple[str, ...]] = ("velocity",)
    second_time: ClassVar[bool] = True

    ratio: float = dc.param(default=0.25, ge=0, le=1, doc="fraction of samples with s < t; the rest is flow matching")
    time_law: dc.TimeLaw | None = dc.param(
        default=None, doc="law of the two times, drawn independently; where null logit(t / T) ~ N(-0.4, 1), as published"
    )
    power: float = dc.param(default=1.0, ge=0, le=10, doc="exponent of the adaptive weight; 0 is the plain squared error")
    offset: float = dc.param(default=1e-3, gt=0, le=1e6, doc="squared error below which the adaptive weight stops growing")
    drop: float = dc.param(default=0.1, ge=0, le=1, doc="probability of training a sample without its conditions")
    guidance: float = dc.param(
        default=1.0, ge=0, le=1000, doc="guidance built into the network; 1 is the plain conditional field"
    )

    def __call__(self, model: dc.Denoiser, x0: dc.State, draw: dc.Draw, **cond: Any) -> Tensor:
        """Losses [B] of data x0 (B, ...) under conditions name -> (B, ...); differentiable in the model's parameters."""
        null = self._checked(model, cond)
        t, s, apart = self.times(model.process, draw)
        noised = model.process.corrupt(x0, t, draw.fold(NOISE))
        x, at, end = noised.xt, noised.at, dc.Instant(s.to(noised.at.t.dtype))
        drop = draw.fold(DROP).uniform() < self.drop
        given = {**cond, **{k: torch.where(dc.expand(drop, v), v, cond[k]) for k, v in null.items()}}
        # the call with gradient comes first: autocast in older torch caches the weights it casts, gradient or not
        found = model.network(x, at, end, **given)
        with torch.no_grad():
            v = noised.target("velocity")
            if self.guidance != 1:
                v = self._guided(v, model.network(x, at, at, **{**cond, **null}), drop)
            goal = target(model, x, at, end, v, given, apart)
        return self._reduced(found, goal)

    def times(self, process: dc.Process, draw: dc.Draw) -> tuple[Tensor, Tensor, Tensor]:
        """t and s <= t, float64 [B], and the rows of the batch in which they differ."""
        law = self.time_law or _published
        first, second = law(process, draw.fold(FIRST_TIME)), law(process, draw.fold(SECOND_TIME))
        t, s = torch.maximum(first, second), torch.minimum(first, second)
        apart = torch.tensor(self._places(draw.fold(APART)), dtype=torch.int64).to(t.device)
        return t, t.index_copy(0, apart, s[apart]), apart

    def _places(self, draw: dc.Draw) -> list[int]:
        """The rows whose sample i has an integer in (u + i ratio, u + (i + 1) ratio]; u is shared by the whole batch."""
        u = draw.shared_uniform()
        return [k for k, i in enumerate(draw.ids) if math.floor(u + (i + 1) * self.ratio) > math.floor(u + i * self.ratio)]

    def _checked(self, model: dc.Denoiser, cond: Cond) -> dict[str, Tensor]:
        """The null value of every condition that has one, shaped like the condition."""
        if model.prediction != "velocity":
            raise dc.IncompatibleError(f"loss mean-flow trains a network that predicts the velocity, not '{model.prediction}'")
        null = {k: torch.as_tensor(model.null[k]).to(v).expand_as(v) for k, v in cond.items() if k in model.null}
        if self.guidance != 1 and not null:
            raise dc.IncompatibleError(
                f"loss mean-flow with guidance {self.guidance:g} needs data with a condition and a network with a null value for "
                f"it; set guidance: 1 for data without"
            )
        return null

    def _guided(self, v: dc.State, free: dc.State, drop: Tensor) -> dc.State:
        weight = torch.where(drop, 1.0, self.guidance)
        return dc.tree_map(lambda a, b: torch.lerp(b, a, dc.expand(weight.to(a.dtype), a)), v, free)

    def _reduced(self, found: dc.State, goal: dc.State) -> Tensor:
        pairs = zip(dc.leaves(found), dc.leaves(goal), strict=True)
        error = reduce(torch.add, [_square(a.to(b.dtype), b) for a, b in pairs])
        return error / (error.detach() + self.offset) ** self.power if self.power else error


def target(model: dc.Denoiser, x: dc.State, at: dc.Coeffs, end: dc.Instant, v: dc.State, cond: Cond, apart: Tensor) -> dc.State:
    """v - (t - s) dh/dt, the derivative computed in the rows `apart` only; v itself in the others, where s = t."""
    if not len(apart):
        return v
    few = [dc.tree_map(lambda a: a[apart], tree) for tree in (x, v)]
    slope = dc.along(model, few[0], at.at(apart), end.at(apart), few[1], **{k: c[apart] for k, c in cond.items()})[1]
    gap = (end.t - at.t)[apart]
    return dc.tree_map(lambda a, d: a.index_add(0, apart, dc.expand(gap, d) * d), v, slope)


def _square(found: Tensor, goal: Tensor) -> Tensor:
    return mse_loss(found, goal, reduction="none").flatten(1).sum(1)


def _published(process: dc.Process, draw: dc.Draw) -> Tensor:
    return (process.T * torch.sigmoid(draw.normal(dtype=torch.float64) - 0.4)).clamp_min(process.min_time)

"""A monotone network as the log-SNR of a variance-preserving process."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import diffcore as dc

STEEPNESS = 10.0
"""Slope of each sigmoid at first."""
Watch = Callable[[Tensor], Tensor]


def vp_coeffs(t: Tensor, gamma: Tensor, slope: Tensor) -> dc.Coeffs:
    """alpha = sqrt(sigmoid(-gamma)), sigma = sqrt(sigmoid(gamma)); slopes -gamma' alpha sigma^2 / 2, gamma' sigma alpha^2 / 2."""
    alpha, sigma = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
    return dc.Coeffs(t, alpha, sigma, -0.5 * slope * alpha * sigma**2, 0.5 * slope * sigma * alpha**2)


def in_time(gamma: Tensor, low: float, high: float) -> Tensor:
    """The time at which a linear schedule from low to high has this gamma, within [0, 1]."""
    return ((gamma - low) / (high - low)).clamp(0.0, 1.0)


def _free(value: float) -> float:
    """The number whose softplus is `value`."""
    return math.log(math.expm1(value))


class LearnedVDM(nn.Module, dc.AffineProcess):
    """See `VDM`. gamma = ends[0] + (ends[1] - ends[0]) n(t), where n rises from 0 to 1 and is computed in float64."""

    def __init__(self, low: float, high: float, width: int, learn_ends: bool, noise: dc.NoiseLaw) -> None:
        super().__init__()
        self.noise = noise  # pyright: ignore[reportAttributeAccessIssue]
        ends = torch.tensor([low, high])
        self.ends = nn.Parameter(ends) if learn_ends else nn.Buffer(ends)
        self.line = nn.Parameter(torch.tensor(_free(1.0)))
        self.heights = nn.Parameter(torch.full((width,), _free(1 / width)))
        self.slopes = nn.Parameter(torch.full((width,), _free(STEEPNESS)))
        self.middles = nn.Parameter((torch.arange(width) + 0.5) / width)

    def _raw(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """h(t) and h'(t)."""
        line, b, c = (softplus(p.double()) for p in (self.line, self.heights, self.slopes))
        soft = torch.sigmoid(c * (t[..., None] - self.middles.double()))
        return line * t + (b * soft).sum(-1), line + (b * c * soft * (1 - soft)).sum(-1)

    def normalised(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """n(t) and n'(t), float64, of the shape and on the device of t."""
        at = t.to(self.line.device, torch.float64)
        (value, slope), edges = self._raw(at), self._raw(at.new_tensor([0.0, 1.0]))[0]
        span = edges[1] - edges[0]
        return ((value - edges[0]) / span).to(t.device), (slope / span).to(t.device)

    def between(self, t: Tensor, share: Tensor, slope: Tensor) -> dc.Coeffs:
        """The coefficients where n = share and n' = slope, in the dtype of t."""
        low, high = self.ends.double().to(t.device)
        return vp_coeffs(t, low + (high - low) * share, (high - low) * slope).map(lambda v: v.to(t.dtype))

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """alpha, sigma and their derivatives, differentiable in the parameters."""
        return self.between(t, *self.normalised(t))

    def embed_time(self, t: Tensor) -> Tensor:
        """n(t): what the model's network is told of time."""
        return self.normalised(t)[0].to(t.dtype)

    @torch.no_grad()
    def prior(self, event: Any, draw: dc.Draw) -> dc.State:
        """N(0, sigma_T^2 C)."""
        return super().prior(event, draw)

    @torch.no_grad()
    def t_of_lam(self, lam: Tensor) -> Tensor:
        """By bisection."""
        return super().t_of_lam(lam)

    @torch.no_grad()
    def fingerprint(self) -> list[float]:
        """alpha and sigma at 8 times."""
        return super().fingerprint()

    def watched(self, watch: Watch) -> Watched:
        """This process with n and n' passed through `watch` on their way into every coefficient."""
        return Watched(self, watch)


class Watched(dc.AffineProcess):
    """A learned process whose normalised schedule can be followed, or its gradient changed."""

    def __init__(self, inner: LearnedVDM, watch: Watch) -> None:
        self.inner, self.watch = inner, watch

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """Those of the process."""
        share, slope = self.inner.normalised(t)
        return self.inner.between(t, self.watch(share), self.watch(slope))

    def embed_time(self, t: Tensor) -> Any:
        """That of the process."""
        return self.watch(self.inner.normalised(t)[0]).to(t.dtype)

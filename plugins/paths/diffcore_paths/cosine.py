"""Cosine: the schedule of improved DDPM in continuous time."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

import diffcore as dc


class _Arc(NamedTuple):
    """The angle runs over `span` from `first` at t = 0 and stops `rest` short of pi / 2 at t = 1."""

    first: float
    span: float
    rest: float


@dc.component
class Cosine(dc.AffineProcess):
    """alpha = cos(b) / cos(a), sigma^2 = 1 - alpha^2, the angle b even in t from b(0) = a = (pi / 2) s / (1 + s).

    With alpha_end = 0 the angle ends at pi / 2: b = (pi / 2) (t + s) / (1 + s), the published schedule with its exact
    end alpha(1) = 0. No signal is left there, so the predictions eps and score are refused; take v, velocity, x0, edm.

    With alpha_end > 0 the angle stops short, where alpha(1) = alpha_end, and every prediction is readable: the smooth
    counterpart of the published clipping of beta at 0.999, which leaves alpha = 4.9e-5 after a thousand steps.

    The offset s keeps the first noise levels from being too small. sigma(0) = 0 exactly and sigma'(0) = +inf (sigma
    grows like sqrt(t)). lam is inverted in closed form.

    Raises `SpecError` unless s > 0, 0 <= alpha_end < 1 and 0 < t_min < 1.
    """

    source: ClassVar[str] = "Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17; Lin et al. 2023, arXiv 2305.08891"

    s: float = dc.param(default=0.008, gt=0, le=1, doc="offset of the angle")
    alpha_end: float = dc.param(default=0.0, ge=0, lt=1, doc="alpha at t = 1; 0: pure noise, 4.9e-5: improved DDPM")
    t_min: float = dc.param(default=1e-3, gt=0, lt=1, doc="smallest time a network sees")

    @property
    def min_time(self) -> float:
        """`t_min`."""
        return self.t_min

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """alpha, sigma and their derivatives at times t of any shape, in the dtype of t."""
        arc, turned = self._arc(), self._arc().span * t
        norm = math.cos(arc.first)
        alpha = torch.sin(arc.rest + arc.span * (1 - t)) / norm
        # cos(a)^2 - cos(b)^2 = sin(b - a) sin(b + a): nothing cancels at t = 0
        sigma = (torch.sin(turned) * torch.sin(turned + 2 * arc.first)).sqrt() / norm
        dalpha = torch.sin(turned + arc.first) * (-arc.span / norm)
        return dc.Coeffs(t, alpha, sigma, dalpha, -alpha * dalpha / sigma)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """(b - a) / span with cos(b) = cos(a) / sqrt(1 + exp(-2 lam)); float64, at most 1."""
        lam = torch.as_tensor(lam, dtype=torch.float64)
        arc = self._arc()
        cos_a, sin_a = math.cos(arc.first), math.sin(arc.first)
        noise = torch.sigmoid(-2 * lam) * cos_a**2
        cos_b, sin_b = cos_a * torch.sigmoid(2 * lam).sqrt(), (sin_a**2 + noise).sqrt()
        # sin(b - a) = (sin(b)^2 - sin(a)^2) / sin(b + a): nothing cancels at t = 0
        turned = torch.atan2(noise / (sin_b * cos_a + cos_b * sin_a), cos_b * cos_a + sin_b * sin_a)
        return (turned / arc.span).clamp(max=1.0)

    def _arc(self) -> _Arc:
        first = 0.5 * math.pi * self.s / (1 + self.s)
        rest = math.asin(self.alpha_end * math.cos(first))
        return _Arc(first, 0.5 * math.pi - first - rest, rest)

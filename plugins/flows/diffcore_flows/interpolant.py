"""The stochastic interpolant between data and Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class Interpolant(dc.AffineProcess):
    """x_t = a(t) x_0 + b(t) x_1 + gamma(t) z with x_1 ~ N(0, I) the source, z ~ N(0, I) latent noise, gamma^2 = g t (1 - t).

    a, b = 1 - t, t (linear) or cos(pi t / 2), sin(pi t / 2) (trig). As x_1 and z are independent of each other and of x_0, this
    is in law one-sided, x_t = a x_0 + sigma eps with sigma^2 = b^2 + gamma^2, and its velocity
    E[a' x_0 + b' x_1 + gamma' z | x_t] is a' E[x_0|x_t] + sigma' E[eps|x_t]. g = 0 is flow matching.

    For g > 0, sigma ~ sqrt(g t) near the data, as in a diffusion: sigma' is infinite at t = 0 and min_time must be positive.
    The velocity is bounded where the data has a density, and samples end with noise of deviation sigma(min_time) where the
    solver stops there.

    Raises `SpecError` for g > 2, where sigma would exceed its end on the linear path.
    """

    source: ClassVar[str] = "Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797, definition 1, section 4 and appendix A"
    items: ClassVar[tuple[str, ...]] = ("5.11", "5.12")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"path": "trig"}, {"g": 0.0}, {"path": "trig", "g": 0.0}, {"g": 2.0})

    path: Literal["linear", "trig"] = dc.param(default="linear", doc="the deterministic part: a line, or a quarter circle")
    g: float = dc.param(default=0.5, ge=0, le=2, doc="size of the latent noise: gamma^2 = g t (1 - t)")
    t_min: float = dc.param(default=1e-3, gt=0, lt=1, doc="smallest time a network sees")

    @property
    def min_time(self) -> float:
        """`t_min`."""
        return self.t_min

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """a, sigma and their derivatives at times t of any shape, in the dtype of t; sigma' is inf at t = 0 for g > 0."""
        a, b, da, db = _circle(t) if self.path == "trig" else (1 - t, t, -torch.ones_like(t), torch.ones_like(t))
        sigma = (b**2 + self.g * t * (1 - t)).sqrt()
        half = b * db + self.g * (0.5 - t)
        dsigma = torch.where(sigma > 0, half / sigma, torch.full_like(t, math.inf) if self.g else db)
        return dc.Coeffs(t, a, sigma, da, dsigma)


def _circle(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """cos, sin and their derivatives at pi t / 2; cos is exactly 0 at t = 1."""
    w = math.pi / 2
    cosine, sine = torch.sin(w * (1 - t)), torch.sin(w * t)
    return cosine, sine, -w * sine, w * cosine

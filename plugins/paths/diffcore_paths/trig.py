"""Trig: the quarter circle from data to noise."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class Trig(dc.AffineProcess):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2), t in [0, 1], so alpha^2 + sigma^2 = 1.

    The velocity is (pi / 2) (alpha eps - sigma x_0), Salimans and Ho's v up to the factor. lam = -log tan(pi t / 2).

    Both ends are exact: alpha(1) = 0 leaves no signal, so the predictions eps and score are refused; take v, velocity,
    x0 or edm.

    Raises `SpecError` for a `t_min` outside [0, 1).
    """

    source: ClassVar[str] = "Albergo and Vanden-Eijnden 2022, arXiv 2209.15571; Salimans and Ho 2022, arXiv 2202.00512"
    items: ClassVar[tuple[str, ...]] = ("5.13",)

    t_min: float = dc.param(default=1e-3, ge=0, lt=1, doc="smallest time a network sees")

    @property
    def min_time(self) -> float:
        """`t_min`."""
        return self.t_min

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """alpha, sigma and their derivatives at times t of any shape, in the dtype of t."""
        quarter = math.pi / 2
        # the sine of the rest of the angle: exact 0 at t = 1, and full relative accuracy before it
        alpha, sigma = torch.sin(quarter * (1 - t)), torch.sin(quarter * t)
        return dc.Coeffs(t, alpha, sigma, -quarter * sigma, quarter * alpha)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """(2 / pi) atan(exp(-lam)), float64."""
        return torch.atan(torch.exp(-torch.as_tensor(lam, dtype=torch.float64))) * (2 / math.pi)

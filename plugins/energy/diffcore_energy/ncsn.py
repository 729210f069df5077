"""The noise ladder of NCSN as a process."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class NCSN(dc.AffineProcess):
    """x_t = x_0 + sigma_t eps on a ladder of L levels. Time is the number of the level: t = 1 is the least noise, T = L the most,

        sigma_t = sigma_min (sigma_max / sigma_min)^((t - 1) / (L - 1))   for t in [1, L],   sigma_min t   for t in [0, 1].

    The last rung leads straight to clean data at t = 0, where no network is trained or evaluated (min_time = 1); alpha = 1, and
    sigma' jumps at t = 1. The prior is N(0, sigma_max^2 I), so sigma_max should exceed the largest distance in the data.
    lam = -log sigma is inverted in closed form. The default grid of N steps has N geometric levels and then t = 0: with N = L
    it is L, L - 1, ..., 1, 0.

    Raises `SpecError` unless 0 < sigma_min < sigma_max.
    """

    source: ClassVar[str] = "Song and Ermon 2019, arXiv 1907.05600; 2020, arXiv 2006.09011, for sigma_max"
    items: ClassVar[tuple[str, ...]] = ("3.14",)

    levels: int = dc.param(default=10, ge=2, le=10_000, doc="number of noise levels L")
    sigma_min: float = dc.param(default=0.01, gt=0, le=1e6, doc="least noise level", unit="data")
    sigma_max: float = dc.param(default=1.0, gt=0, le=1e6, doc="largest noise level", unit="data")

    def __attrs_post_init__(self) -> None:
        if not self.sigma_max > self.sigma_min:
            raise dc.SpecError(f"'sigma_max' of NCSN must be > sigma_min = {self.sigma_min}; got {self.sigma_max}")

    @property
    def T(self) -> float:
        """L."""
        return float(self.levels)

    @property
    def min_time(self) -> float:
        """1, the last level."""
        return 1.0

    @property
    def ratio(self) -> float:
        """The logarithm of the ratio of neighbouring levels."""
        return math.log(self.sigma_max / self.sigma_min) / (self.levels - 1)

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """alpha, sigma and their derivatives at times t of any shape, in the dtype of t."""
        rung = self.sigma_min * torch.exp(self.ratio * (t - 1))
        sigma = torch.where(t >= 1, rung, self.sigma_min * t)
        slope = torch.where(t >= 1, self.ratio * rung, self.sigma_min)
        return dc.Coeffs(t, torch.ones_like(t), sigma, torch.zeros_like(t), slope)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """1 + log(sigma / sigma_min) / ratio, or sigma / sigma_min below it, with sigma = exp(-lam); float64, at most L."""
        depth = -torch.as_tensor(lam, dtype=torch.float64) - math.log(self.sigma_min)
        return torch.where(depth >= 0, 1 + depth / self.ratio, depth.exp()).clamp(max=self.T)

    def default_grid(self, steps: int, start: float) -> Tensor:
        """`steps` times uniform from `start` to 1, then 0; from a start below 1, uniform to 0."""
        if start <= 1:
            return dc.Process.default_grid(self, steps, start)
        rungs = torch.linspace(start, 1.0, steps, dtype=torch.float64)
        return torch.cat([rungs, torch.zeros(1, dtype=torch.float64)])

"""VE: the variance-exploding path with a geometric noise level."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class VE(dc.AffineProcess):
    """Variance-exploding diffusion dx = g dw, t in [0, 1], whose noise level grows geometrically.

    With s(t) = sigma_min (sigma_max/sigma_min)^t and L = log(sigma_max/sigma_min): g = s sqrt(2 L), and the kernel is
    alpha = 1, sigma^2 = s(t)^2 - s(0)^2 = sigma_min^2 (exp(2 L t) - 1).

    The subtraction is what the SDE says: t = 0 is clean data, sigma(0) = 0 exactly, and the prior is
    N(0, sigma_max^2 - sigma_min^2). Code that leaves it out, sigma = s(t), starts from data blurred by sigma_min; to
    read a network trained so, go by the noise level: `t_of_lam(-log s)` is the time of this process at which sigma = s.

    lam = -log sigma is inverted in closed form. At t = 0 sigma' is +inf (sigma grows like sqrt(t)).

    Raises `SpecError` unless 0 < sigma_min < sigma_max and 0 < t_min < 1.
    """

    source: ClassVar[str] = "Song et al. 2021, arXiv 2011.13456, eqs. 9 and 29"
    items: ClassVar[tuple[str, ...]] = ("4.01", "4.11", "5.13")

    sigma_min: float = dc.param(default=0.01, gt=0, le=1e6, doc="s at t = 0, the foot of the progression", unit="data")
    sigma_max: float = dc.param(default=50.0, gt=0, le=1e6, doc="s at t = 1, about the extent of the data", unit="data")
    t_min: float = dc.param(default=1e-5, gt=0, lt=1, doc="smallest time a network sees")

    def __attrs_post_init__(self) -> None:
        if not self.sigma_max > self.sigma_min:
            raise dc.SpecError(f"'sigma_max' of VE must be > sigma_min = {self.sigma_min}; got {self.sigma_max}")

    @property
    def min_time(self) -> float:
        """`t_min`."""
        return self.t_min

    @property
    def log_ratio(self) -> float:
        """L = log(sigma_max / sigma_min)."""
        return math.log(self.sigma_max / self.sigma_min)

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """alpha, sigma and their derivatives at times t of any shape, in the dtype of t."""
        sigma = self.sigma_min * torch.expm1(2 * self.log_ratio * t).sqrt()
        dsigma = self.log_ratio * (sigma**2 + self.sigma_min**2) / sigma
        return dc.Coeffs(t, torch.ones_like(t), sigma, torch.zeros_like(t), dsigma)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """log(1 + exp(-2 lam) / sigma_min^2) / (2 L); float64, at most 1."""
        lam = torch.as_tensor(lam, dtype=torch.float64)
        log_ratio = torch.logaddexp(-2 * (lam + math.log(self.sigma_min)), torch.zeros_like(lam))
        return (log_ratio / (2 * self.log_ratio)).clamp(max=1.0)

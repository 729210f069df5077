"""VP: the variance-preserving path with a linear beta."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_paths.linear_beta import LinearBeta


@dc.component
class VP(LinearBeta):
    """Variance-preserving diffusion dx = -beta/2 x dt + sqrt(beta) dw, t in [0, 1], beta linear in t.

    alpha = exp(-B/2), sigma^2 = 1 - exp(-B), B(t) = beta_min t + (beta_max - beta_min) t^2 / 2: alpha^2 + sigma^2 = 1.
    lam = -log(expm1(B)) / 2 is inverted in closed form. alpha(1) = 6.6e-3 by default, so every prediction is readable.

    At t = 0 sigma is exactly 0 and sigma' is +inf (sigma grows like sqrt(t)); a network is not asked below `t_min`.

    Raises `SpecError` for rates that are not positive or a `t_min` outside (0, 1).
    """

    source: ClassVar[str] = "Song et al. 2021, arXiv 2011.13456, eqs. 11 and 29; Ho et al. 2020, arXiv 2006.11239"
    items: ClassVar[tuple[str, ...]] = ("4.01", "4.12", "5.13")

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """alpha, sigma and their derivatives at times t of any shape, in the dtype of t."""
        integral, rate = self.integral(t), self.rate(t)
        alpha, sigma = torch.exp(-0.5 * integral), (-torch.expm1(-integral)).sqrt()
        return dc.Coeffs(t, alpha, sigma, -0.5 * rate * alpha, 0.5 * rate * alpha**2 / sigma)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """B = log(1 + exp(-2 lam)), then the root of the quadratic B(t); float64, at most 1."""
        lam = torch.as_tensor(lam, dtype=torch.float64)
        return self.time_at(torch.logaddexp(-2 * lam, torch.zeros_like(lam)))

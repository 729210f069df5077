"""Sub-VP: the mean of VP with a smaller variance."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_paths.linear_beta import LinearBeta


@dc.component
class SubVP(LinearBeta):
    """Sub-VP diffusion dx = -beta/2 x dt + sqrt(beta (1 - exp(-2B))) dw, t in [0, 1], beta linear in t.

    alpha = exp(-B/2), sigma = 1 - exp(-B), B(t) = beta_min t + (beta_max - beta_min) t^2 / 2: the mean of VP, and a
    variance that is the square of VP's, hence smaller at every time. lam = -log(2 sinh(B/2)) is inverted exactly.

    sigma(0) = 0 exactly and sigma'(0) = beta_min is finite.

    Raises `SpecError` for rates that are not positive or a `t_min` outside (0, 1).
    """

    source: ClassVar[str] = "Song et al. 2021, arXiv 2011.13456, eqs. 12 and 29"
    items: ClassVar[tuple[str, ...]] = ("4.01", "4.13")

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """alpha, sigma and their derivatives at times t of any shape, in the dtype of t."""
        integral, rate = self.integral(t), self.rate(t)
        alpha = torch.exp(-0.5 * integral)
        return dc.Coeffs(t, alpha, -torch.expm1(-integral), -0.5 * rate * alpha, rate * alpha**2)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """B = 2 asinh(exp(-lam) / 2), then the root of the quadratic B(t); float64, at most 1."""
        lam = torch.as_tensor(lam, dtype=torch.float64)
        return self.time_at(2 * torch.asinh(0.5 * torch.exp(-lam)))

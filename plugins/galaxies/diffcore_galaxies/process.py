"""The process that the pretrained models were trained under."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class GalaxyVP(dc.AffineProcess):
    """dx = -x/2 dt + dw for t in [0, 10]: alpha = exp(-t/2), sigma^2 = 1 - exp(-t), alpha(10) = 6.7e-3.

    The network gets x as it is, whatever `sigma_data`, and t / 10. lam = -log(expm1(t)) / 2 is inverted in closed form. The
    path is that of a variance-preserving process with constant rate 10 on [0, 1]; here t is the time of the original.

    sigma'(0) is +inf (sigma grows like sqrt(t)); a network is not asked below `t_min`.

    Raises `SpecError` for a `t_min` outside (0, 10).
    """

    source: ClassVar[str] = "Sampson et al. 2024, arXiv 2401.07313, section 3; Song et al. 2021, arXiv 2011.13456, eq. 11"

    t_min: float = dc.param(default=0.01, gt=0, lt=10, doc="smallest time a network sees")

    @property
    def T(self) -> float:
        """10."""
        return 10.0

    @property
    def min_time(self) -> float:
        """`t_min`."""
        return self.t_min

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """alpha, sigma and their derivatives at times t of any shape, in the dtype of t."""
        alpha, sigma = torch.exp(-0.5 * t), (-torch.expm1(-t)).sqrt()
        return dc.Coeffs(t, alpha, sigma, -0.5 * alpha, 0.5 * alpha**2 / sigma)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """log(1 + exp(-2 lam)), float64, at most 10."""
        lam = torch.as_tensor(lam, dtype=torch.float64)
        return torch.logaddexp(-2 * lam, torch.zeros_like(lam)).clamp(max=self.T)

    def scale_input(self, x: dc.State, at: dc.Coeffs, sigma_data: float) -> dc.State:
        """x: the pretrained networks want the state as it is."""
        return x

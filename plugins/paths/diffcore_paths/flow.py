"""Flow: the straight line from data to noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class Flow(dc.AffineProcess):
    """x_t = (1 - t) x_0 + t eps, t in [0, 1], data at t = 0: rectified flow, or flow matching with the linear path.

    Its velocity eps - x_0 does not depend on t for a given pair. Papers that put the data at t = 1 use 1 - t, and the
    opposite sign of the velocity. lam = log((1 - t)/t).

    Both ends are exact: alpha(1) = 0 leaves no signal, so the predictions eps and score are refused; take velocity, v,
    x0 or edm. As an SDE the drift -x/(1 - t) is infinite at t = 1, the velocity is not.

    Raises `SpecError` for a `t_min` outside [0, 1).
    """

    source: ClassVar[str] = (
        "Liu et al. 2022, arXiv 2209.03003, eq. 1; Lipman et al. 2022, arXiv 2210.02747, eq. 20 with sigma_min = 0"
    )
    items: ClassVar[tuple[str, ...]] = ("5.11", "5.13")

    t_min: float = dc.param(default=1e-3, ge=0, lt=1, doc="smallest time a network sees")

    @property
    def min_time(self) -> float:
        """`t_min`."""
        return self.t_min

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """alpha, sigma and their derivatives at times t of any shape, in the dtype of t."""
        one = torch.ones_like(t)
        return dc.Coeffs(t, 1 - t, t, -one, one)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """1 / (1 + exp(lam)), float64."""
        return torch.sigmoid(-torch.as_tensor(lam, dtype=torch.float64))

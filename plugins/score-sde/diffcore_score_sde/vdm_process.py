"""The process of variational diffusion models: variance preserving, its log-SNR a learned function of time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc
from diffcore_score_sde.monotone import LearnedVDM, in_time, vp_coeffs


@dc.component
class VDM(dc.AffineProcess):
    """alpha^2 = sigmoid(-gamma), sigma^2 = sigmoid(gamma), gamma(t) = -log SNR rising from gamma_min (t = 0) to gamma_max (1).

    schedule = "linear": gamma linear in t. "network": gamma = gamma_min + (gamma_max - gamma_min) (h(t) - h(0)) / (h(1) - h(0))
    with h(t) = a t + sum_k b_k sigmoid(c_k (t - m_k)), a, b, c > 0: a monotone perceptron with parameters of its own, about
    linear at first. The network of the model is told gamma, scaled to [0, 1], not t: so what it learns does not depend on the
    schedule. The continuous-time bound depends on the schedule only through gamma_min and gamma_max (`learn_ends`), and its
    variance on all of it (loss `vdm`). Other losses would learn whatever schedule makes them small: train it with `vdm` only.

    Raises `SpecError` unless gamma_min < gamma_max.
    """

    source: ClassVar[str] = "Kingma et al. 2021, arXiv 2107.00630, equations 2 to 4 and appendix H"
    items: ClassVar[tuple[str, ...]] = ("4.17",)
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"schedule": "network"},)

    schedule: Literal["linear", "network"] = dc.param(default="linear", doc="gamma linear in t, or a monotone network")
    gamma_min: float = dc.param(default=-13.3, ge=-100, le=100, doc="-log SNR at t = 0")
    gamma_max: float = dc.param(default=5.0, ge=-100, le=100, doc="-log SNR at t = 1")
    learn_ends: bool = dc.param(default=False, doc="learn gamma_min and gamma_max as well, from these values")
    width: int = dc.param(default=64, ge=1, le=65_536, doc="sigmoids of the monotone network")

    def __attrs_post_init__(self) -> None:
        """Refuse ends in the wrong order, and learned ends of a schedule that has no parameters."""
        if not self.gamma_min < self.gamma_max:
            raise dc.SpecError(f"vdm needs gamma_min < gamma_max; got {self.gamma_min:g} and {self.gamma_max:g}")
        if self.learn_ends and self.schedule == "linear":
            raise dc.SpecError("'learn_ends' needs parameters: set schedule to 'network', or learn_ends to false")

    def build(self) -> Any:
        """This process where gamma is linear, else the module that learns it."""
        if self.schedule == "linear":
            return self
        return LearnedVDM(self.gamma_min, self.gamma_max, self.width, self.learn_ends, self.noise)

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """alpha, sigma and their derivatives at times t of any shape: of the schedule before it has learnt, taken as linear."""
        span = self.gamma_max - self.gamma_min
        return vp_coeffs(t, self.gamma_min + span * t, torch.full_like(t, span))

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """(-2 lam - gamma_min) / (gamma_max - gamma_min), within [0, 1]."""
        return in_time(-2 * torch.as_tensor(lam, dtype=torch.float64), self.gamma_min, self.gamma_max)

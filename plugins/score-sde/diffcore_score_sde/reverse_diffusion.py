"""The reverse diffusion sampler: the reverse SDE discretised as the forward kernel is."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class ReverseDiffusion(dc.Stepper):
    """The forward kernel x_t = a x_s + b w, a = alpha_t / alpha_s, b^2 = sigma_t^2 - a^2 sigma_s^2, read as a step of drift
    f = (a - 1) x and diffusion b, gives the reverse step x_s = x_t - f + b^2 score + b z:

        x_s = (2 - a) x_t + b^2 score(x_t, t) + b z,    score = (alpha_t x* - x_t) / sigma_t^2.

    For VP with beta_i = 1 - a^2 this is (2 - sqrt(1 - beta_i)) x + beta_i score + sqrt(beta_i) z, for VE x + (sigma_t^2 -
    sigma_s^2) (score) + sqrt(sigma_t^2 - sigma_s^2) z. Weak order 1, one evaluation a step. From pure noise (alpha_t = 0), where
    the kernel has no memory, and to sigma_s = 0 the step is x_s = alpha_s x* + sigma_s z, so the last step only denoises.

    Raises `IncompatibleError` for a process that shifts its mean.
    """

    source: ClassVar[str] = "Song et al. 2021, arXiv 2011.13456, equation 46 (appendix E)"
    items: ClassVar[tuple[str, ...]] = ("4.22",)
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    additive_noise: ClassVar[bool] = True

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `gain`, `noise`: the weights of x_t, x* and z."""
        t, s = dc.centred_pairs(process, grid)
        a = t.alpha / s.alpha
        variance = (t.sigma**2 - (a * s.sigma) ** 2).clamp_min(0.0)
        share = variance / t.sigma**2
        jump, still = t.pure_noise | (s.sigma == 0), t.t == s.t

        def weight(inner: Tensor, at_jump: Tensor | float, at_rest: float) -> Tensor:
            return torch.where(still, at_rest, torch.where(jump, at_jump, inner))

        keep, gain = weight(2 - a - share, 0.0, 1.0), weight(t.alpha * share, s.alpha, 0.0)
        return dc.Plan(t=t, keep=keep, gain=gain, noise=weight(variance**0.5, s.sigma, 0.0))

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """One step of the planned weights."""
        return dc.Moved(field.posterior(x, row.t).blend(row.keep, row.gain, (row.noise, z), out=row.out))

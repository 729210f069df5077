"""Euler-Maruyama on the reverse-time SDE."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class EulerMaruyama(dc.Stepper):
    """With f = alpha' / alpha, g^2 = -2 sigma^2 lam' and D = t - s, the reverse SDE dx = (f x - g^2 score) dt + g dw gives

        x_s = x_t - D (f x_t - g^2 score) + g sqrt(D) z = (1 - D (f - 2 lam')) x_t - 2 D lam' alpha_t x* + g sqrt(D) z.

    Weak order 1, one evaluation a step. The drift is infinite at pure noise (alpha_t = 0), and a step to sigma_s = 0 would
    add noise that is never removed; there the step is the limit of the ancestral kernel, x_s = alpha_s x* + sigma_s z.
    """

    source: ClassVar[str] = "Anderson 1982; Song et al. 2021, arXiv 2011.13456, equation 6"
    items: ClassVar[tuple[str, ...]] = ("4.03", "4.07", "A4")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    additive_noise: ClassVar[bool] = True

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `gain`, `noise`: the weights of x_t, x* and z."""
        t, s = dc.centred_pairs(process, grid)
        length, rate = t.t - s.t, -t.dlam
        jump, still = t.pure_noise | (s.sigma == 0), length == 0

        def weight(inner: Tensor, at_jump: Tensor, at_rest: float) -> Tensor:
            return torch.where(still, at_rest, torch.where(jump, at_jump, inner))

        keep = weight(1 - length * (t.dalpha / t.alpha + 2 * rate), torch.zeros_like(length), 1.0)
        gain = weight(2 * length * rate * t.alpha, s.alpha, 0.0)
        return dc.Plan(t=t, keep=keep, gain=gain, noise=weight(t.sigma * (2 * length * rate) ** 0.5, s.sigma, 0.0))

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """One step of the planned weights."""
        return dc.Moved(field.posterior(x, row.t).blend(row.keep, row.gain, (row.noise, z), out=row.out))

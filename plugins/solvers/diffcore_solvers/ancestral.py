"""Ancestral sampling with the reverse kernel of any process."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

import diffcore as dc


@dc.component
class Ancestral(dc.Stepper):
    """x_s ~ p(x_s | x_t, x_0 = x*), the process's own reverse kernel (capability "reverse"). One evaluation a step.

    For an affine process, with e^-2h = (alpha_t sigma_s / (alpha_s sigma_t))^2 and x* = E[x_0 | x_t],

        x_s ~ N((alpha_t / alpha_s)(sigma_s / sigma_t)^2 x_t + alpha_s (1 - e^-2h) x*,  sigma_s^2 (1 - e^-2h) I),

    which is DDPM's sampler on a DDPM grid. The step to sigma_s = 0 draws no noise. Works for tokens and trees as well.
    """

    source: ClassVar[str] = "Ho et al. 2020, arXiv 2006.11239; Kingma et al. 2021, arXiv 2107.00630, equation 33"
    items: ClassVar[tuple[str, ...]] = ("2.15", "4.16", "4.18")
    requires: ClassVar[frozenset[str]] = frozenset({"reverse"})
    additive_noise: ClassVar[bool] = True

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """Only the two times of each step; the process knows its kernel."""
        t, s = process.pairs(grid)
        return dc.Plan(t=t, s=s, noise=process.reverse_noise(t, s))

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """A draw from the reverse kernel."""
        return dc.Moved(field.reverse(x, row.t, row.s, z))

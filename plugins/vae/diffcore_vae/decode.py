"""Sampling a VAE."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

import diffcore as dc


@dc.component
class Decode(dc.Stepper):
    """x_0 = E[x | z_1], z_1 made of the noise at T from the top level down: one call of the network, no further noise."""

    source: ClassVar[str] = "Kingma and Welling 2014, arXiv 1312.6114"
    requires: ClassVar[frozenset[str]] = frozenset({"latents"})

    steps: int = dc.param(default=1, ge=1, le=1, doc="one jump")

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """The time T."""
        return dc.Plan(t=process.pairs(grid)[0])

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """The decoder's mean."""
        return dc.Moved(field.posterior(x, row.t).mean)

"""How far the paths of a flow are from straight lines."""

from __future__ import annotations

from typing import ClassVar

import torch

import diffcore as dc

from .paths import measured, sampled


@dc.component
class Straightness(dc.Metric):
    """`straightness`: S = int_0^1 E |(Z_1 - Z_0) - dZ/du|^2 du over the paths Z of the flow, u = time from 0 (data) to 1 (noise).

    In squared units of the state, summed over entries; 0 where one Euler step is exact. `relative-straightness` divides by the
    mean squared chord E|Z_1 - Z_0|^2, so flows of different sizes compare. Paths start from fresh noise, under the guidance
    and the conditions of the evaluated samples, and are integrated by Runge-Kutta, whatever solver made the samples.

    Raises `DataError` without a field, and `IncompatibleError` for a process without a velocity in flat space.
    """

    source: ClassVar[str] = "Liu et al. 2022, arXiv 2209.03003, section 2.2; Lai et al. 2025, arXiv 2510.21890, chapter 5"
    items: ClassVar[tuple[str, ...]] = ("5.15", "5.19")
    of_samples: ClassVar[bool] = False
    requires: ClassVar[frozenset[str]] = frozenset({"velocity", "flat"})

    count: int = dc.param(default=512, ge=2, le=10_000_000, doc="paths, at most as many as there are evaluated samples")
    steps: int = dc.param(default=16, ge=1, le=100_000, doc="pairs of Runge-Kutta steps along a path, four evaluations each step")
    seed: int = dc.param(default=0, ge=0, doc="seed of the noise the paths start from")

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """The two numbers."""
        paths = sampled(ev, self.count, self.seed, 2 * self.steps)
        chord = float(torch.mean((paths.noise - paths.data).double().square().flatten(1).sum(1)))
        return {
            "straightness": measured(paths.bend, "straight lines"),
            "relative-straightness": measured(paths.bend / chord, "straight lines, by the mean squared chord"),
        }

"""Solvers that choose their own steps between the times of a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_edm_solvers.journey import Journey
from diffcore_edm_solvers.variable import Variable, refuse


@dc.component
class Continuous(dc.Program):
    """From each time of the grid to the next by steps that the solver chooses; a frame at each. `steps` = 1: from start to end.

    Where the ODE is singular, at sigma = 0 and, in sigma and lam, at alpha = 0, the last (first) step is one with x* frozen, from
    (to) the level at which sigma / alpha (alpha / sigma) is `jump`: an error of the size of jump^2 in units of the data.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    both_ways: ClassVar[bool] = True

    steps: int = dc.param(
        default=1, ge=1, le=100_000, doc="stretches of the time grid; the run stops at the end of each, with a frame"
    )
    variable: Variable = dc.param(default="t", doc="what is integrated over: t, sigma (sigma / alpha), lam, or the angle")
    rtol: float = dc.param(default=1e-4, ge=0, le=1, doc="error of a step allowed relative to the state")
    atol: float = dc.param(default=1e-4, gt=0, le=1000, doc="error of a step allowed beside that, in units of the state")
    jump: float = dc.param(default=0.002, gt=0, lt=1, doc="sigma / alpha (or alpha / sigma) at which the ends are bridged")

    def journey(self, field: dc.Field, x: dc.State, t: Tensor) -> Journey:
        """The samples at their start."""
        raise NotImplementedError

    def shown(self, journey: Any) -> Any:
        """What a frame shows beside the state."""
        return None

    def frames(self, field: dc.Field, x: dc.State, grid: Tensor, draw: dc.Draw) -> Iterator[dc.Frame]:
        """The start, then a frame at every time of the grid, all samples at that time."""
        leaf = dc.leaves(x)[0]
        nodes = self._nodes(field.process, grid.to(leaf.device), leaf.shape[0])
        journey = self.journey(field, x, nodes[0])
        times = grid.tolist() if grid.ndim == 1 else list(grid)
        yield dc.Frame(0, times[0], x, own=self.shown(journey))
        for i in range(1, len(nodes)):
            self._stretch(field.process, journey, nodes[i - 1], nodes[i])
            yield dc.Frame(i, times[i], journey.x, own=self.shown(journey))

    def _nodes(self, process: dc.Process, grid: Tensor, size: int) -> Tensor:
        """A time per sample, [N + 1, B]."""
        if grid.ndim > 2 or (grid.ndim == 2 and grid.shape[1] != size):
            raise dc.SpecError(f"{type(self).__name__} has one time per sample; it takes no grid of shape {tuple(grid.shape)}")
        first, second = process.coeffs(grid[0]), grid[1]
        refuse(process, first, rising_from_data=bool(((first.sigma == 0) & (second > first.t)).any()))
        return grid[:, None].expand(-1, size) if grid.ndim == 1 else grid

    def _stretch(self, process: dc.Process, journey: Journey, first: Tensor, last: Tensor) -> None:
        """Jump off a singular end, walk, jump to a singular end."""
        low, high = torch.minimum(first, last), torch.maximum(first, last)
        inner = [torch.minimum(torch.maximum(self._regular(process, t), low), high) for t in (first, last)]
        journey.jump(inner[0])
        journey.walk(inner[1])
        journey.jump(last)

    def _regular(self, process: dc.Process, t: Tensor) -> Tensor:
        """The time at or next to t at which the slope in the variable is finite."""
        c, level = process.coeffs(t), -math.log(self.jump)
        data, noise = c.sigma == 0, c.pure_noise & (self.variable in ("sigma", "lam"))
        lam = torch.where(data, level, -level).to(t)
        return torch.where(data | noise, process.t_of_lam(lam), t)

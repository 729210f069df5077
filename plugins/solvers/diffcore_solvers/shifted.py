"""A grid moved towards noise."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

import diffcore as dc
from diffcore_solvers.uniform import Uniform


@dc.component
class Shifted(dc.Grid):
    """t' / T = k u / (1 + (k - 1) u), u = t / T, of the times of another grid. 0 and T stay, and so does the start.

    k > 1 takes more steps near noise, as large images need. The warp is applied here and nowhere else.
    """

    source: ClassVar[str] = "Esser et al. 2024, arXiv 2403.03206, equation 23"
    items: ClassVar[tuple[str, ...]] = ("9.13", "R26")

    shift: float = dc.param(default=3.0, gt=0, le=1e6, doc="k; 1 changes nothing")
    grid: dc.Grid | None = dc.param(default=None, doc="the grid that is warped; uniform in t where none is named")

    def nodes(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """The N + 1 times. Raises `IncompatibleError` where the inner grid does not fit the process."""
        grid = Uniform() if self.grid is None else self.grid
        missing = grid.requires - process.provides
        if missing:
            raise dc.IncompatibleError(
                f"grid {type(grid).__name__} needs {', '.join(sorted(missing))}, which {type(process).__name__} lacks"
            )
        top = process.T
        unwarped = min(top, top * _warp(start / top, 1 / self.shift))
        nodes = top * _warp(grid.nodes(process, steps, unwarped) / top, self.shift)
        nodes[0] = start
        return nodes


def _warp(u: Any, k: float) -> Any:
    return k * u / (1 + (k - 1) * u)

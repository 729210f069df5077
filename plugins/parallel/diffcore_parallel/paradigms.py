"""ParaDiGMs: the states of many steps found at once, as the fixed point of a Picard iteration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc
from diffcore_parallel.drift import Drift
from diffcore_parallel.moves import Steps
from diffcore_parallel.ranks import Ranks
from diffcore_parallel.window import Window

PATIENCE = 20
"""Sweeps per step after which a trapezoidal rule that does not settle is given up, where `max_sweeps` says nothing."""


@dc.component
class Paradigms(dc.Program):
    """With step(x, i) the i-th step of a sequential solver, x_(i+1) = step(x_i, i), the states of `window` steps from the last
    final node l on are found together, by sweeps of one batched evaluation each:

        X_j <- X_l + sum_(i=l)^(j-1) (step(X_i, i) - X_i),    j = l + 1 ... min(l + window, N).

    Then l moves to the first j with |change of X_j|^2 / D > (tolerance sigma_j)^2, or to the end of the window where there is
    none; new nodes start at the last known state. (sigma_j: noise level of the node, 1 for a process without one.)

    The fixed point is the sequential run, and node j is exact after j sweeps at the latest, so at most N sweeps are made, and
    with tolerance 0 the samples equal the sequential ones up to rounding. The noise of step i is drawn once and kept, so that
    stochastic solvers have the path of their sequential run.

    of: any solver without history. Without it, the drift dx/dt = v of the probability-flow ODE by `rule`: left is Euler's method,
    trapezoid x_(i+1) = x_i + dt (v(x_i) + v(x_(i+1))) / 2, an implicit method of second order at one evaluation per node and
    sweep (a step to sigma = 0 is a left one). It is only reached as a limit: its tolerance must be > 0, a node is final when
    it has stopped to move, and the iteration must contract, |dt| |dv/dx| < 2.

    Every sample has a window of its own and depends on no other. Memory: min(2 window, N) + 1 states per sample, a few windows
    more in a sweep, and what the network needs for a batch of window x samples. Frames are those of the grid; their `own` is the
    number of sweeps that every sample has taken so far, [B], and their `calls` are the parallel ones.

    share_window: under torch.distributed each process evaluates a part of every window; all must call with the same samples.

    Raises `SpecError` for a solver with a grid, history or a loop of its own, per-sample grids, and processes that run
    different samples; `IncompatibleError` for integer states; `NumericsError` after `max_sweeps` sweeps of a sample.
    """

    source: ClassVar[str] = "Shih, Belkhale, Ermon, Sadigh and Anari 2023, arXiv 2305.16317, algorithm 1"
    items: ClassVar[tuple[str, ...]] = ("9.21", "R25")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"rule": "trapezoid", "window": 6},)

    of: dc.Stepper | None = dc.param(default=None, doc="sequential solver whose samples are found; its `steps` are not used")
    rule: Literal["left", "trapezoid"] = dc.param(default="left", doc="quadrature of the drift where no solver is named")
    window: int = dc.param(default=40, ge=1, le=100_000, doc="steps that are evaluated at once for each sample")
    tolerance: float = dc.param(
        default=0.01, ge=0, le=1, doc="root mean square change, in units of sigma, of a node that is final"
    )
    max_sweeps: int | None = dc.param(
        default=None, ge=1, le=10_000_000, doc="sweeps that a sample may take; default N, 20 N for the trapezoid"
    )
    share_window: bool = dc.param(default=False, doc="share the evaluations of a window over the processes of torchrun")

    def __attrs_post_init__(self) -> None:
        """Refuse a solver that cannot be run step by step on this solver's grid, and rules without an end."""
        if self.of is None:
            if self.rule == "trapezoid" and self.tolerance == 0:
                raise dc.SpecError("the trapezoid is implicit and only reached as a limit; give paradigms a tolerance > 0")
            return
        name = type(self.of).__name__
        if self.rule != "left":
            raise dc.SpecError(f"`rule` is of the drift and `of` names solver {name}; leave one of them out")
        dc.check_within(self.of, "paradigms")
        if dc.calibrate_on(self.of):
            raise dc.SpecError(f"solver {name} is calibrated to a model; paradigms needs one that runs as it is")
        if self.of.init(torch.zeros(1, 1)) is not None:
            raise dc.SpecError(f"solver {name} carries a history from step to step; paradigms needs a one-step solver")

    @property
    def requires(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the solver requires, and a space in which moves can be added."""
        return (frozenset({"velocity"}) if self.of is None else self.of.requires) | {"flat"}

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the solver needs."""
        return frozenset() if self.of is None else self.of.needs

    @property
    def both_ways(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the solver."""
        return self.of is None or self.of.both_ways

    def default_grid(self, process: dc.Process, steps: int, start: float) -> Tensor:
        """That of the process; for the trapezoid equal steps of time, unless the process has a published grid.

        Its sweeps contract where a step is short against its time, and small steps at clean data grow too fast for that.
        """
        common = type(process).default_grid is dc.AffineProcess.default_grid
        if self.rule == "trapezoid" and common:
            return dc.Process.default_grid(process, steps, start)
        return process.default_grid(steps, start)

    def frames(self, field: dc.Field, x: dc.State, grid: Tensor, draw: dc.Draw) -> Iterator[dc.Frame]:
        """A frame for every node of the grid, as soon as all samples have reached it."""
        window, node, times = self._opened(field, x, grid, draw), 0, grid.tolist()
        yield dc.Frame(0, times[0], x, own=window.sweeps)
        while node < len(times) - 1:
            window.sweep()
            while node < window.low:
                node += 1
                yield dc.Frame(node, times[node], window.state(node), own=window.sweeps)
            self._patient(window)

    def _opened(self, field: dc.Field, x: dc.State, grid: Tensor, draw: dc.Draw) -> Window:
        if grid.ndim > 1:
            raise dc.SpecError("paradigms runs grids of one time per step; run per-sample times with the solver itself")
        if not all(leaf.is_floating_point() for leaf in dc.leaves(x)):
            raise dc.IncompatibleError("paradigms adds moves up and needs floating-point states; run the solver itself")
        process = field.process
        moves = Drift(self.rule, process, grid, x) if self.of is None else Steps(self.of, process, grid, x, draw)
        at = process.coeffs(grid)
        scale = at.sigma if isinstance(at, dc.Coeffs) else torch.ones_like(grid)
        ranks = Ranks.meeting(x, draw) if self.share_window else Ranks()
        return Window.opened(field, moves, x, self.window, (self.tolerance * scale) ** 2, ranks)

    def _patient(self, window: Window) -> None:
        most = self.max_sweeps or window.last * (PATIENCE if self.rule == "trapezoid" else 1)
        late = int(((window.left < window.last) & (window.sweeps >= most)).sum())
        if late:
            raise dc.NumericsError(
                f"{late} of {len(window.left)} samples have not arrived after {most} sweeps of paradigms; raise max_sweeps, "
                f"tolerance ({self.tolerance:g}) or the number of steps ({window.last}), if the field is finite"
            )

"""Multistep solvers: the history of evaluations, which of them a step may use, and the step all of them share."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_dpm.span import Reading, value

TAIL = ("w1", "w2", "w3", "w4")
"""Names of the weights of the evaluations before the current one, newest first."""
LIMIT = 2.0
"""Measured on mixtures at 5 to 20 steps: less wastes order, more lets orders 3 and 4 overshoot where a grid jumps."""


def history(coordinate: Tensor, count: int, limit: float) -> tuple[list[Tensor], list[Tensor]]:
    """The nodes of `count` evaluations before each step, u_j = (c_(i-j) - c_i) / (c_(i+1) - c_i), and which are active.

    coordinate: [N + 1, ...], what the polynomial is a polynomial of. A node is active if those after it are, it exists, its
    coordinate is finite and differs from the next one, and the step is at most `limit` times as long as the one that began
    at it. So the order falls where the steps jump (to sigma = 0 in lam, at once to 1), and comes back after.
    """
    step = coordinate[1:] - coordinate[:-1]
    on = step.isfinite() & (step != 0)
    nodes, active = list[Tensor](), list[Tensor]()
    for j in range(1, count + 1):
        u, past = (_before(c, j, len(step)) for c in (coordinate[:-1], step))
        on = on & past.isfinite() & (past != 0) & (step.abs() <= limit * past.abs())
        nodes.append(torch.where(on, (u - coordinate[:-1]) / step, -float(j)))
        active.append(on)
    return nodes, active


def _before(values: Tensor, j: int, steps: int) -> Tensor:
    """values[i - j] in row i; NaN where the run had not begun."""
    missing = torch.full_like(values[: min(j, steps)], torch.nan)
    return torch.cat([missing, values[: max(steps - j, 0)]])


def later(values: Tensor) -> Tensor:
    """Row i holds what belongs to step i - 1; the first row holds 0."""
    return torch.cat([torch.zeros_like(values[:1]), values[:-1]])


@dc.component
class Multistep(dc.Stepper):
    """x_s = keep x_t + gain x*(x_t) + sum_j w_j f_(i-j) + noise z: one evaluation a step, weights from the plan.

    A subclass plans `t`, `keep`, `gain`, `w1`, ...; it says how many evaluations it remembers and which prediction f is.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    limit: float = dc.param(
        default=LIMIT,
        ge=1,
        le=1e6,
        doc="a step uses evaluations as far back as it is at most so many times as long as the steps there",
    )

    @property
    def memory(self) -> int:
        """The number of earlier evaluations that a step uses."""
        raise NotImplementedError

    @property
    def reads(self) -> Reading:
        """What is interpolated."""
        return "x0"

    def init(self, x: dc.State) -> tuple[dc.State, ...]:
        """No history: zeros, which the first steps weigh with 0."""
        return tuple(dc.tree_map(torch.zeros_like, x) for _ in range(self.memory))

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """One step; the carry becomes the newest evaluations."""
        p = field.posterior(x, row.t)
        past = [(getattr(row, name), f) for name, f in zip(TAIL, carry, strict=False)]
        after = p.blend(row.keep, row.gain, *past, (row.noise, z))
        return dc.Moved(after, (value(p, self.reads), *carry[:-1]) if carry else ())


def tail(weights: list[Tensor]) -> dict[str, Any]:
    """The weights of earlier evaluations as entries of a plan."""
    return dict(zip(TAIL, weights, strict=False))

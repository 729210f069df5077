"""What the nodes of a window are moved by: quadrature of the velocity of the probability-flow ODE."""

from __future__ import annotations

import torch
from torch import Tensor

import diffcore as dc
from diffcore_parallel.moves import point_at, point_cast, row_cast


class Drift:
    """From node i to i + 1 by dt v_i (left rule) or dt (v_i + v_(i+1)) / 2 (trapezoid), v_i = v(x_i, t_i).

    A trapezoid whose far end has sigma = 0 is a left rule: the velocity may be singular there. `extra`: nodes at which v is
    needed beyond the steps of a window; `explicit`: the steps that need only v_i.
    """

    def __init__(self, rule: str, process: dc.Process, grid: Tensor, x: dc.State) -> None:
        c, like = process.coeffs(grid), dc.leaves(x)[0]
        regular = process.regular(c)
        share = torch.where(regular[1:] & (rule == "trapezoid"), 0.5, 0.0).double()
        dt = grid[1:] - grid[:-1]
        self.extra, self.explicit = int(rule == "trapezoid"), share == 0
        self.first, self.second = row_cast(dt * (1 - share), like), row_cast(dt * share, like)
        self.kinds = torch.where(regular, 0, -1)[: len(dt) + self.extra]
        self.kinds[0] = 0
        self.at = point_cast(c.readable(), like)

    def values(self, field: dc.Field, x: dc.State, nodes: Tensor, rows: Tensor) -> dc.State:
        """v of every evaluation."""
        return field.velocity(x, point_at(self.at, nodes))

    def release(self, low: int) -> None:
        """Nothing is kept."""

    def increments(self, values: dc.State, nodes: Tensor) -> dc.State:
        """dt times the mean slope, [A, p, ...], from slopes [A, p + extra, ...] at the nodes [A, p + extra]."""
        steps = nodes[:, : nodes.shape[1] - self.extra].clamp_max(len(self.first) - 1)

        def moved(v: Tensor) -> Tensor:
            left = v[:, : steps.shape[1]] * dc.expand(self.first[steps], v)
            return left + v[:, 1:] * dc.expand(self.second[steps], v) if self.extra else left

        return dc.tree_map(moved, values)

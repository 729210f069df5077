"""Levenberg-Marquardt on the levels of a grid, from differences of runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import diffcore as dc
from diffcore_auto.levels import inner_levels, span, times_at

DIFFERENCE, LONGEST, DAMPING, TRIES = 0.01, 0.7, 0.1, 7
Run = Callable[[Tensor], Tensor | None]
"""The offsets [B, D] from the goal after a run on the nodes; None where the run fails or is not allowed."""


class Shape:
    """Grids of N steps with fixed ends as N - 1 free numbers: theta_i = log(lam_i - lam_(i-1)), lam_0 that of the start.

    lam_(N-1) stays within the span: longer ones are scaled down.
    """

    def __init__(self, process: dc.Process, start: float, end: float) -> None:
        self.process, self.start, self.end = process, start, end
        low, high = span(process, start)
        self.low = max(dc.lam_at(process, start), low - 1.0)
        self.room = high - self.low - 1e-3

    def theta(self, nodes: Tensor) -> Tensor:
        """The free numbers of a grid."""
        levels = inner_levels(self.process, nodes)
        return torch.diff(levels, prepend=levels.new_tensor([self.low])).clamp_min(1e-3).log()

    def nodes(self, theta: Tensor) -> Tensor:
        """The grid."""
        levels = theta.exp().cumsum(0)
        levels = self.low + levels * min(1.0, self.room / float(levels[-1]))
        return times_at(self.process, levels, self.start, self.end)


class Descent(NamedTuple):
    """The best nodes found, and the objective before and after."""

    nodes: Tensor
    before: float
    after: float


def descend(run: Run, shape: Shape, nodes: Tensor, rounds: int, robust: bool = True) -> Descent:
    """Lower sum_b log(1 + e_b^2 / c^2) over the inner nodes; e_b = |offset_b|, c twice the median e_b of the first grid
    (a thousand times the largest where not `robust`: least squares).

    The logarithm keeps states that end in another mode from ruling the sum. Each of the at most `rounds` iterations costs N - 1
    runs for the Jacobian and up to 7 for a step that lowers the objective.
    """
    best = run(nodes)
    if best is None or len(nodes) < 3:
        return Descent(nodes, torch.inf, torch.inf)
    errors = best.norm(dim=1)
    scale = float(2 * errors.median() if robust else 1e3 * errors.max()) + 1e-30
    before = after = _objective(best, scale)
    theta, damping = shape.theta(nodes), DAMPING
    for _ in range(rounds):
        gradient, curvature = _model(run, shape, theta, best, scale)
        for _ in range(TRIES):
            scaled = curvature + torch.diag(damping * curvature.diagonal() + 1e-9 * curvature.diagonal().max() + 1e-300)
            moved = theta - torch.linalg.solve(scaled, gradient).clamp(-LONGEST, LONGEST)
            found = run(shape.nodes(moved))
            value = torch.inf if found is None else _objective(found, scale)
            if value < after:
                break
            damping *= 5
        else:
            break
        assert found is not None
        gain, theta, nodes, best, after = after - value, moved, shape.nodes(moved), found, value
        damping /= 5
        if gain < 1e-3 * after:
            break
    return Descent(nodes, before, after)


def _objective(offsets: Tensor, scale: float) -> float:
    return float((offsets.double().square().sum(1) / scale**2).log1p().mean())


def _model(run: Run, shape: Shape, theta: Tensor, at: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """J^T W r and J^T W J, W = 1 / (1 + e^2 / c^2) per state. The column of a run that fails is zero."""
    weight = 1 / (1 + at.double().square().sum(1) / scale**2)
    columns: list[Tensor] = []
    for i in range(len(theta)):
        moved = theta.clone()
        moved[i] += DIFFERENCE
        found = run(shape.nodes(moved))
        columns.append(torch.zeros_like(at) if found is None else (found - at) / DIFFERENCE)
    rooted = weight.sqrt()[:, None]
    jacobian = torch.stack([(rooted * c.double()).flatten() for c in columns], 1)
    return (jacobian.T @ (rooted * at.double()).flatten()).cpu(), (jacobian.T @ jacobian).cpu()

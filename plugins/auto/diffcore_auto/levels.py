"""Times from levels of lam = log(alpha / sigma), and the levels between which a run takes its steps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

import diffcore as dc

REACH = 9.2
"""Beyond this |lam| (a ratio of 1e-4 between signal and noise) there is nothing to resolve."""
End = Literal["zero", "t_min"]
END = "last time: zero (clean data), or the process's min_time, the smallest a network is evaluated at"


def last_time(process: dc.Process, end: End) -> float:
    """The last time of a grid."""
    return 0.0 if end == "zero" else process.min_time


def span(process: dc.Process, start: float) -> tuple[float, float]:
    """The levels at the start and at min_time, each within [-REACH, REACH]: the inner nodes of a grid lie between them."""
    return max(dc.lam_at(process, start), -REACH), min(dc.lam_at(process, process.min_time), REACH)


def times_at(process: dc.Process, levels: Tensor, start: float, end: float) -> Tensor:
    """The times start, those at the levels [N - 1], end: float64 [N + 1]."""
    inner = process.t_of_lam(levels.double())
    return torch.cat([inner.new_tensor([start]), inner, inner.new_tensor([end])])


def inner_levels(process: dc.Process, nodes: Tensor) -> Tensor:
    """lam at the inner nodes of a grid [N + 1], moved into the span where they lie outside: [N - 1]."""
    low, high = span(process, float(nodes[0]))
    return process.coeffs(nodes[1:-1]).lam.clamp(low, high)

"""The weights of DPM-Solver-v3: a polynomial in lam through values of f that are carried to the start of the step.

Carried from lam_j to lam_i by f' = s f + b, a value f_j becomes e^(S_i - S_j) f_j + ..., the g of the step at lam_j.
"""

from __future__ import annotations

import torch
from torch import Tensor

import diffcore as dc
from diffcore_dpm.curves import Curves
from diffcore_dpm.multistep import TAIL, history, later
from diffcore_dpm.span import lagrange, positions
from diffcore_dpm.transport import FLOOR, Way, ways

HEAD = ("c0", "c1", "c2", "c3")
"""Weights of the corrector: of the newest f, of the one the step began with, and of those before."""
Carried = tuple[Tensor, Tensor]
"""(e, d): g = e f + d."""


def entries(t: dc.Coeffs, s: dc.Coeffs, curves: Curves, points: int, limit: float, corrector: bool) -> dict[str, Tensor]:
    """The entries of the plan of `points` evaluations: [N, *times], or [N, 1, *event] where the statistics have entries."""
    way = ways(t, s, curves, points + corrector)
    if curves.event:
        way = Way(*(v.unsqueeze(-1 - len(curves.event)) for v in way))
    level = positions(t, s)
    nodes, active = history(torch.where(level < FLOOR, -torch.inf, level), points - 1, limit)
    like = way.keep
    alpha, nodes, active = _lift(s.alpha, like), [_lift(u, like) for u in nodes], [_lift(on, like) for on in active]
    moments, past = list(way.moments.unbind(1)), _carried(way, points - 1)
    weights = lagrange([torch.zeros_like(like), *nodes], [torch.ones_like(like, dtype=torch.bool), *active], moments[:points])
    values, shift = _summed(alpha, way.tilt, weights, [(torch.ones_like(like), torch.zeros_like(like)), *past])
    found = {"read": way.read, "base": alpha * way.keep, "shift": shift, **dict(zip(("now", *TAIL), values, strict=False))}
    if not corrector:
        return found
    on = (s.lam - t.lam).isfinite() & (s.t != t.t) & (t.lam >= FLOOR)
    return {**found, **_correction(way, alpha, [nodes, active], past, on)}


def _correction(way: Way, alpha: Tensor, history: list[list[Tensor]], past: list[Carried], on: Tensor) -> dict[str, Tensor]:
    """Row i solves step i - 1 again: x^c = own x + back x^c_before + c_0 f_i + c_1 f_(i-1) + ... + fixed."""
    (nodes, active), like, there = history, way.keep, _lift(on, way.keep)
    zero, one = torch.zeros_like(like), torch.ones_like(like)
    known = [(1 / way.grow, -way.push), (one, zero), *past]
    inside = [there.expand_as(like), there.expand_as(like), *(a & there for a in active)]
    weights = lagrange([one, zero, *nodes], inside, list(way.moments.unbind(1)))
    values, fixed = _summed(alpha, way.tilt, weights, known)
    row = {"back": alpha * way.keep, "fixed": fixed, **dict(zip(HEAD, values, strict=False))}
    moved = {name: later(torch.where(there, value, 0.0)) for name, value in row.items()}
    return {"own": 1 - later(on.double()), **moved}


def _summed(alpha: Tensor, tilt: Tensor, weights: list[Tensor], known: list[Carried]) -> tuple[list[Tensor], Tensor]:
    """The weights of the f, and what the step adds to every entry."""
    pairs = list(zip(weights, known, strict=True))
    return [-alpha * w * e for w, (e, _) in pairs], -alpha * sum((w * d for w, (_, d) in pairs), tilt)


def _carried(way: Way, count: int) -> list[Carried]:
    """How f of `count` steps before enters g of each step; weights of 0 where there was none."""
    found: list[Carried] = []
    e, d = torch.ones_like(way.keep), torch.zeros_like(way.keep)
    for _ in range(count):
        e, d = later(way.grow * e), later(way.grow * (d + way.push))
        found.append((e, d))
    return found


def _lift(value: Tensor, like: Tensor) -> Tensor:
    """Axes of size 1 at the end, for the event."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))

"""What DPM-Solver-v3 must know about a model: the empirical model statistics l, s and b, as curves in lam.

With y = x_t / alpha, G = e^-lam E[eps | x_t] (so that dy/dlam = -G on the probability-flow ODE) and f = G - l y,

    l   = E diag(sigma d eps / d x)           argmin of E |grad_x (sigma eps - l x)|^2
    s,b = argmin of E |df/dlam - s f - b|^2   s = cov(f, f') / var(f),   b = E f' - s E f

entry by entry, or pooled over all entries. y, G and f do not depend on how a process scales its states.

Source: Zheng, Lu, Chen and Zhu 2023, arXiv 2310.13268, section 3 and appendix C.1 (there f is N / alpha).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

import diffcore as dc
from diffcore_dpm.curves import derivative
from diffcore_dpm.exp_adams import ExpAdams

LOWEST, HIGHEST = -4.0, 5.0
"""lam of the first and last node where the process goes further: beyond, the statistics are continued (see `curves`)."""
RIDGE = 1e-6
"""Added to var(f), in units of var(G): without spread in f (Gaussian data) there is no slope to find, and s is 0."""
STEEPEST = 4.0
"""Bound of |s|. Data with a density have s = -2 at the end; more comes from rounding, where sigma is small and f is nearly 0."""
PER = Literal["entry", "time"]


def collect(field: dc.Field, x: Tensor, nodes: int, chunk: int, per: PER) -> dict[str, Tensor]:
    """lam [nodes] and l, s, b [nodes, *event] (per "time": [nodes]), float64, from trajectories of the states x at T.

    The states at a node are those that a run of second order over all nodes passes through, not noised data: it needs no
    data, and sees the states that sampling sees, guidance included. Six evaluations per node and state: one of the run, one
    of eps, two for sigma (d eps / d x) v with signs v (Hutchinson: v * J v has mean diag J; one v per state, the same at all
    nodes, so that l is smooth), two for df/dlam along the trajectory. The derivatives are central differences with a step of
    (machine precision)^(1/3) in units of sigma and of lam: they see what any guidance does, and need no
    differentiable network. Memory: that of sampling `chunk` states, and nine averages per node.

    Raises `IncompatibleError` for states that are not one tensor.
    """
    if not isinstance(x, Tensor):
        raise dc.IncompatibleError(f"dpm-solver-v3 knows states of one tensor, not {type(x).__name__}; use exp-adams or unipc")
    small = _precision(field, x) ** (1 / 3)
    lam, times = _nodes(field.process, nodes, small)
    with torch.no_grad():
        starts = range(0, len(x), chunk)
        sums = reduce(torch.add, (_sums(field, x, slice(i, i + chunk), lam, times, small) for i in starts))
    averages = sums / len(x)
    return _solved(lam, averages if per == "entry" else averages.flatten(2).mean(2))


def _precision(field: dc.Field, x: Tensor) -> float:
    """The coarser precision of the states and of the network."""
    net = getattr(field.base, "net", None)
    kinds = {p.dtype for p in net.parameters() if p.is_floating_point()} if isinstance(net, nn.Module) else set[torch.dtype]()
    return max(torch.finfo(kind).eps for kind in {x.dtype, *kinds})


def _nodes(process: dc.Process, count: int, small: float) -> tuple[Tensor, Tensor]:
    """lam at the nodes, evenly spaced, off the ends of the process by two differences; T and the times of the nodes."""
    ends = process.coeffs(torch.tensor([process.T, process.min_time], dtype=torch.float64)).lam
    low, high = max(float(ends[0]) + 2 * small, LOWEST), min(float(ends[1]) - 2 * small, HIGHEST)
    lam = torch.linspace(low, high, count, dtype=torch.float64)
    return lam, torch.cat([torch.tensor([process.T], dtype=torch.float64), process.t_of_lam(lam)])


def _sums(field: dc.Field, x: Tensor, rows: slice, lam: Tensor, times: Tensor, small: float) -> Tensor:
    """The sums over some of the states of what `_solved` averages, [9, nodes, *event]."""
    cond: Mapping[str, Tensor] = {k: v[rows] if isinstance(v, Tensor) and v.ndim else v for k, v in field.cond.items()}
    part, x = field.bound(cond), x[rows]
    signs = dc.Draw(0, range(rows.start, rows.start + len(x)), device=x.device).normal_like(x).sign()
    run = dc.frames(part, ExpAdams(points=2), x, grid=times)
    next(run)
    found = [_at(part, frame.x, float(level), signs, small) for level, frame in zip(lam, run, strict=True)]
    return torch.stack(found, 1).cpu()


def _at(field: dc.Field, x: Tensor, lam: float, signs: Tensor, small: float) -> Tensor:
    """Sums over states at one node of diag J, y, G, G', y y, y G, G G, y G', G G'."""
    process = field.process
    here, later, before = (_level(process, lam + d) for d in (0.0, small, -small))
    sigma = float(here.sigma)
    wide = small * max(1.0, float(here.alpha / here.sigma)) ** (1 / 3)  # eps read from x_0 is off by rounding / sigma
    up, down = (_eps(field, x + d * sigma * signs, here) for d in (wide, -wide))
    diagonal = signs * (up - down) / (2 * wide)
    y, g = x.double() / float(here.alpha), _flow(field, x, here)
    moved = (((y - d * g) * float(at.alpha)).to(x.dtype) for d, at in ((small, later), (-small, before)))
    ahead, behind = (_flow(field, state, at) for state, at in zip(moved, (later, before), strict=True))
    slope = (ahead - behind) / (2 * small)
    return torch.stack([v.sum(0) for v in (diagonal, y, g, slope, y * y, y * g, g * g, y * slope, g * slope)])


def _level(process: dc.Process, lam: float) -> dc.Coeffs:
    return process.coeffs(process.t_of_lam(torch.tensor(lam, dtype=torch.float64)))


def _eps(field: dc.Field, x: Tensor, at: dc.Coeffs) -> Tensor:
    return field.posterior(x, float(at.t)).eps.double()


def _flow(field: dc.Field, x: Tensor, at: dc.Coeffs) -> Tensor:
    """G = e^-lam E[eps | x_t], float64."""
    return _eps(field, x, at) * float(at.sigma / at.alpha)


def _solved(lam: Tensor, averages: Tensor) -> dict[str, Tensor]:
    """l, and the regression of f' = G' - l' y + l G on f = G - l y, from averages over the states."""
    slope, y, g, d, yy, yg, gg, yd, gd = averages
    bend = derivative(lam, slope)
    yy, yg, gg, yd, gd = yy - y * y, yg - y * g, gg - g * g, yd - y * d, gd - g * d
    spread = gg - 2 * slope * yg + slope * slope * yy
    shared = gd - bend * yg + slope * gg - slope * (yd - bend * yy + slope * yg)
    s = shared / (spread.clamp_min(0) + RIDGE * gg).clamp_min(torch.finfo(torch.float64).tiny)
    s = s.clamp(-STEEPEST, STEEPEST)
    return {"lam": lam, "l": slope, "s": s, "b": d - bend * y + slope * g - s * (g - slope * y)}

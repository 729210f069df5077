"""Integration of the probability-flow ODE, and of whatever rides along with it, in either direction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import diffcore as dc
from diffcore_score_sde.angle import growth, position, rate, size, times

States = tuple[Tensor, ...]
Slope = Callable[[dc.Coeffs, States], States]
"""d state / dt at coefficients of Python floats; the first entry of the state is x."""


def integrate(
    process: dc.AffineProcess, slope: Slope, state: States, first: float, last: float, steps: int, tolerance: float | None
) -> States:
    """The states (x, ...) at time `last`, from those at `first` (before or after it).

    What is integrated is x / R, R^2 = alpha^2 + sigma^2, over r = log atan(sigma / alpha): the same smooth problem for every
    affine process. tolerance None: the classical Runge-Kutta method with `steps` equal steps of r; fourth order, 4
    evaluations a step. Otherwise Dormand and Prince's adaptive 5(4) pair of torchdiffeq with this rtol and atol.
    """
    start, end = (size(process.coeffs(torch.tensor(t, dtype=torch.float64))) for t in (first, last))
    run = _fixed(process, slope, first, last, steps) if tolerance is None else _adaptive(process, slope, first, last, tolerance)
    x, *rest = run((state[0] / float(start), *state[1:]))
    return x * float(end), *rest


def _turned(slope: Slope, c: dc.Coeffs, y: States) -> States:
    """The slope of (x / R, ...) over r."""
    pace, unit = rate(c), size(c)
    moved, *rest = slope(c, (y[0] * unit, *y[1:]))
    return pace / unit * moved - pace * growth(c) * y[0], *(pace * leaf for leaf in rest)


def _fixed(process: dc.AffineProcess, slope: Slope, first: float, last: float, steps: int) -> Callable[[States], States]:
    where = torch.linspace(0, 1, 2 * steps + 1, dtype=torch.float64)
    points = process.coeffs(times(process, first, last, where))
    rows = [points.at(i).map(Tensor.item) for i in range(len(where))]
    h = float(position(process, last) - position(process, first)) / steps

    def run(y: States) -> States:
        for i in range(0, 2 * steps, 2):
            k1 = _turned(slope, rows[i], y)
            k2 = _turned(slope, rows[i + 1], _sum((1, y), (h / 2, k1)))
            k3 = _turned(slope, rows[i + 1], _sum((1, y), (h / 2, k2)))
            k4 = _turned(slope, rows[i + 2], _sum((1, y), (h, k3)))
            y = _sum((1, y), (h / 6, k1), (h / 3, k2), (h / 3, k3), (h / 6, k4))
        return y

    return run


def _sum(*terms: tuple[float, States]) -> States:
    """The weighted sum of states, entry by entry: they are flat, and `dc.lincomb` of a tuple walks it as a tree."""
    weights, states = zip(*terms, strict=True)
    return tuple(dc.lincomb(*zip(weights, leaves, strict=True)) for leaves in zip(*states, strict=True))


def _adaptive(process: dc.AffineProcess, slope: Slope, first: float, last: float, tolerance: float) -> Callable[[States], States]:
    try:
        from torchdiffeq import odeint
    except ImportError:
        raise dc.IncompatibleError(
            "'tolerance' needs the package torchdiffeq; install diffcore-score-sde[adaptive], or leave tolerance out"
        ) from None
    ends = torch.stack([position(process, first), position(process, last)])

    def coeffs(r: Tensor) -> dc.Coeffs:
        where = (r.detach().cpu().double() - ends[0]) / (ends[1] - ends[0])
        return process.coeffs(times(process, first, last, where.reshape(1))[0]).map(Tensor.item)

    def run(y: States) -> States:
        span = ends.to(y[0].device)
        found = odeint(lambda r, y: _turned(slope, coeffs(r), y), y, span, rtol=tolerance, atol=tolerance, method="dopri5")
        return tuple(leaf[-1] for leaf in found)

    return run

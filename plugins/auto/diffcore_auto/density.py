"""How much local error a model makes where, measured along its own trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

import diffcore as dc
from diffcore_auto.installed import made
from diffcore_auto.levels import inner_levels, span
from diffcore_auto.reference import fine_grid

Reading = Literal["x0", "eps"]
FINE, EVEN, ORDERS = 64, 0.2, 3
SOLVERS = ("dpmpp-2m", "ddim", "euler")


class Slopes(NamedTuple):
    """`of[reading, p]`: levels lam [K], RMS [K] of d^p f / dlam^p, f = E[x_0 | x_t] or E[eps | x_t]; `scale`: that of x_0."""

    of: Mapping[tuple[Reading, int], tuple[Tensor, Tensor]]
    scale: float


def measured(field: dc.Field, x: dc.State) -> Slopes:
    """Divided differences along fine trajectories from x at T: one run of 64 steps uniform in lam, RMS over states and entries.

    Raises `SpecError` where none of the solvers dpmpp-2m, ddim and euler is installed.
    """
    solver = next((s for id in SOLVERS if (s := made("solver", {"type": id})) is not None), None)
    if solver is None:
        raise dc.SpecError(f"measuring the local error needs one of the solvers {', '.join(SOLVERS)}; none is installed")
    nodes = fine_grid(field.process, FINE, 0.0)
    levels, last = inner_levels(field.process, nodes).tolist(), list[tuple[float, Tensor]]
    before: dict[Reading, list[tuple[float, Tensor]]] = {"x0": last(), "eps": last()}
    found: dict[tuple[Reading, int], list[tuple[float, float]]] = {}
    scale = 0.0
    for frame in dc.frames(field, solver, x, grid=nodes):
        if frame.step < 2:  # nothing was evaluated yet, or at T, which may be no level
            continue
        scale = _rms(frame.x0.mean)
        for reading, past in before.items():
            value = dc.leaves(frame.x0.read(reading))
            before[reading] = _differences(levels[frame.step - 2], torch.cat([v.flatten(1) for v in value], 1), past)
            for p, (level, slope) in enumerate(before[reading][1:], 1):
                found.setdefault((reading, p), []).append((level, _rms(slope)))
    return Slopes({key: _columns(rows) for key, rows in found.items()}, scale)


def _differences(level: float, value: Tensor, past: list[tuple[float, Tensor]]) -> list[tuple[float, Tensor]]:
    """The newest differences of orders 0 to 3 from the newest value and those before."""
    now = [(level, value)]
    for at, older in past[:ORDERS]:
        level, value = now[-1]
        now.append(((level + at) / 2, (value - older) / (level - at)))
    return now


def _rms(x: dc.State) -> float:
    leaves = dc.leaves(x)
    return (sum(float(v.double().square().sum()) for v in leaves) / sum(v.numel() for v in leaves)) ** 0.5


def _columns(rows: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    table = torch.tensor(rows, dtype=torch.float64)
    return table[:, 0], table[:, 1]


def local_error(slopes: Slopes, process: dc.Process, reading: Reading, order: int) -> tuple[Tensor, Tensor]:
    """Levels, and steps per unit of lam up to a factor: n ~ (w s / (alpha^2 s^2 + sigma^2)^(1/2) |d^p f / dlam^p|)^(1 / (p + 1)).

    A step of length h that takes f for a polynomial of degree p - 1 adds w h^(p+1) |f^(p)| to x_s, w = alpha for x0 and sigma for
    eps; for data of scale s that is s / (alpha^2 s^2 + sigma^2)^(1/2) times as much at the end. n makes the sum least.
    """
    levels, size = slopes.of[reading, order]
    at = process.coeffs(process.t_of_lam(levels))
    weight = at.alpha if reading == "x0" else at.sigma
    reach = slopes.scale / (at.alpha**2 * slopes.scale**2 + at.sigma**2) ** 0.5
    return levels, (weight * reach * size) ** (1 / (order + 1))


def klub(slopes: Slopes) -> tuple[Tensor, Tensor]:
    """Levels, and n ~ (e^lam |m'|)^(2/3): least sum of e^(2 lam) |m'|^2 h^3, the steps of int e^(2 lam) |m - m_i|^2 dlam."""
    levels, size = slopes.of["x0", 1]
    return levels, (levels.exp() * size) ** (2 / 3)


def proposals(slopes: Slopes, process: dc.Process) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, levels and density of the local errors of both readings and orders 1 to 3."""
    for reading, order in slopes.of:
        yield f"{reading}, order {order}", *local_error(slopes, process, reading, order)


def shared(process: dc.Process, start: float, levels: Tensor, n: Tensor, steps: int) -> Tensor:
    """N - 1 inner levels between which the density (and a fifth of its mean) holds N equal shares, the last to the end."""
    low, high = span(process, start)
    fine = torch.linspace(low, high, 2048, dtype=torch.float64)
    at = _interpolated(fine, levels, n + EVEN * n.mean())
    total = torch.cat([at.new_zeros(1), ((at[1:] + at[:-1]) / 2).cumsum(0)])
    wanted = torch.arange(1, steps, dtype=torch.float64) / steps * total[-1]
    return _interpolated(wanted, total, fine)


def _interpolated(x: Tensor, known: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear, constant beyond the ends."""
    right = torch.searchsorted(known.contiguous(), x.contiguous()).clamp(1, len(known) - 1)
    a, b = known[right - 1], known[right]
    share = ((x - a) / (b - a)).clamp(0, 1)
    return values[right - 1] * (1 - share) + values[right] * share

"""The straight line from data to noise, run so that the marginal velocity has constant size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_unified.quadrature import over

CELLS = 256


@dc.component
class Kinetic(dc.AffineProcess):
    """x_t = (1 - r(t)) x_0 + r(t) eps, t in [0, 1], with the clock r of least marginal kinetic energy int E|v(x_t, t)|^2 dt.

    On the straight line E|v|^2 = r'(t)^2 kappa(r)^2, where v = E[eps - x_0 | x_t]; so the energy is least, and equal to the
    square of the length int kappa dr, where the speed is constant: r' = length / kappa(r). For data whose entries (or
    principal directions) are Gaussian with mean `mean` and standard deviations d_i,

        kappa(r)^2 = mean^2 + average_i (r - (1 - r) d_i^2)^2 / V_i,    V_i = (1 - r)^2 d_i^2 + r^2.

    The *conditional* energy E|eps - x_0|^2 int r'^2 dt is least for r = t, which is `flow`. Both ends are exact, and
    alpha(1) = 0 leaves no signal: the predictions eps and score are refused. Units: those of the data.

    Raises `SpecError` unless mean >= .01 (at 0 the speed may vanish, and r' is infinite there) and all stds > 0.
    """

    source: ClassVar[str] = "Shaul et al. 2023, arXiv 2306.06626; Lai et al. 2025, arXiv 2510.21890, chapter 6"
    items: ClassVar[tuple[str, ...]] = ("6.13",)
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"mean": 0.05, "stds": (0.1, 1.0)},)

    mean: float = dc.param(default=0.3, ge=0.01, le=1e6, doc="root mean square of the mean of the data's entries", unit="data")
    stds: tuple[float, ...] = dc.param(default=(0.5,), gt=0, le=1e6, doc="standard deviations, one or several", unit="data")
    t_min: float = dc.param(default=1e-3, ge=0, lt=1, doc="smallest time a network sees")

    def __attrs_post_init__(self) -> None:
        if not self.stds:
            raise dc.SpecError("'stds' of Kinetic must name at least one standard deviation")

    @property
    def min_time(self) -> float:
        """`t_min`."""
        return self.t_min

    @property
    def length(self) -> float:
        """int_0^1 kappa dr: the least marginal energy is its square."""
        return float(_table(self)[-1])

    def speed(self, r: Tensor) -> Tensor:
        """kappa(r), shape of r."""
        s = r[..., None]
        d2 = torch.tensor(self.stds, dtype=r.dtype, device=r.device) ** 2
        slope = (s - (1 - s) * d2) ** 2 / ((1 - s) ** 2 * d2 + s**2)
        return (self.mean**2 + slope.mean(-1)) ** 0.5

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """alpha, sigma and their derivatives at times t of any shape, in the dtype of t; r is found in float64."""
        r = self._position(t.double())
        rate = (self.length / self.speed(r)).to(t.dtype)
        return dc.Coeffs(t, (1 - r).to(t.dtype), r.to(t.dtype), -rate, rate)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """The length up to r = 1 / (1 + exp(lam)) as a fraction of the whole, float64."""
        return self._covered(torch.sigmoid(-torch.as_tensor(lam, dtype=torch.float64))) / self.length

    def _covered(self, r: Tensor) -> Tensor:
        """int_0^r kappa."""
        cell = (r * CELLS).floor().clamp(0, CELLS - 1)
        first = cell / CELLS
        return _table(self).to(r.device)[cell.long()] + over(self.speed, first, r)

    def _position(self, t: Tensor) -> Tensor:
        """r(t): the cell from the table, then Newton's method within it; exactly 0 and 1 at the ends."""
        table, wanted = _table(self).to(t.device), t * self.length
        cell = (torch.searchsorted(table, wanted.contiguous(), right=True) - 1).clamp(0, CELLS - 1)
        low, high = cell.double() / CELLS, (cell + 1).double() / CELLS
        r = low + (wanted - table[cell]) / (table[cell + 1] - table[cell]) * (high - low)
        for _ in range(5):
            r = r - (table[cell] + over(self.speed, low, r) - wanted) / self.speed(r)
            r = torch.minimum(torch.maximum(r, low), high)
        return torch.where(t >= 1, 1.0, torch.where(t <= 0, 0.0, r))


@lru_cache(maxsize=32)
def _table(process: Kinetic) -> Tensor:
    """int kappa up to the end of every cell, from 0."""
    edges = torch.arange(CELLS + 1, dtype=torch.float64) / CELLS
    return torch.cat([edges[:1], over(process.speed, edges[:-1], edges[1:]).cumsum(0)])


def conditional_energy(process: dc.AffineProcess, second_moment: float = 1.0, cells: int = CELLS) -> float:
    """int E|alpha' x_0 + sigma' eps|^2 dt over [0, T], relative to that of the straight line at even speed, 1.

    second_moment: E|x_0|^2 / D. Infinite for schedules whose sigma' is not square integrable (vp, ve).
    """
    total = _integral(process, lambda c: c.dalpha**2 * second_moment + c.dsigma**2, cells)
    return total * process.T / (second_moment + 1)


def marginal_energy(process: dc.AffineProcess, mean: float, stds: tuple[float, ...], cells: int = CELLS) -> float:
    """int E|v(x_t, t)|^2 dt / D over [0, T] for Gaussian data of this mean and these standard deviations.

    Per direction alpha'^2 mean^2 + (d sqrt(V)/dt)^2, V = alpha^2 d^2 + sigma^2.
    """
    d2 = torch.tensor(stds, dtype=torch.float64) ** 2

    def power(c: dc.Coeffs) -> Tensor:
        a, s, da, ds = (v[..., None] for v in (c.alpha, c.sigma, c.dalpha, c.dsigma))
        return (da**2 * mean**2 + (a * da * d2 + s * ds) ** 2 / (a**2 * d2 + s**2)).mean(-1)

    return _integral(process, power, cells)


def _integral(process: dc.AffineProcess, power: Any, cells: int) -> float:
    edges = torch.linspace(0, process.T, cells + 1, dtype=torch.float64)
    return math.fsum(over(lambda t: power(process.coeffs(t)), edges[:-1], edges[1:]).tolist())

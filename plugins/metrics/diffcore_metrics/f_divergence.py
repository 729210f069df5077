"""f-divergences of samples in one or two dimensions from a density that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore.testing import Oracle
from diffcore_metrics.divergences import between_masses
from diffcore_metrics.known import AgainstDensity, LogDensity, density_of, oracle_of
from diffcore_metrics.quadrature import rule

NODES, DRAWS, LEAST = 8, 4096, 0.99


def box_of(oracle: Oracle) -> tuple[Tensor, Tensor]:
    """The least box that holds 4096 exact samples, its two corners (d,)."""
    x = oracle.sample(DRAWS, dc.Draw(0, range(DRAWS), block=DRAWS)).flatten(1)
    return x.min(0).values, x.max(0).values


def masses(log_p: LogDensity, low: Tensor, high: Tensor, cells: int) -> Tensor:
    """The mass of each cell of a grid on the box, and last that of the outside: (cells^d + 1,). Raises `DataError` where they do
    not add up: the cells are too wide for the density."""
    points, weights = rule(low, high, cells, NODES)
    inside = (log_p(points.reshape(-1, len(low))).exp().reshape(points.shape[:2]) * weights).sum(1)
    if not LEAST < float(inside.sum()) < 2 - LEAST:
        raise dc.DataError(f"the density has mass {float(inside.sum()):.3f} on {cells} cells a side; set a larger 'cells'")
    return torch.cat([inside, (1 - inside.sum()).clamp(min=1e-12)[None]])


def counts(x: Tensor, low: Tensor, high: Tensor, cells: int) -> Tensor:
    """How many of x (n, d) fall in each cell, and last outside the box: (cells^d + 1,), float64."""
    place = ((x - low) / (high - low) * cells).floor().long()
    outside = ((place < 0) | (place >= cells)).any(1)
    powers = cells ** torch.arange(x.shape[1] - 1, -1, -1)
    number = torch.where(outside, cells ** x.shape[1], (place * powers).sum(1))
    return torch.bincount(number, minlength=cells ** x.shape[1] + 1).double()


@dc.component
class FDivergence(AgainstDensity):
    """Divergences of binned samples q from the binned exact density p of data on the line or the plane (`gaussian`,
    `gaussian-mixture`): sums over the cells of an even grid and the outside, whose masses p are integrated by quadrature.

    `binned-KL` sum p log(p/q) and `binned-reverse-KL` sum q log(q/p) in nats, `binned-JS` <= log 2, `binned-TV` <= 1, `binned-H2`
    = sum (sqrt p - sqrt q)^2 / 2 <= 1, `binned-chi2` = sum (q - p)^2 / p. Binning can only lower a divergence; the scatter of
    counts raises it, reverse-KL by about (K - 1) / 2n and chi2 by (K - 1) / n with K cells: compare with the floor. In KL alone
    half a count is added to every cell, as it is infinite for an empty one.

    Raises `DataError` for data of unknown density or more than two dimensions, and where cells are too wide to integrate p.
    """

    source: ClassVar[str] = "Csiszar 1967; Lai et al. 2025, arXiv 2510.21890, section 1.1"
    items: ClassVar[tuple[str, ...]] = ("1.02",)
    id: ClassVar[str] = "f-divergence"
    event_shape: ClassVar[tuple[int, ...]] = (1,)

    cells: int = dc.param(default=12, ge=2, le=1000, doc="cells of the grid on each axis")

    def check(self, ev: dc.Evaluation) -> None:
        """Also refuses data of more than two dimensions."""
        super().check(ev)
        if (d := ev.samples[0].numel()) > 2:
            raise dc.DataError(f"f-divergence is for one or two dimensions; the data has {d}. Take kl or knn-kl")

    def against(self, ev: dc.Evaluation) -> tuple[Callable[[Tensor], Mapping[str, float]], str]:
        """The divergences of samples from the masses of one grid."""
        oracle = oracle_of(ev, "f-divergence")
        log_p, (low, high) = density_of(oracle, "f-divergence"), box_of(oracle)
        p = masses(log_p, low, high, self.cells)

        def numbers(x: Tensor) -> dict[str, float]:
            return binned(p, counts(x.flatten(1), low, high, self.cells))

        return numbers, f"exact density of {ev.reference_name} on {len(p)} cells"


def binned(p: Tensor, count: Tensor) -> dict[str, float]:
    """The named divergences of counts from masses p, both (K,)."""
    n, K = float(count.sum()), len(p)
    q = count / n
    plain, swapped = between_masses(p, q), between_masses(q, p)
    smooth = between_masses(p, (count + 0.5) / (n + 0.5 * K))
    found = {**plain, "KL": smooth["KL"], "chi2": swapped["chi2"]}
    return {f"binned-{name}": value for name, value in found.items()}

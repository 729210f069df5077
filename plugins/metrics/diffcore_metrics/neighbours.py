"""Distances between two sets of features, in slices that fit into memory; what the neighbour metrics share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

ROWS = 1024
ROUND_OFF = 1e-12
"""Error of a squared distance, in units of the largest squared norm: equal points and ties count as such in spite of it."""


def squared_distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Squared distances of x (n, d) to y (m, d) as float64 slices (<= 1024, m), in the order of x."""
    norms = y.square().sum(1)
    for rows in x.split(ROWS):
        yield rows.square().sum(1, keepdim=True) + norms - 2 * rows @ y.T


def squared_radii(x: Tensor, k: int) -> Tensor:
    """Squared distance (n,) of each of x (n, d) to its k-th nearest neighbour among the others."""
    out = []
    x = x.double() - x.double().mean(0)
    for start, slab in zip(range(0, len(x), ROWS), squared_distances(x, x), strict=True):
        rows = torch.arange(len(slab))
        slab[rows, start + rows] = torch.inf
        out.append(slab.kthvalue(k, dim=1).values)
    return torch.cat(out)


def ball_counts(queries: Tensor, centres: Tensor, squared_radius: Tensor) -> tuple[Tensor, Tensor]:
    """How many balls hold each query (q,), and how many queries each ball holds (c,). Balls are closed."""
    origin = centres.double().mean(0)
    queries, centres = queries.double() - origin, centres.double() - origin
    reach = squared_radius + ROUND_OFF * centres.square().sum(1).max()
    held, holds = [], torch.zeros(len(centres), dtype=torch.int64)
    for slab in squared_distances(queries, centres):
        inside = slab <= reach
        held.append(inside.sum(1))
        holds += inside.sum(0)
    return torch.cat(held), holds

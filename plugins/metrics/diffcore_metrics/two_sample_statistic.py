"""The unbiased two-sample statistic of a kernel, and how often chance alone makes it as large."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffcore_metrics.neighbours import squared_distances

Kernel = Callable[[Tensor], Tensor]
"""A kernel as a function of squared distances, entry by entry."""


def unbiased(x: Tensor, y: Tensor, kernel: Kernel, permutations: int = 0, seed: int = 0) -> tuple[float, float]:
    """The U-statistic of E k(x, x') + E k(y, y') - 2 E k(x, y), and its permutation p-value (1 without permutations).

    x: (n, d), y: (m, d). p = (1 + number of random relabellings of the n + m points whose value is at least this one)
    / (1 + permutations): under one distribution P(p <= a) <= a for every a.
    """
    z, n = torch.cat([x, y]).double(), len(x)
    chosen = relabellings(n, len(z), permutations, seed)
    among, touching = kernel_sums(z - z.mean(0), kernel, chosen)
    total, m = touching[0], len(y)
    across = touching[1:] - among[1:]
    values = among[1:] / (n * (n - 1)) + (total - 2 * across - among[1:]) / (m * (m - 1)) - 2 * across / (n * m)
    slack = 1e-12 * float(total.abs()) / len(z) ** 2
    return float(values[0]), float((values >= values[0] - slack).double().mean())


def relabellings(n: int, size: int, permutations: int, seed: int) -> Tensor:
    """Indicators (size, 2 + permutations), float64: all points, the first n, and random sets of n."""
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.ones(size), (torch.arange(size) < n).float()]
    columns += [(torch.randperm(size, generator=generator) < n).float() for _ in range(permutations)]
    return torch.stack(columns, 1).double()


def kernel_sums(z: Tensor, kernel: Kernel, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """For every set: the sum of k over ordered pairs of different points within it, and over pairs of one of it and any other."""
    among, touching = torch.zeros(2, chosen.shape[1], dtype=torch.float64)
    start = 0
    for slab in squared_distances(z, z):
        rows = torch.arange(len(slab))
        k = kernel(slab.clamp(min=0))
        k[rows, start + rows] = 0
        mine = chosen[start : start + len(slab)]
        among += (mine * (k @ chosen)).sum(0)
        touching += mine.T @ k.sum(1)
        start += len(slab)
    return among, touching

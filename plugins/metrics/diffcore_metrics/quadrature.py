"""Integrals over a box of the line or the plane: Gauss-Legendre in every cell of an even grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def rule(low: Tensor, high: Tensor, cells: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Points (cells^d, nodes^d, d) and their weights (nodes^d,) on the box from low to high, each (d,), float64.

    The sum of weights times values over the second axis is the integral over each cell; exact in each variable for polynomials
    of degree 2 nodes - 1. Cells are numbered with the last variable fastest.
    """
    places, weights = (torch.as_tensor(v) for v in legendre(nodes))
    width = (high - low) / cells
    starts = low[:, None] + width[:, None] * torch.arange(cells)
    inside = width[:, None] * (places + 1) / 2
    points = _product(starts)[:, None] + _product(inside)[None]
    return points, _product(width[:, None] * weights / 2).prod(1)


def legendre(nodes: int) -> Any:
    """Nodes and weights of the rule on [-1, 1]."""
    return np.polynomial.legendre.leggauss(nodes)


def _product(axes: Tensor) -> Tensor:
    """All combinations (k^d, d) of one entry of each row of axes (d, k)."""
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))

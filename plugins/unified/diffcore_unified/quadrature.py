"""The five-point Gauss-Legendre rule."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_INNER, _OUTER = (5 - 2 * (10 / 7) ** 0.5) ** 0.5 / 3, (5 + 2 * (10 / 7) ** 0.5) ** 0.5 / 3
_NEAR, _FAR = (322 + 13 * 70**0.5) / 1800, (322 - 13 * 70**0.5) / 1800
POINTS = ((1 - _OUTER) / 2, (1 - _INNER) / 2, 0.5, (1 + _INNER) / 2, (1 + _OUTER) / 2)
WEIGHTS = (_FAR, _NEAR, 64 / 225, _NEAR, _FAR)


def over(fn: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """int_low^high fn, elementwise in the ends; exact for polynomials of degree 9."""
    width = high - low
    points, weights = (
        torch.tensor(v, dtype=torch.float64, device=width.device).view(-1, *[1] * width.ndim) for v in (POINTS, WEIGHTS)
    )
    return width * (weights * fn(low + points * width)).sum(0)

"""Densities from scores: a score fixes log p up to a constant."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

import diffcore as dc
from diffcore_energy.trace import inner


def log_ratio(model: Any, x: Tensor, y: Tensor, t: Any, *, nodes: int = 8, **cond: Any) -> Tensor:
    """log p_t(x) - log p_t(y) = int_0^1 <s(y + u (x - y), t), x - y> du per sample, (B,).

    model: a denoiser (`dc.Denoiser`, or a guided one), t as it takes it. Gauss-Legendre rule of `nodes` points: exact where
    the score is a polynomial of degree 2 nodes - 1 along the line. The result does not know the partition function. For a
    score that is no gradient it is the work along the straight line. Differentiable in the model and in x, y.

    Source: Lai et al. 2025 (arXiv 2510.21890), chapter 3.
    """
    places, weights = np.polynomial.legendre.leggauss(nodes)
    gap = x - y
    work = [
        w / 2 * inner(model(dc.lincomb((1.0, y), ((1 + p) / 2, gap)), t, **cond).score, gap) for p, w in _pairs(places, weights)
    ]
    return sum(work[1:], work[0])


def _pairs(places: Any, weights: Any) -> list[tuple[float, float]]:
    return list(zip(places.tolist(), weights.tolist(), strict=True))

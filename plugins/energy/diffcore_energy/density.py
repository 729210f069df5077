"""Densities up to a constant, from the work of a score along a line or from an energy network."""

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


def log_density(model: dc.Denoiser, x: Tensor, t: Any, **cond: Any) -> Tensor:
    """log p_t(x) + const, (B,) float64, of a denoiser whose network is an energy: one forward pass, no derivative.

    The constant depends on t and on the conditions, so that values compare at one time and under one condition. With
    eps = a x + b F the network's output F = +-grad E(y, t) at y = x / c (its scaled input) read as noise,

        log p_t(x) = -(a |x|^2 / 2 +- b c E(x / c, t)) / sigma + const.

    Raises `IncompatibleError` for a network that is no energy, or a process that moves the mean or scales inputs its own way.

    Source: Du et al. 2023 (arXiv 2302.11552), section 4; the rows of Lai et al. 2025 (arXiv 2510.21890), chapter 6.
    """
    at, c = model.point(t, x), 1.0
    _check(model, at)
    a, b = dc.convert(at, dc.row(model.prediction, at, model.sigma_data), dc.row("eps", at, model.sigma_data))
    if model.reading.input == "unit":
        c = (at.alpha**2 * model.sigma_data**2 + at.sigma**2) ** 0.5
    net: Any = model.net
    energy = net.sign * net.energy(dc.lincomb((1 / c, x)), model.time(at.t, x), **cond)
    return -(a * inner(x.double(), x.double()) / 2 + b * c * energy.double()) / at.sigma


def _check(model: dc.Denoiser, at: dc.Coeffs) -> None:
    if not hasattr(model.net, "energy"):
        raise dc.IncompatibleError(
            f"log p needs a network that is an energy, such as 'energy'; this is {type(model.net).__name__}"
        )
    own = type(model.process).scale_input is not dc.AffineProcess.scale_input
    if model.reading.input not in ("none", "unit") or (model.reading.input == "unit" and own):
        raise dc.IncompatibleError(f"{type(model.process).__name__} scales the network's input its own way: E is not known in x")
    dc.refuse_shift(model.process, at)


def _pairs(places: Any, weights: Any) -> list[tuple[float, float]]:
    return list(zip(places.tolist(), weights.tolist(), strict=True))

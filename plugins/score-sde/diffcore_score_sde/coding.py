"""Encoding: data as noise and back, along the probability-flow ODE."""

from __future__ import annotations

import torch
from torch import Tensor

import diffcore as dc
from diffcore_score_sde.angle import affine, first_time
from diffcore_score_sde.flow import integrate


@torch.no_grad()
def encode(field: dc.Field, x0: Tensor, *, steps: int = 40, tolerance: float | None = None, cut: float = 1e-5) -> Tensor:
    """The noise x_T whose probability-flow trajectory ends at x0 (B, ...): the code of the data, unique.

    Data is put at t = max(min_time, cut T). steps, tolerance: see `diffcore_score_sde.flow.integrate`. For Gaussian data the
    code is alpha_T m + sqrt(alpha_T^2 S + sigma_T^2) S^-1/2 (x0 - m) up to the cut: the standardised data, scaled.
    (Song et al. 2021, arXiv 2011.13456, section 4.3 and appendix D.4.) Raises `IncompatibleError` if not affine.
    """
    process = affine(field.process, "encode")
    return _carried(field, process, x0, first_time(process, cut), process.T, steps, tolerance)


@torch.no_grad()
def decode(field: dc.Field, xT: Tensor, *, steps: int = 40, tolerance: float | None = None, cut: float = 1e-5) -> Tensor:
    """The data whose code is xT: the inverse of `encode` with the same arguments, to the accuracy of the integration."""
    process = affine(field.process, "decode")
    return _carried(field, process, xT, process.T, first_time(process, cut), steps, tolerance)


def _carried(
    field: dc.Field, process: dc.AffineProcess, x: Tensor, first: float, last: float, steps: int, tolerance: float | None
) -> Tensor:
    return integrate(process, lambda at, y: (field.velocity(y[0], at),), (x,), first, last, steps, tolerance)[0]

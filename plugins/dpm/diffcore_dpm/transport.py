"""Steps in the coordinates of DPM-Solver-v3: everything a plan needs of one step, by quadrature in lam.

With l, s, b functions of lam, S the integral of s from the start of the step, B that of e^-S b, L that of l,

    y_s = K y_t - int e^(L - L_s + S) (g + B) dlam,    K = e^-L_s,    g = e^-S f - B,

which is the probability-flow ODE dy/dlam = -l y - f. g is what a polynomial replaces: dg/dlam = e^-S (f' - s f - b).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import diffcore as dc
from diffcore_dpm.curves import Curves

FLOOR = math.log(1e-6)
"""lam below which a state is pure noise: there l = 1 and s = b = 0, and steps are integrated in closed form."""
PANEL, NODES = 0.5, 8
"""Longest panel of the quadrature in lam, and Gauss-Legendre nodes in each."""


class Way(NamedTuple):
    """One step. `moments`: int e^(L - L_s + S) u^k dlam, u from 0 to 1 over the step; `tilt`: that integral of B.

    `grow` = e^S and `push` = B at the end: f at the start, carried to the end by f' = s f + b, is grow (f + push).
    keep: K e^-lam_t alpha_t, the weight of x_t in alpha_t y_s. read: the weight of x_t in f_t = read x_t - E[x_0 | x_t].
    """

    keep: Tensor
    moments: Tensor
    tilt: Tensor
    grow: Tensor
    push: Tensor
    read: Tensor


def ways(t: dc.Coeffs, s: dc.Coeffs, curves: Curves, count: int) -> Way:
    """The steps t -> s, with `count` moments each; entries [N, *times, *event]; `moments` has them at [N, count, ...]."""
    if not curves.event:
        way = _way(t, s, curves, count)
        return way._replace(moments=way.moments.movedim(0, 1))
    found = [_way(t.at(i), s.at(i), curves, count) for i in range(len(t.t))]  # one at a time: large events need the memory
    return Way(*map(torch.stack, zip(*found, strict=True)))


def _way(t: dc.Coeffs, s: dc.Coeffs, curves: Curves, count: int) -> Way:
    """One step: below FLOOR in closed form, then by quadrature, or to sigma_s = 0 in closed form."""
    last, still = s.sigma == 0, t.t == s.t
    low = torch.maximum(t.lam, torch.full_like(t.lam, FLOOR))
    low = torch.where(last, low, torch.minimum(low, s.lam))
    low = torch.where(low.isfinite(), low, 0.0)
    here = curves.at(low)
    over = _over(low, torch.where(last | still, low, s.lam), curves, count)
    over = [torch.where(last, a, b) for a, b in zip(_to_data(here.rest, count), over, strict=True)]
    kept, moments, tilt, grow, push = over
    noise = t.lam < FLOOR
    unseen = torch.where(noise, -torch.expm1(t.lam - low), 0.0)
    moments = torch.cat([moments[:1] + kept * _lift(unseen, kept), moments[1:]])
    scale, read = torch.exp(-low) / t.sigma, torch.where(noise, 0.0, 1 / t.alpha)
    plain = (torch.ones_like(kept), torch.zeros_like(moments), torch.zeros_like(kept))
    moved = (kept * _lift(scale, kept), moments, tilt)
    keep, moments, tilt = (torch.where(still, a, b) for a, b in zip(plain, moved, strict=True))
    return Way(keep, moments, tilt, grow, push, torch.where(noise | still, torch.zeros_like(kept), here.rest * _lift(read, kept)))


def _over(low: Tensor, high: Tensor, curves: Curves, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """K, the moments, the tilt, e^S and B of the way from low to high."""
    panels = max(1, math.ceil(float((high - low).max()) / PANEL))
    share = ((torch.arange(panels)[:, None] + POINTS) / panels).reshape(-1, *[1] * low.ndim)
    lam, width = low + share * (high - low), (high - low) / panels
    known = curves.at(lam)
    rest, rest_end = _running(known.rest, width, panels)
    s, s_end = _running(known.s, width, panels)
    b, push = _running(torch.exp(-s) * known.b, width, panels)
    kernel = torch.exp(_lift(lam - high, rest) + rest_end - rest + s)
    powers = [_running(kernel * _lift(share, kernel) ** k, width, panels)[1] for k in range(count)]
    tilt = _running(kernel * b, width, panels)[1]
    kept = torch.exp(_lift(low - high, rest_end) + rest_end)
    return kept, torch.stack(powers), tilt, torch.exp(s_end), push


def _to_data(rest: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The step to sigma_s = 0, first order: y_s = sqrt(1 - l) y_t - f_t / (1 + sqrt(1 - l)).

    It is exact where l is that of Gaussian data, and E[x_0 | x_t] where l = 1. Like `_over`.
    """
    root = rest.clamp_min(0) ** 0.5
    zero, one = torch.zeros_like(root), torch.ones_like(root)
    return root, torch.stack([1 / (1 + root), *[zero] * (count - 1)]), zero, one, zero


def _running(values: Tensor, width: Tensor, panels: int) -> tuple[Tensor, Tensor]:
    """The integral of `values` from the start to every point, and over all."""
    split = values.reshape(panels, NODES, *values.shape[1:])
    inside = torch.einsum("gk,mk...->mg...", INSIDE, split) * width
    whole = torch.einsum("k,mk...->m...", WEIGHTS, split) * width
    before = whole.cumsum(0) - whole
    return (inside + before[:, None]).reshape(values.shape), whole.sum(0)


def _lift(value: Tensor, like: Tensor) -> Tensor:
    """Axes of size 1 for the event, at the end."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


def _rule() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre on 0..1, and the integrals of the Lagrange polynomials from 0 to each node."""
    x, weights = np.polynomial.legendre.leggauss(NODES)
    values = np.polynomial.legendre.legvander(x, NODES)
    low = np.concatenate([x[:, None] + 1, (values[:, 2:] - values[:, :-2]) / (2 * np.arange(1, NODES) + 1)], axis=1)
    inside = np.linalg.solve(values[:, :NODES].T, low.T).T
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(weights / 2), torch.from_numpy(inside / 2)


POINTS, WEIGHTS, INSIDE = _rule()

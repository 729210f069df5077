"""The statistics of a model as functions of lam: interpolated between the nodes, continued beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

import diffcore as dc

WINDOW = 6
"""Nodes of the local polynomial: the error falls with the sixth power of their distance."""


class Known(NamedTuple):
    """1 - l, s and b at some lam."""

    rest: Tensor
    s: Tensor
    b: Tensor


class Curves:
    """l, s, b of lam.

    Between the nodes: the polynomial of degree 5 through the six nearest. Beyond the first and the last node an entry is
    continued as if its data were Gaussian, l = 1 / (1 + q e^(2 lam)) with q from the edge (l outside 0..1 stays as it is), and
    s and b fade with e^(-2 |lam - edge|), as df/dlam does at both ends for data that have a density.
    """

    def __init__(self, found: Mapping[str, Tensor]) -> None:
        self.lam, linear, self.s, self.b = (found[name].detach().cpu().double() for name in ("lam", "l", "s", "b"))
        self.rest = 1 - linear
        self.event = tuple(linear.shape[1:])

    def __repr__(self) -> str:
        return f"Curves({len(self.lam)} nodes, lam {float(self.lam[0]):.3g} to {float(self.lam[-1]):.3g}, event {self.event})"

    def at(self, lam: Tensor) -> Known:
        """The statistics at lam, [*lam, *event]: either lam has one axis (or none), or the event has none.

        Raises `IncompatibleError` where both have axes.
        """
        if lam.ndim > 1 and self.event:
            raise dc.IncompatibleError("dpm-solver-v3 with statistics per entry knows no per-pixel time; set per: time")
        inside = lam.clamp(float(self.lam[0]), float(self.lam[-1]))
        index, weight = near(self.lam, inside)
        rest, s, b = (_read(v, index, weight) for v in (self.rest, self.s, self.b))
        beyond = (lam - inside).reshape(lam.shape + (1,) * len(self.event))
        fade = torch.exp(-2 * beyond.abs())
        return Known(_continued(rest, beyond), s * fade, b * fade)


def _read(values: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """The sum over the window, one node at a time."""
    lifted = weight.reshape(weight.shape + (1,) * (values.ndim - 1))
    return sum((lifted[k] * values[index[k]] for k in range(len(index))), torch.zeros((), dtype=values.dtype))


def _continued(rest: Tensor, beyond: Tensor) -> Tensor:
    """1 - l = q e^(2 lam) / (1 + q e^(2 lam)) through the value at the edge."""
    proper = (rest > 0) & (rest < 1) & (beyond != 0)
    odds = torch.where(proper, rest / (1 - torch.where(proper, rest, 0.0)), 0.0) * torch.exp(2 * beyond)
    return torch.where(proper, odds / (1 + odds), rest)


def near(nodes: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """The indices of the nearest nodes and the values of their Lagrange polynomials at lam: both [window, *lam]."""
    index = _window(nodes, lam)
    z = nodes[index]
    own = torch.eye(len(z), dtype=torch.bool).reshape(len(z), len(z), *[1] * lam.ndim)
    factors = torch.where(own, 1.0, (lam - z)[None] / torch.where(own, 1.0, z[:, None] - z[None]))
    return index, factors.prod(1)


def derivative(nodes: Tensor, values: Tensor) -> Tensor:
    """d values / d lam at the nodes, from the local polynomials. values: [nodes, ...]."""
    index = _window(nodes, nodes)
    z = (nodes[index] - nodes).T
    powers = z[:, None, :] ** torch.arange(z.shape[1], dtype=torch.float64)[:, None]
    wanted = torch.zeros(z.shape[1], 1, dtype=torch.float64)
    wanted[1:2] = 1
    weight = torch.linalg.solve(powers, wanted.expand(len(nodes), -1, -1))[..., 0]
    return _read(values, index, weight.T)


def _window(nodes: Tensor, lam: Tensor) -> Tensor:
    count = min(WINDOW, len(nodes))
    first = (torch.searchsorted(nodes, lam.contiguous(), right=True) - (count + 1) // 2).clamp(0, len(nodes) - count)
    return first + torch.arange(count).reshape(-1, *[1] * lam.ndim)

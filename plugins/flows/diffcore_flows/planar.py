"""Planar flows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import diffcore as dc

from .normalising import LayeredFlow


class Planar(nn.Module):
    """y = x + g u tanh(w.x + b), det = 1 + g u.w (1 - tanh^2), with u.w > -1 by construction, so it is invertible."""

    def __init__(self, size: int, context: int) -> None:
        super().__init__()
        self.u, self.w = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.randn(size) / math.sqrt(size))
        self.b = nn.Linear(context, 1)

    def _direction(self) -> Tensor:
        """u moved along w so that u.w = softplus(u.w) - 1 > -1 (Rezende and Mohamed 2015, appendix A.1)."""
        along = self.u @ self.w
        return self.u + (softplus(along) - 1 - along) * self.w / (self.w @ self.w)

    def there(self, x: Tensor, h: Tensor, gate: Tensor, draw: dc.Draw | None) -> tuple[Tensor, Tensor]:
        """y and log |det dy/dx|."""
        u = self._direction()
        bend = torch.tanh((x @ self.w)[:, None] + self.b(h))
        return x + gate * bend * u, torch.log1p(gate * (u @ self.w) * (1 - bend**2)).flatten()

    def back(self, y: Tensor, h: Tensor, gate: Tensor) -> Tensor:
        """x: a = w.x solves a + g u.w tanh(a + b) = w.y, one rising equation per sample, by bisection and one Newton step."""
        u, b, target = self._direction(), self.b(h), (y @ self.w)[:, None]
        slope = gate * (u @ self.w)
        with torch.no_grad():
            low, high = target - slope.abs(), target + slope.abs()
            for _ in range(64):
                middle = (low + high) / 2
                above = middle + slope * torch.tanh(middle + b) > target
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        a = (low + high) / 2
        bend = torch.tanh(a + b)
        a = a - (a + slope * bend - target) / (1 + slope * (1 - bend**2)).detach()  # carries the gradient of the root
        return y - gate * torch.tanh(a + b) * u


@dc.component
class PlanarFlow(dc.Network):
    """z = f_K o ... o f_1(x) with f(x) = x + u tanh(w.x + b), b linear in time and classes.

    log det = sum_k log(1 + u.w (1 - tanh^2)), invertible because u.w > -1. The inverse is one scalar root per layer, found to
    rounding. Weak: each layer bends space along one direction only. A baseline for the plane. Events are flattened.
    """

    source: ClassVar[str] = "Rezende and Mohamed 2015, arXiv 1505.05770, eqs. 10 to 12 and appendix A.1"
    items: ClassVar[tuple[str, ...]] = ("5.02",)

    layers: int = dc.param(default=32, ge=1, le=1000, doc="planar layers")

    @property
    def takes_second_time(self) -> bool:
        """It is a flow map."""
        return True

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The flow of one tensor of any shape."""
        shape, _ = self.shapes(event, outputs)
        context = 8
        return LayeredFlow([Planar(math.prod(shape), context) for _ in range(self.layers)], cond, context)

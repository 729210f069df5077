"""RealNVP: affine coupling layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import diffcore as dc

from .normalising import LayeredFlow


class AffineCoupling(nn.Module):
    """y_b = x_b exp(a) + m with (a, m) a network of x_a, for the two halves of the entries; log det = sum a."""

    mask: Tensor

    def __init__(self, size: int, width: int, context: int, limit: float, parity: int) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mask", ((torch.arange(size) + parity) % 2).float())
        self.net = nn.Sequential(
            nn.Linear(size + context, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2 * size)
        )
        for tensor in self.net[-1].parameters():
            nn.init.zeros_(tensor)

    def _parts(self, x: Tensor, h: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        a, m = self.net(torch.cat([x * self.mask, h], 1)).chunk(2, dim=1)
        moved = gate * (1 - self.mask)
        return moved * self.limit * torch.tanh(a), moved * m

    def there(self, x: Tensor, h: Tensor, gate: Tensor, draw: dc.Draw | None) -> tuple[Tensor, Tensor]:
        """y and log |det dy/dx|."""
        a, m = self._parts(x, h, gate)
        return x * a.exp() + m, a.sum(1)

    def back(self, y: Tensor, h: Tensor, gate: Tensor) -> Tensor:
        """x."""
        a, m = self._parts(y, h, gate)
        return (y - m) * (-a).exp()


@dc.component
class RealNVP(dc.Network):
    """z = f_K o ... o f_1(x), each f leaves every other entry as it is and maps the others by y = x exp(a) + m.

    a = limit tanh(.) and m come from a perceptron of the entries left alone, of the time and the classes; the halves alternate.
    Both directions are exact and equally cheap, and log det = sum a. Events are flattened and need two entries or more.

    Raises `IncompatibleError` for events of one entry.
    """

    source: ClassVar[str] = "Dinh, Sohl-Dickstein and Bengio 2017, arXiv 1605.08803, eqs. 6 to 8"
    items: ClassVar[tuple[str, ...]] = ("1.08", "5.01")

    layers: int = dc.param(default=8, ge=2, le=1000, doc="coupling layers")
    width: int = dc.param(default=64, ge=1, le=65_536, doc="units of each perceptron")
    limit: float = dc.param(default=2.0, gt=0, le=20, doc="largest |log scale| of one layer")

    @property
    def takes_second_time(self) -> bool:
        """It is a flow map."""
        return True

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The flow of one tensor of any shape."""
        shape, _ = self.shapes(event, outputs)
        size, context = math.prod(shape), 16
        if size < 2:
            raise dc.IncompatibleError(f"real-nvp maps one half of the entries by the other, and {shape} has {size}; take cnf")
        layers: list[nn.Module] = [AffineCoupling(size, self.width, context, self.limit, k % 2) for k in range(self.layers)]
        return LayeredFlow(layers, cond, context)

"""Networks that take the index of a chain as an integer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

import diffcore as dc


class IndexedModule(nn.Module):
    """net(x, index, **cond) as net(x, t, **cond): index = round(N t) - 1 within 0 .. N - 1, int64, t in [0, 1].

    A published network that was trained with integers is used as it is: `Denoiser(IndexedModule(net, 1000), "eps", process)`.
    """

    def __init__(self, net: nn.Module, steps: int, null_cond: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.net, self.steps = net, steps
        self.null_cond: dict[str, Any] = dict(getattr(net, "null_cond", {}) if null_cond is None else null_cond)

    def index(self, t: Tensor) -> Tensor:
        """The index of a time, int64, shape of t."""
        return (t * self.steps).round().long().sub(1).clamp(0, self.steps - 1)

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, **cond: Any) -> Tensor:
        """What the network returns at the indices of t (and s)."""
        second = {} if s is None else {"s": self.index(s)}
        return self.net(x, self.index(t), **second, **cond)


@dc.component
class Indexed(dc.Network):
    """Another network, given the index round(N t) - 1 of 0 .. N - 1 as an integer instead of the time t in [0, 1].

    For networks with a table or a sinusoid of integers. Its times are then exact only at the indices of the chain: train
    with the time law `indices`, sample on the grids of indices.
    """

    source: ClassVar[str] = "Ho et al. 2020, arXiv 2006.11239, appendix B"
    example: ClassVar[Mapping[str, Any]] = {"network": {"type": "mlp"}}

    network: dc.Network = dc.param(doc="the network that takes integers")
    steps: int = dc.param(default=1000, ge=1, le=100_000, doc="length N of the chain")

    @property
    def takes_second_time(self) -> bool:
        """Whether the network does."""
        return self.network.takes_second_time

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The network behind the adapter."""
        return IndexedModule(self.network.build(event, cond, outputs), self.steps)

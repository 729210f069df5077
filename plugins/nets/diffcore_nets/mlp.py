"""A residual perceptron for vectors (and anything small enough to be flattened)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import silu

import diffcore as dc

from .embedding import Conditioning
from .layers import modulate, zeroed


class Block(nn.Module):
    """x + gate * W_2 silu(W_1 modulate(norm(x))): scale, shift and gate are linear in the embedding and start at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(width, 3 * width))
        self.hidden, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, width) -> the same shape."""
        scale, shift, gate = self.modulation(emb).chunk(3, dim=-1)
        return x + gate * self.out(silu(self.hidden(modulate(self.norm(x), scale, shift))))


class MLPModule(nn.Module):
    """See `MLP`."""

    def __init__(self, spec: MLP, shape: tuple[int, ...], cond: Mapping[str, int], outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.null_cond, self.outputs, size = dict(cond), outputs, math.prod(shape)
        self.embed = Conditioning(spec.width, cond, spec.second_time)
        self.stem = nn.Linear(size, spec.width)
        self.blocks = nn.ModuleList(Block(spec.width) for _ in range(spec.depth))
        self.norm, self.head = nn.LayerNorm(spec.width), zeroed(nn.Linear(spec.width, math.prod(outputs)))

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, **cond: Tensor | None) -> Tensor:
        """The prediction at x (B, *shape), of shape (B, *outputs)."""
        emb = self.embed(x, t, s, cond)
        h = self.stem(x.flatten(1))
        for block in self.blocks:
            h = block(h, emb)
        return self.head(silu(self.norm(h))).unflatten(1, self.outputs)


@dc.component
class MLP(dc.Network):
    """`depth` residual blocks of `width` units, modulated by the time and class embedding; events are flattened.

    Every block and the output layer start at zero, so the untrained network is 0 everywhere.
    """

    source: ClassVar[str] = "Perez et al. 2018 (arXiv 1709.07871); Peebles and Xie 2023 (arXiv 2212.09748) for the zero start"

    width: int = dc.param(default=128, ge=2, le=65_536, doc="units per layer")
    depth: int = dc.param(default=3, ge=1, le=1000, doc="residual blocks")
    second_time: bool = dc.param(default=False, doc="also embed s: the network of a flow map")

    @property
    def takes_second_time(self) -> bool:
        """`second_time`."""
        return self.second_time

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The module for one tensor of any shape, and outputs of any."""
        shape, out = self.shapes(event, outputs)
        return MLPModule(self, shape, cond, out)

"""A plain smooth perceptron."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import diffcore as dc

FREQUENCIES = 8


class PerceptronModule(nn.Module):
    """See `Perceptron`."""

    freqs: Tensor

    def __init__(self, spec: Perceptron, shape: tuple[int, ...], cond: Mapping[str, int], outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.null_cond, self.outputs = dict(cond), outputs
        self.register_buffer("freqs", math.pi * 2.0 ** torch.arange(-2, FREQUENCIES - 2), persistent=False)
        self.labels = nn.ModuleDict({name: nn.Embedding(count + 1, spec.width) for name, count in cond.items()})
        self.stem = nn.Linear(math.prod(shape) + 2 * FREQUENCIES, spec.width)
        self.hidden = nn.ModuleList(nn.Linear(spec.width, spec.width) for _ in range(spec.depth))
        self.head = nn.Linear(spec.width, math.prod(outputs))

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, **cond: Any) -> Tensor:
        """The output at x (B, *shape) and times t (B,), of shape (B, *outputs)."""
        phase = t.to(x.dtype)[:, None] * self.freqs.to(x.dtype)
        h = self.stem(torch.cat([x.flatten(1), phase.sin(), phase.cos()], 1))
        for name, table in self.labels.items():
            label = cond.get(name)
            h = h + table(torch.full_like(t, self.null_cond[name], dtype=torch.long) if label is None else label)
        for layer in self.hidden:
            h = h + layer(nn.functional.silu(h))
        return self.head(nn.functional.silu(h)).unflatten(1, self.outputs)


@dc.component
class Perceptron(dc.Network):
    """h <- W_0 [x, sin(w t), cos(w t)] + (class embeddings), `depth` times h <- h + W silu(h), then W silu(h).

    Events are flattened. Without normalisation and infinitely smooth in x, so that it may be differentiated twice, as the
    training of an energy does. The first output is not zero: an energy's gradient could else not reach its weights.
    """

    width: int = dc.param(default=128, ge=2, le=65_536, doc="units per layer")
    depth: int = dc.param(default=2, ge=1, le=1000, doc="hidden layers")

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The module for one tensor of any shape, and outputs of any."""
        shape, out = self.shapes(event, outputs)
        return PerceptronModule(self, shape, cond, out)

"""What normalising flows share: an invertible map to noise whose log-determinant is known.

A flow is a family of bijections F_t: x_t -> z, the identity at time feature 1 (pure noise), with

    log p_t(x) = log N(F_t(x); 0, I) + log |det dF_t/dx|,     Psi_{t->s} = F_s^{-1} o F_t,

so it is a flow map too. A layer's effect is multiplied by the gate 1 - t; trained on data alone, only t = 0 and 1 have a meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import diffcore as dc


class NormalisingFlow(nn.Module):
    """Base of the modules. A subclass gives `normalise` and `generate`."""

    def __init__(self, cond: Mapping[str, int]) -> None:
        super().__init__()
        self.null_cond = dict(cond)

    def normalise(self, x: Tensor, t: Tensor, draw: dc.Draw | None = None, **cond: Any) -> tuple[Tensor, Tensor]:
        """z = F_t(x), like x, and log |det dF_t/dx|, (B,). t: time features (B,); draw: for estimates of the determinant."""
        raise NotImplementedError

    def generate(self, z: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """x = F_t^{-1}(z), like z."""
        raise NotImplementedError

    def log_prob(self, x: Tensor, t: Tensor, draw: dc.Draw | None = None, **cond: Any) -> Tensor:
        """log p_t(x) in nats, (B,)."""
        z, change = self.normalise(x, t, draw, **cond)
        return change - 0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(1)

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, **cond: Any) -> Tensor:
        """Psi_{t->s}(x). Raises `IncompatibleError` without s: a normalising flow predicts nothing at one time."""
        if s is None:
            raise dc.IncompatibleError(
                "a normalising flow is no denoiser; sample it by flow_map: {type: normalising-flow}, solver: {type: flow-map}"
            )
        z, _ = self.normalise(x, t, None, **cond)
        return self.generate(z, s, **cond)


class Context(nn.Module):
    """A vector (B, width) of the time feature and the classes; the last row of each table is the null token."""

    def __init__(self, width: int, cond: Mapping[str, int]) -> None:
        super().__init__()
        self.null, self.time = dict(cond), nn.Linear(1, width)
        self.tables = nn.ModuleDict({name: nn.Embedding(count + 1, width) for name, count in cond.items()})

    def forward(self, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """t (B,), conditions (B,) or None."""
        total = self.time(t[:, None].to(self.time.weight.dtype))
        for name, table in self.tables.items():
            label = cond.get(name)
            total = total + table(torch.full_like(t, self.null[name], dtype=torch.int64) if label is None else label)
        return torch.tanh(total)


class LayeredFlow(NormalisingFlow):
    """F_t = f_K o ... o f_1 of flattened events. A layer has `there(x, h, gate, draw) -> (y, log det)` and `back(y, h, gate)`."""

    def __init__(self, layers: list[nn.Module], cond: Mapping[str, int], context: int) -> None:
        super().__init__(cond)
        self.context, self.layers = Context(context, cond), nn.ModuleList(layers)

    def normalise(self, x: Tensor, t: Tensor, draw: dc.Draw | None = None, **cond: Any) -> tuple[Tensor, Tensor]:
        """Layers in order; log-determinants add up."""
        h, gate, z = self.context(t, cond), gate_of(t, x), x.flatten(1)
        total = torch.zeros_like(z[:, 0])
        for k, layer in enumerate(self.layers):
            z, change = layer.there(z, h, gate, None if draw is None else draw.fold(k))  # type: ignore[operator]
            total = total + change
        return z.reshape(x.shape), total

    def generate(self, z: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Inverses in the opposite order."""
        h, gate, x = self.context(t, cond), gate_of(t, z), z.flatten(1)
        for layer in reversed(self.layers):
            x = layer.back(x, h, gate)  # type: ignore[operator]
        return x.reshape(z.shape)


def gate_of(t: Tensor, x: Tensor) -> Tensor:
    """1 - t within [0, 1], (B, 1): no layer moves pure noise."""
    return (1 - t.to(x.dtype)).clamp(0, 1)[:, None]


def jacobian(fn: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """fn(x), and its Jacobian row by row, (B, D) and (B, D, D), for a map of samples (B, D); keeps the graph under gradients."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if graph and x.requires_grad else x.detach().requires_grad_()
        y = fn(x)
        rows = [torch.autograd.grad(y[:, d].sum(), x, create_graph=graph, retain_graph=True)[0] for d in range(y.shape[1])]
    return (y, torch.stack(rows, 1)) if graph else (y.detach(), torch.stack(rows, 1).detach())


def probe_of(x: Tensor, draw: dc.Draw | None) -> Tensor:
    """A Rademacher probe like x, keyed by `draw`. Raises `DataError` without one."""
    if draw is None:
        raise dc.DataError("a Hutchinson estimate draws a probe; pass draw=dc.Draw(seed, ids), or take the exact trace")
    return torch.where(draw.uniform_like(x) < 0.5, -1.0, 1.0).to(x)

"""Residual flows: contractive residual blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

import diffcore as dc

from .normalising import LayeredFlow, jacobian, probe_of


class Residual(nn.Module):
    """y = x + g r(x), Lip(r) <= `bound` < 1 in x: each weight is divided by its spectral norm where that exceeds its share.

    The activation is silu / 1.1, of slope at most 1. The inverse is the fixed point of x = y - g r(x).
    """

    def __init__(self, spec: ResidualFlow, size: int, context: int) -> None:
        super().__init__()
        self.spec = spec
        sizes = [size, spec.width, spec.width, size]
        self.weights = nn.ParameterList(torch.randn(b, a) / math.sqrt(a) for a, b in pairwise(sizes))
        self.biases = nn.ModuleList(nn.Linear(context, b) for b in sizes[1:])

    def residual(self, x: Tensor, h: Tensor, gate: Tensor) -> Tensor:
        """g r(x), (B, D)."""
        share = self.spec.bound ** (1 / len(self.weights))
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = linear(x if k == 0 else silu(x) / 1.1, weight * (share / torch.linalg.matrix_norm(weight, 2)).clamp_max(1.0))
            x = x + bias(h)
        return gate * x

    def there(self, x: Tensor, h: Tensor, gate: Tensor, draw: dc.Draw | None) -> tuple[Tensor, Tensor]:
        """y and log |det dy/dx|: of the whole Jacobian, or the estimated series."""
        if self.spec.trace == "exact":
            r, matrix = jacobian(lambda y: self.residual(y, h, gate), x)
            return x + r, torch.linalg.slogdet(matrix + torch.eye(x.shape[1]).to(x))[1]
        r, change = log_det_series(lambda y: self.residual(y, h, gate), x, probe_of(x, draw), self.spec.terms)
        return x + r, change

    def back(self, y: Tensor, h: Tensor, gate: Tensor) -> Tensor:
        """x to `tolerance` in every entry; one Newton step carries the gradient of the root."""
        x = y.detach()
        with torch.no_grad():
            for _ in range(10_000):
                old, x = x, y - self.residual(x, h, gate)
                if float((x - old).abs().max()) <= self.spec.tolerance * (1 - self.spec.bound) * (1 + float(x.abs().max())):
                    break
            _, matrix = jacobian(lambda z: self.residual(z, h, gate), x)
        gap = x + self.residual(x, h, gate) - y
        return x - torch.linalg.solve(matrix + torch.eye(x.shape[1]).to(x), gap)


def log_det_series(fn: Callable[[Tensor], Tensor], x: Tensor, probe: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """fn(x), and sum_{k=1}^{terms} (-1)^(k+1)/k v.J^k v, (B,): tr log(I + J) up to |J|^(terms+1), exact on average over v.

    J is the Jacobian of fn at x, |J| < 1, v = `probe` with E[v v^T] = I. Differentiable where gradients are on.
    """
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        y, row, total = fn(x), probe, torch.zeros_like(x[:, 0])
        for k in range(1, terms + 1):
            (row,) = torch.autograd.grad(y, x, row, create_graph=graph, retain_graph=True)
            total = total + (-1) ** (k + 1) / k * (row * probe).sum(1)
    return (y, total) if graph else (y.detach(), total.detach())


@dc.component
class ResidualFlow(dc.Network):
    """z = f_K o ... o f_1(x) with f(x) = x + r(x), Lip(r) <= `bound` < 1, so that every layer is invertible.

    log det = tr log(I + J) = sum_k (-1)^(k+1)/k tr J^k. 'exact' takes the determinant of the whole Jacobian (D products per
    layer, for small events); 'hutchinson' estimates the first `terms` terms by one probe: a bias of order bound^(terms + 1).
    Inverse by fixed point, error bound^n. Events are flattened.
    """

    source: ClassVar[str] = "Behrmann et al. 2019, arXiv 1811.00995; Chen et al. 2019, arXiv 1906.02735"
    items: ClassVar[tuple[str, ...]] = ("5.03",)
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"layers": 2, "width": 16},)

    layers: int = dc.param(default=6, ge=1, le=1000, doc="residual blocks")
    width: int = dc.param(default=64, ge=1, le=65_536, doc="units of each block")
    bound: float = dc.param(default=0.9, gt=0, lt=1, doc="largest Lipschitz constant of a residual")
    trace: Literal["exact", "hutchinson"] = dc.param(default="exact", doc="the log-determinant: whole, or estimated")
    terms: int = dc.param(default=10, ge=1, le=1000, doc="terms of the estimated series")
    tolerance: float = dc.param(default=1e-6, gt=0, le=1, doc="error of the inverse, relative to 1 + size")

    @property
    def takes_second_time(self) -> bool:
        """It is a flow map."""
        return True

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The flow of one tensor of any shape."""
        shape, _ = self.shapes(event, outputs)
        size, context = math.prod(shape), 16
        return LayeredFlow([Residual(self, size, context) for _ in range(self.layers)], cond, context)

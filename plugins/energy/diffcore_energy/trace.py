"""Traces and products of Jacobians by automatic differentiation, sample by sample."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

import diffcore as dc

Probes = Literal["rademacher", "gaussian"]


def pulled(value: Tensor, x: Tensor, v: Tensor, *, graph: bool = True) -> Tensor:
    """J^T v with J = d value / d x, of the shape of x; zero where value does not depend on x."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(value, x, v, create_graph=graph, retain_graph=True, materialize_grads=True)[0]


def pushed(value: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """J v, of the shape of value: the transpose of the map u -> J^T u."""
    if not value.requires_grad:
        return torch.zeros_like(value)
    u = torch.zeros_like(value, requires_grad=True)
    back = torch.autograd.grad(value, x, u, create_graph=True, materialize_grads=True)[0]
    return pulled(back, u, v, graph=False)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> per sample, (B,)."""
    return (a * b).flatten(1).sum(1)


def exact_trace(value: Tensor, x: Tensor) -> Tensor:
    """tr d value / d x, (B,): one reverse pass per entry of a sample."""
    total = value.new_zeros(len(x))
    for k in range(x[0].numel()):
        unit = torch.zeros_like(value)
        unit.flatten(1)[:, k] = 1
        total = total + inner(unit, pulled(value, x, unit))
    return total


def jacobian(value: Tensor, x: Tensor) -> Tensor:
    """d value / d x, (B, M, D) for value (B, M entries) and x (B, D entries), differentiable once more."""
    flat = value.flatten(1)
    rows = [pulled(flat[:, m], x, torch.ones_like(flat[:, m])).flatten(1) for m in range(flat.shape[1])]
    return torch.stack(rows, 1)


def probe(x: Tensor, kind: Probes, draw: dc.Draw) -> Tensor:
    """A random vector v like x with E[v v^T] = I."""
    v = draw.normal_like(x)
    return v if kind == "gaussian" else torch.where(v < 0, -1.0, 1.0).to(x.dtype)

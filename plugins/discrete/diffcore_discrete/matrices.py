"""Transition matrices of discrete time: one step, and products of steps. Rows are the state before, columns after."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .d3pm import D3PM


def absorbing(values: int, beta: Tensor) -> Tensor:
    """(1 - beta) I + beta 1 e_mask^T over V + 1 states, [N, V + 1, V + 1] for beta [N]; the mask stays."""
    b = beta[:, None, None]
    to_mask = torch.zeros(values + 1, values + 1, dtype=beta.dtype)
    to_mask[:, values] = 1
    return (1 - b) * torch.eye(values + 1, dtype=beta.dtype) + b * to_mask


def uniform(values: int, beta: Tensor) -> Tensor:
    """(1 - beta) I + beta / V, [N, V, V]."""
    b = beta[:, None, None]
    return (1 - b) * torch.eye(values, dtype=beta.dtype) + b / values


def gaussian(values: int, beta: Tensor) -> Tensor:
    """Discretised Gaussian: moves by n with weight exp(-4 n^2 / ((V - 1)^2 beta)) over the sum of all n of -(V-1)..V-1.

    What would leave the range stays where it is, so rows and columns sum to 1 and the stationary law is uniform
    (Austin et al. 2021, arXiv 2107.03006).
    """
    place = torch.arange(values, dtype=beta.dtype)
    reach = torch.arange(-(values - 1), values, dtype=beta.dtype)
    scale = -4 / ((values - 1) ** 2 * beta[:, None, None])
    moved = (scale * (place[:, None] - place).square()).exp() / (scale * reach.square()).exp().sum(-1, keepdim=True)
    moved = moved * (1 - torch.eye(values, dtype=beta.dtype))
    return moved + torch.diag_embed(1 - moved.sum(-1))


@lru_cache(maxsize=32)
def steps(process: D3PM) -> Tensor:
    """Q_1 to Q_N of a process, [N, K, K] float64."""
    make = {"absorbing": absorbing, "uniform": uniform, "gaussian": gaussian}[process.matrix]
    return make(process.values, process.betas())


@lru_cache(maxsize=32)
def products(process: D3PM) -> Tensor:
    """Q_1 ... Q_k for k = 0 to N, [N + 1, K, K]."""
    one = steps(process)
    made = [torch.eye(one.shape[-1], dtype=one.dtype)]
    for q in one:
        made.append(made[-1] @ q)
    return torch.stack(made)


@lru_cache(maxsize=4096)
def between(process: D3PM, low: int, high: int) -> Tensor:
    """Q_(low+1) ... Q_high, [K, K]."""
    one = steps(process)
    made = torch.eye(one.shape[-1], dtype=one.dtype)
    for q in one[low:high]:
        made = made @ q
    return made

"""Discrete optimal transport between two batches of equal size and weight: exact assignments and entropic plans.

    min_P <P, C>   subject to  P 1 = P^T 1 = 1/n,  P >= 0            (a permutation solves it, Birkhoff)
    min_P <P, C> + eps KL(P | 1/n^2)                                 P = diag(u) exp(-C / eps) diag(v)  (Sinkhorn)

Sources: Kuhn 1955; Cuturi 2013 (arXiv 1306.0895); Peyre and Cuturi 2019 (arXiv 1803.00567), sections 2 and 4.4.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

import diffcore as dc

Backend = Literal["scipy", "pot"]


def squared_distances(x: dc.State, y: dc.State) -> Tensor:
    """|x_i - y_j|^2 over all entries of all leaves, (n, m) float64."""
    parts = [
        torch.cdist(a.flatten(1).double(), b.flatten(1).double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2
        for a, b in zip(dc.leaves(x), dc.leaves(y), strict=True)
    ]
    return torch.stack(parts).sum(0)


def assignment(cost: Tensor, backend: Backend = "scipy") -> Tensor:
    """The column of each row in a permutation of least total cost, int64 (n,). Raises `DataError` where POT is absent."""
    table = cost.detach().cpu().double().numpy()
    columns = _by_pot(table) if backend == "pot" else _by_scipy(table)
    return torch.as_tensor(columns, dtype=torch.int64, device=cost.device)


def _by_scipy(table: object) -> object:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(table)[1]


def _by_pot(table: object) -> object:
    try:
        import ot  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise dc.DataError("backend 'pot' needs the package POT; run: pip install 'diffcore-flows[pot]'") from None
    return ot.emd([], [], table).argmax(1)


def sinkhorn(cost: Tensor, eps: float, tolerance: float = 1e-6, most: int = 10_000) -> Tensor:
    """The entropic plan (n, m), float64, of uniform weights; log-domain, rows exact, columns to `tolerance` in total.

    cost: (n, m); eps > 0 in units of the cost. Raises `NumericsError` where `most` rounds do not reach the tolerance.
    """
    kernel = -cost.double() / eps
    rows, columns = (-math.log(size) for size in cost.shape)
    g = torch.zeros_like(kernel[0])
    for _ in range(most):
        f = rows - (kernel + g).logsumexp(1)
        log_plan = kernel + f[:, None] + g
        found = log_plan.logsumexp(0)
        if float((found.exp() - math.exp(columns)).abs().sum()) <= tolerance:
            return log_plan.exp()
        g = g + columns - found
    raise dc.NumericsError(
        f"Sinkhorn did not reach marginals within {tolerance:g} in {most} rounds at a regularisation of "
        f"{eps / float(cost.mean()):.2g} of the mean cost; raise the regularisation, or leave it out for the exact assignment"
    )

"""Optimal transport within a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .transport import Backend, assignment, sinkhorn, squared_distances

TOLERANCE = 1e-3
"""Error of the columns of the entropic plan, in total; its rows, from which noise is drawn, are exact."""


@dc.component
class MinibatchOT(dc.Coupling):
    """Noise permuted within the batch so that sum_i |x_i - eps_pi(i)|^2 is least, or drawn from the entropic plan.

    Exact (`regularisation` null): every noise is used once, so its distribution is kept for every batch; one sample alone is
    paired independently, and the cost falls to W2^2 as the batch grows. Entropic: noise j goes to x_i with probability
    n P_ij, P the Sinkhorn plan, so noise may repeat in a batch and its distribution is kept on average; a large regularisation
    is independent pairing, a small one the exact one.

    Conditions stay with their data. Under `per_condition` pairs are formed only among equal conditions, so that noise stays
    independent of them, as sampling under a condition assumes; a condition that differs in every row then leaves nothing
    to pair. Without it the noise of a class is not the prior, and samples of one class are biased. Each process of a
    distributed run pairs its own share of the batch.

    Raises `DataError` where `backend: pot` is asked for and POT is absent.
    """

    source: ClassVar[str] = (
        "Tong et al. 2024, arXiv 2302.00482; Pooladian et al. 2023, arXiv 2304.14772; Cheng and Schwing 2025, arXiv 2503.10636"
    )
    items: ClassVar[tuple[str, ...]] = ("5.21", "R20")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"regularisation": 0.05},)

    regularisation: float | None = dc.param(
        default=None, gt=0, le=1e6, doc="entropic regularisation, as a fraction of the mean cost of a group; exact where null"
    )
    backend: Backend = dc.param(default="scipy", doc="who solves the exact assignment; 'pot' is the extra diffcore-flows[pot]")
    per_condition: bool = dc.param(default=True, doc="pair only samples of equal conditions")

    def pair(self, x0: dc.State, eps: dc.State, draw: dc.Draw, **cond: Any) -> dc.State:
        """The noise of each row of x0; both (B, ...), tensors or trees."""
        level, order = draw.uniform(), torch.arange(len(dc.leaves(x0)[0]))
        for rows in self._groups(len(order), cond):
            cost = squared_distances(_rows(x0, rows), _rows(eps, rows))
            order[rows] = rows[self._matched(cost, level[rows]).cpu()]
        return _rows(eps, order)

    def _groups(self, n: int, cond: dict[str, Any]) -> list[Tensor]:
        """The rows of each combination of conditions; all rows where there are none."""
        columns = [torch.as_tensor(value).expand(n) if torch.as_tensor(value).ndim == 0 else value for value in cond.values()]
        if not columns or not self.per_condition:
            return [torch.arange(n)]
        keys = torch.cat([column.reshape(n, -1).double().cpu() for column in columns], 1)
        _, group = torch.unique(keys, dim=0, return_inverse=True)
        return [(group == k).nonzero().flatten() for k in range(int(group.max()) + 1)]

    def _matched(self, cost: Tensor, level: Tensor) -> Tensor:
        """The noise of each row: the assignment (also where nothing costs), or column j of the plan with probability n P_ij."""
        if self.regularisation is None or not cost.any():
            return assignment(cost, self.backend)
        rows = sinkhorn(cost, self.regularisation * float(cost.mean()), TOLERANCE).cumsum(1)
        level = level.to(rows)[:, None] * rows[:, -1:]  # below the last sum, as uniform numbers are below 1
        return torch.searchsorted(rows, level, right=True).flatten()


def _rows(x: dc.State, rows: Tensor) -> dc.State:
    return dc.tree_map(lambda leaf: leaf[rows.to(leaf.device)], x)

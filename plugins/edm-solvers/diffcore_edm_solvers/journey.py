"""A batch of samples, each at a time of its own, on its way along the probability-flow ODE."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

import diffcore as dc

Rows = Tensor | None
"""Numbers of some samples; None for all."""


def taken(tree: Any, rows: Rows) -> Any:
    """The rows of every tensor of a tree."""
    return tree if rows is None else dc.tree_map(lambda leaf: leaf.index_select(0, rows), tree)


def put(tree: Any, rows: Rows, part: Any) -> Any:
    """The tree with some rows replaced; nothing is changed in place."""
    return part if rows is None else dc.tree_map(lambda leaf, new: leaf.index_copy(0, rows, new), tree, part)


def which(mask: Tensor) -> Rows | tuple[()]:
    """The rows where a mask holds; an empty tuple where it holds nowhere."""
    count = int(mask.sum())
    return () if not count else None if count == len(mask) else mask.nonzero()[:, 0]


def weight(value: Tensor, like: dc.State) -> Tensor:
    """A weight per sample, from float64 to the precision of a state."""
    return value.to(dc.leaves(like)[0].dtype)


@attrs.define
class Journey:
    """`x`: the states; `t`: their times [B], float64; `evaluations`: of the field, per sample [B]."""

    field: dc.Field
    x: dc.State
    t: Tensor
    evaluations: Tensor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.evaluations = torch.zeros(len(self.t), dtype=torch.long, device=self.t.device)

    def posterior(self, x: dc.State, at: dc.Coeffs, rows: Rows) -> Any:
        """The posteriors of some samples at states and times of their own; it counts."""
        field = self.field
        if rows is not None:
            cond = {k: v.index_select(0, rows) if isinstance(v, Tensor) and v.ndim else v for k, v in field.cond.items()}
            field = field.bound(cond)
            self.evaluations = self.evaluations.index_add(0, rows, torch.ones_like(rows))
        else:
            self.evaluations = self.evaluations + 1
        return field.posterior(x, at.cast(dc.leaves(x)[0].dtype))

    def jump(self, goal: Tensor) -> None:
        """To the times `goal` with x* frozen: the exact step where nothing is left to be known."""
        rows = which(self.t != goal)
        if isinstance(rows, tuple):
            return
        process, x = self.field.process, taken(self.x, rows)
        t, s = process.coeffs(taken(self.t, rows)), process.coeffs(taken(goal, rows))
        keep, gain = (weight(v, x) for v in dc.Span.between(t, s)[2:4])
        self.x = put(self.x, rows, self.posterior(x, t, rows).blend(keep, gain))
        self.t = goal

    def walk(self, goal: Tensor) -> None:
        """To the times `goal`, where the ODE is regular."""
        raise NotImplementedError

"""A sliding window of nodes for every sample, and one sweep of the Picard iteration over all of them."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

import diffcore as dc
from diffcore_parallel.drift import Drift
from diffcore_parallel.moves import Steps
from diffcore_parallel.ranks import Ranks


@attrs.define
class Window:
    """`left`: the last node of each sample that is final, [B]; `known`: the last that has a value; `sweeps`: taken so far.

    size: steps in a window; limit: the squared change per entry below which a node counts as converged, [N + 1].
    The states of the nodes low to low + 2 size, low the least `left`, are kept, node i in slot i modulo their number.
    """

    field: dc.Field
    moves: Steps | Drift
    size: int
    limit: Tensor
    ranks: Ranks
    kept: Any
    left: Tensor
    known: Tensor
    sweeps: Tensor

    @classmethod
    def opened(cls, field: dc.Field, moves: Steps | Drift, x: dc.State, size: int, limit: Tensor, ranks: Ranks) -> Window:
        """Every sample at node 0."""
        steps, count = len(limit) - 1, dc.leaves(x)[0].shape[0]
        size, device = min(size, steps), dc.leaves(x)[0].device
        kept = dc.tree_map(lambda leaf: leaf[None].repeat(min(2 * size, steps) + 1, *(1,) * leaf.ndim), x)
        none = torch.zeros(count, dtype=torch.long, device=device)
        return cls(field, moves, size, limit.to(device), ranks, kept, none, none, none)

    @property
    def last(self) -> int:
        """N, the node at the end."""
        return len(self.limit) - 1

    @property
    def low(self) -> int:
        """The node that all samples have reached."""
        return int(self.left.min())

    def state(self, node: int) -> dc.State:
        """The states of all samples at a node."""
        return dc.tree_map(lambda leaf: leaf[node % len(leaf)].clone(), self.kept)

    def sweep(self) -> None:
        """X_j <- X_left + sum of the increments from left to j, for all nodes j of all windows; then slide.

        A sample that is more than a window ahead of the last one waits, which bounds the memory and changes no number.
        """
        rows = ((self.left < self.last) & (self.left - self.left.min() <= self.size)).nonzero()[:, 0]
        nodes = self.left[rows, None] + torch.arange(self.size + 1, device=self.left.device)
        real = nodes <= self.last
        before = self._read(torch.minimum(nodes, self.known[rows, None]), rows)
        change = self.moves.increments(self._values(before, nodes, real, rows), nodes[:, : self.size + self.moves.extra])
        after = dc.tree_map(lambda x, d: x[:, :1] + d.cumsum(1), before, change)
        stride = self.ranks.agreed(self._stride(before, after, nodes, real))
        self._write(after, nodes[:, 1:], real[:, 1:], rows)
        self.known = self.known.index_copy(0, rows, torch.maximum(self.known[rows], nodes[:, -1].clamp_max(self.last)))
        self.left, self.sweeps = self.left.index_add(0, rows, stride), self.sweeps.index_add(0, rows, torch.ones_like(rows))
        self.moves.release(self.low)

    def _read(self, nodes: Tensor, rows: Tensor) -> dc.State:
        return dc.tree_map(lambda leaf: leaf[nodes % len(leaf), rows[:, None]], self.kept)

    def _write(self, x: dc.State, nodes: Tensor, real: Tensor, rows: Tensor) -> None:
        into, samples = nodes[real], rows[:, None].expand_as(nodes)[real]

        def put(leaf: Tensor, new: Tensor) -> Tensor:
            place = leaf.index_put if torch.is_grad_enabled() else leaf.index_put_
            return place((into % len(leaf), samples), new[real])

        self.kept = dc.tree_map(put, self.kept, x)

    def _values(self, x: dc.State, nodes: Tensor, real: Tensor, rows: Tensor) -> dc.State:
        """What the moves need of every node of every window, zero where nothing is asked: [A, p + extra, ...]."""
        width = self.size + self.moves.extra
        nodes, kinds = nodes[:, :width], self.moves.kinds.to(nodes.device)
        asked = real[:, :width] & (nodes < len(kinds))
        kind = torch.where(asked, kinds[nodes.clamp_max(len(kinds) - 1)], -1)
        out = dc.tree_map(lambda leaf: torch.zeros_like(leaf[:, :width]), x)
        for k in range(int(kinds.max()) + 1):
            sample, column = (kind == k).nonzero(as_tuple=True)
            if len(sample):
                found = self._evaluated(x, nodes, rows, sample, column)
                out = dc.tree_map(lambda leaf, new, at=(sample, column): leaf.index_put(at, new), out, found)
        return out

    def _evaluated(self, x: dc.State, nodes: Tensor, rows: Tensor, sample: Tensor, column: Tensor) -> dc.State:
        """One parallel evaluation: this process's part of it, and then the whole."""
        count = len(sample)
        part = self.ranks.part(count).to(sample.device)
        sample, column = sample[part], column[part]
        samples = rows[sample]
        cond = {k: v[samples] if isinstance(v, Tensor) and v.ndim else v for k, v in self.field.cond.items()}
        states = dc.tree_map(lambda leaf: leaf[sample, column], x)
        with dc.Meter() as meter:
            values = self.moves.values(self.field.bound(cond), states, nodes[sample, column], samples)
        dc.Meter.add(meter.rows * (self.ranks.size - 1))
        dc.Meter.forget()
        return self.ranks.whole(values, count)

    def _stride(self, before: dc.State, after: dc.State, nodes: Tensor, real: Tensor) -> Tensor:
        """How far each window slides: to the first node that still moved, that one included where its step is explicit."""
        moved = [(b[:, 1:] - a).square().flatten(2).sum(2) for b, a in zip(dc.leaves(before), dc.leaves(after), strict=True)]
        entries = sum(leaf[0, 0].numel() for leaf in dc.leaves(after))
        square = torch.stack([m.double() for m in moved]).sum(0).detach() / entries
        ends, inside = nodes[:, 1:].clamp_max(self.last), real[:, 1:]
        calm = (square <= self.limit[ends]) & inside
        first = calm.long().cumprod(1).sum(1)
        explicit = self.moves.explicit.to(nodes.device)[(nodes[:, 0] + first).clamp_max(self.last - 1)]
        return torch.where((first < inside.sum(1)) & explicit, first + 1, first)

"""Batches of a source in an order that is a function of seed and step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffcore.declare.errors import DataError
from diffcore.learning.data import Source
from diffcore.learning.distributed import check_batch
from diffcore.learning.sources import opened
from diffcore.numerics.arguments import shown, whole
from diffcore.numerics.draw import mix
from diffcore.numerics.tree import State


class Loader:
    """Batches by step number: a pure function of (seed, step), so that resuming needs no state and ranks agree.

    A finite set is walked in a fresh random order each epoch, batches running across epoch ends; an infinite one is
    numbered. `rank` of `world` takes its contiguous share of every global batch.
    """

    def __init__(
        self, source: Source, encode: Callable[[State], State], batch: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        check_batch(whole("batch", batch, 1, 2**40), whole("world", world, 1))
        if not callable(encode):
            raise DataError(f"encode must be a function of raw samples, such as data.encode; got {shown(encode)}")
        rank = whole("rank", rank, 0, world - 1)
        self.source, self.encode, self.size, self.seed = opened(source), encode, batch, whole("seed", seed)
        share = batch // world
        self.rows = range(rank * share, (rank + 1) * share)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def ids(self, step: int) -> Tensor:
        """Global sample numbers of this rank's share of batch `step`."""
        first, last = step * self.size + self.rows.start, step * self.size + self.rows.stop
        size = self.source.size
        if size is None:
            return torch.arange(first, last)
        epochs = range(first // size, (last - 1) // size + 1)
        return torch.cat([self._order_of(e, size)[max(0, first - e * size) : last - e * size] for e in epochs])

    def _order_of(self, epoch: int, size: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, 0xDA7A, epoch) & 0x7FFFFFFF)
            self._epoch, self._order = epoch, torch.randperm(size, generator=generator)
        return self._order

    def __call__(self, step: int) -> tuple[State, dict[str, Tensor]]:
        """Batch `step` as the network sees it, and its conditions."""
        raw, cond = self.source.batch(self.ids(step))
        return self.encode(raw), dict(cond)

"""The evaluations of one window over several devices: every process evaluates a part, and all of them get the whole."""

from __future__ import annotations

import attrs
import torch
import torch.distributed as dist
from torch import Tensor

import diffcore as dc


@attrs.frozen
class Ranks:
    """The processes that share the evaluations; one that shares with none is the identity."""

    rank: int = 0
    size: int = 1

    @classmethod
    def meeting(cls, x: dc.State, draw: dc.Draw) -> Ranks:
        """All processes of the default group, which must run the same samples from the same states.

        Raises `SpecError` on every process where they do not, `IncompatibleError` where gradients are asked for.
        """
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return cls()
        if torch.is_grad_enabled():
            raise dc.IncompatibleError("share_window runs without gradients: they do not pass from one process to another")
        leaf, size = dc.leaves(x)[0], dist.get_world_size()
        total = torch.stack([part.double().sum() for part in dc.leaves(x)]).sum()
        key = torch.tensor([len(leaf), hash((draw.seed, draw.salt, *draw.ids))], device=leaf.device)
        mine = torch.cat([key, total.view(1).view(torch.int64)])
        found = [torch.empty_like(mine) for _ in range(size)]
        dist.all_gather(found, mine)
        if not all(torch.equal(other, mine) for other in found):
            raise dc.SpecError(
                "share_window: the processes do not run the same samples. `diffcore run`, `diffcore sample` and Pipeline.sample "
                "under torchrun already share the samples out: leave share_window off there, and set it only where every "
                "process calls dc.sample with the same start states, seed and ids"
            )
        return cls(dist.get_rank(), size)

    def part(self, count: int) -> Tensor:
        """The numbers of this process's evaluations of `count`: equally many for each, the last one repeated to fill up."""
        each = -(-count // self.size)
        return torch.arange(self.rank * each, (self.rank + 1) * each).clamp_max(count - 1)

    def whole(self, values: dc.State, count: int) -> dc.State:
        """The evaluations of all processes, on each."""
        return dc.tree_map(lambda leaf: self._gathered(leaf)[:count], values) if self.size > 1 else values

    def _gathered(self, leaf: Tensor) -> Tensor:
        parts = [torch.empty_like(leaf, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, leaf.contiguous())
        return torch.cat(parts)

    def agreed(self, value: Tensor) -> Tensor:
        """The value of the first process: the others must not decide otherwise by rounding."""
        if self.size > 1:
            dist.broadcast(value, 0)
        return value

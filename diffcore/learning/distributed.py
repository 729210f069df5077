"""More than one process: what `torchrun` starts. With one process everything here is the identity."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from diffcore.declare.errors import DataError, DiffcoreError


def start() -> None:
    """Join the process group that torchrun announced (NCCL on CUDA, gloo on the CPU); nothing where there is none."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if cuda else "gloo")


def stop() -> None:
    """Leave the process group."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def world() -> tuple[int, int]:
    """(rank, number of processes)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def barrier() -> None:
    """Wait for all processes."""
    if world()[1] > 1:
        dist.barrier()


def announced() -> int:
    """How many processes torchrun has announced; they need not have met yet."""
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isdecimal() else 1


def check_batch(batch: int, world: int) -> None:
    """Raise `DataError` where a batch cannot be shared evenly."""
    if batch % world:
        raise DataError(f"batch size {batch} cannot be shared evenly by {world} processes")


def agree(act: Callable[[], object]) -> None:
    """Let the first process act; where it raises a `DiffcoreError`, every process raises one."""
    rank, size = world()
    failure: DiffcoreError | None = None
    if rank == 0:
        try:
            act()
        except DiffcoreError as error:
            failure = error
    if size > 1:
        flag = torch.tensor(int(failure is not None), device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.broadcast(flag, 0)
        failure = failure or (DiffcoreError("the first process was refused") if int(flag) else None)
    if failure is not None:
        raise failure


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in one message."""
    items = list(tensors)
    size = world()[1]
    if size == 1 or not items:
        return
    flat = torch.cat([t.reshape(-1) for t in items])
    dist.all_reduce(flat)
    flat /= size
    for item, part in zip(items, flat.split([t.numel() for t in items]), strict=True):
        item.copy_(part.view_as(item))


def share(n: int, group: int = 1) -> range:
    """This process's contiguous part of n samples, of whole groups; the parts differ by at most one group."""
    rank, size = world()
    parts = n // group
    return range(parts * rank // size * group, parts * (rank + 1) // size * group)


def gather(x: Tensor, n: int, group: int = 1) -> Tensor:
    """The rows of all processes, each with its `share`, in order of sample number, on every process."""
    size = world()[1]
    if size == 1:
        return x
    counts = [(n // group * (r + 1) // size - n // group * r // size) * group for r in range(size)]
    longest = max(counts)
    padded = torch.zeros((longest, *x.shape[1:]), dtype=x.dtype, device=x.device)
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

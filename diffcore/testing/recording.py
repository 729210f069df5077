"""What a run draws and calls, recorded from outside: the keys of its noise, and every network that is called."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from diffcore.numerics.draw import Draw
from diffcore.numerics.fields import Denoiser
from diffcore.numerics.process import AffineProcess
from diffcore.numerics.tree import State
from diffcore.testing.references import ReferenceFlow, ReferenceVE, ReferenceVP, Shared

Key = tuple[Any, ...]


@contextmanager
def keys_drawn() -> Generator[list[Key]]:
    """The key of every draw inside the block: what its numbers are a function of. Two of one key are one set of numbers."""
    original, keys = Draw._fill, list[Key]()  # pyright: ignore[reportPrivateUsage]

    def noted(self: Draw, kind: int, shape: tuple[int, ...], dtype: torch.dtype, fill: Callable[..., Tensor]) -> Tensor:
        keys.append((self.seed, self.salt, self.index, self.block, kind, tuple(self.ids)))
        return original(self, kind, shape, dtype, fill)

    with mock.patch.object(Draw, "_fill", noted):
        yield keys


def repeated(keys: Sequence[Key]) -> str:
    """What is to be said of keys that occur twice; empty where all differ."""
    twice = sorted({(key[1], key[2]) for key in keys if keys.count(key) > 1})
    return (
        f"{len(keys)} draws have {len(set(keys))} keys; twice: draw index {twice[0][1]}, salt {twice[0][0]:#x}" if twice else ""
    )


@contextmanager
def networks_called(net: Any) -> Generator[list[Any]]:
    """Every call of a network inside the block: through a denoiser, of `net` past it, and of any `nn.Module` past it.

    net: the exact network of the field, which notes its own calls in `seen`.
    """
    original, called, inside = Denoiser.network, list[Any](), list[Any]()

    def through(self: Denoiser, *args: Any, **kwargs: Any) -> Any:
        called.append(self.net)
        inside.append(self.net)
        try:
            return original(self, *args, **kwargs)
        finally:
            inside.pop()

    def enter(module: nn.Module, args: Any) -> None:
        inside.append(len(called))

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        if inside.pop() == len(called) and not inside:  # one that calls a denoiser is a wrapper, not a network
            called.append(module)

    hooks = nn.modules.module
    before, after = hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave, always_call=True)
    seen = len(net.seen)
    try:
        with mock.patch.object(Denoiser, "network", through):
            yield called
    finally:
        before.remove()
        after.remove()
    called.extend([net] * (len(net.seen) - seen - called.count(net)))


@contextmanager
def times_asked() -> Generator[list[float]]:
    """The time (the largest of a batch) of every call of a network through a denoiser inside the block."""
    original, times = Denoiser.network, list[float]()

    def noted(self: Denoiser, x: State, at: Any, *args: Any, **kwargs: Any) -> Any:
        times.append(float(torch.as_tensor(at.t, dtype=torch.float64).max()))
        return original(self, x, at, *args, **kwargs)

    with mock.patch.object(Denoiser, "network", noted):
        yield times


SHARED: tuple[AffineProcess, ...] = tuple(kind(noise=Shared()) for kind in (ReferenceVP, ReferenceFlow, ReferenceVE))
"""Processes under which the entries of a sample that begin equal stay equal, whatever is drawn."""


def spread(x: State) -> float:
    """How far the entries of the samples of a tensor are from each other at most."""
    return float((x.flatten(1).amax(1) - x.flatten(1).amin(1)).max())

"""Noise as an argument: every draw is a pure function of (seed, global sample id, draw index, purpose).

So the noise of sample 17 is bit-equal for any batch size, rank and world size, a draw that is not needed is not made, and
torch's global generator is never touched.

torch's CPU generator keeps 32 bits of a seed. Within one (seed, purpose) the pair (id, draw) is therefore mapped to 32
bits by a keyed *bijection*: no two draws of the first 2^20 samples and 2^12 draws can share a stream. Beyond that the high
bits enter the key.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from diffcore.declare.errors import DataError, SpecError
from diffcore.numerics.arguments import shown, whole
from diffcore.numerics.tree import State, leaves, numbered

_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_NORMAL, _UNIFORM, _INTEGER = 1, 2, 3


@lru_cache(maxsize=4096)
def mix(*keys: int) -> int:
    """A 64-bit hash of integers (splitmix64 finaliser, Steele et al. 2014), the same on every machine."""
    state = 0x9E3779B97F4A7C15
    for key in keys:
        state = (state ^ (key & _MASK64)) * 0xBF58476D1CE4E5B9 & _MASK64
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK64
        state ^= state >> 31
    return state


def _permute32(x: int, key: int) -> int:
    """A bijection of 32-bit integers for each 64-bit key: xor, odd multiplications and xor-shifts are all invertible."""
    x = (x ^ key) & _MASK32
    x = (x ^ x >> 16) * 0x85EBCA6B & _MASK32
    x = (x ^ key >> 32) & _MASK32
    x = (x ^ x >> 13) * 0xC2B2AE35 & _MASK32
    return (x ^ x >> 16) & _MASK32


class _Generators(threading.local):
    """One generator for each device and thread; whoever takes it seeds it."""

    def __init__(self) -> None:
        self.of = lru_cache(maxsize=None)(torch.Generator)


_generators = _Generators()


def _integers(ids: Any) -> list[int]:
    """Global ids as Python integers. Raises `SpecError` for what is none."""
    found = ids.tolist() if isinstance(ids, Tensor) else ids
    if isinstance(found, (str, bytes, Mapping)) or not hasattr(found, "__iter__"):
        raise SpecError(f"ids must be global numbers of samples, such as range(16); got {shown(ids)}")
    found = [i if i.__class__ is int else whole("an id", i) for i in found]
    if not found:
        raise SpecError("ids must be the global number of at least one sample; got none")
    return found


def _device(name: Any) -> torch.device:
    try:
        return torch.device(name)
    except (TypeError, RuntimeError, ValueError):
        raise SpecError(f"device must name one, such as 'cpu' or 'cuda'; got {shown(name)}") from None


def _sizes(shape: Any) -> tuple[int, ...]:
    if isinstance(shape, torch.Size):
        return shape
    if isinstance(shape, (tuple, list)):
        return tuple(whole("a side of the shape", side, 0) for side in shape)  # pyright: ignore[reportUnknownVariableType]
    raise SpecError(f"the shape of one sample is a tuple of integers, such as (3, 32, 32); got {shown(shape)}")


class Draw:
    """A handle on the noise of some samples. Immutable: the same call returns the same numbers.

    ids: global ids of the samples, one per row of the batch. `at(i)` selects the draw index (0 is the prior, i + 1 the i-th
    step), `fold(k)` opens an independent family for another purpose. `block` draws that many consecutive ids at once from
    one stream (training, where batches are whole and only ranks differ); with `block=1` each sample has its own.
    `device` is where the numbers are used; they are made on the CPU unless `on_device`.

    Raises `SpecError` for a seed or ids that are no integers.
    """

    def __init__(
        self,
        seed: int,
        ids: Sequence[int] | Tensor,
        *,
        index: int = 0,
        salt: int = 0,
        block: int = 1,
        total: int | None = None,
        device: torch.device | str = "cpu",
        on_device: bool = False,
    ) -> None:
        self.seed, self.salt = whole("seed", seed), whole("salt", salt)
        self.index, self.block = whole("index", index, 0), whole("block", block, 1)
        self.ids: Sequence[int] = ids if isinstance(ids, range) else _integers(ids)
        self.total = len(self.ids) if total is None else total
        self.device, self.on_device = _device(device), on_device

    def _with(self, **changes: Any) -> Draw:
        other = object.__new__(Draw)
        other.__dict__.update(self.__dict__, **changes)
        return other

    def at(self, index: int) -> Draw:
        """The same samples' draw number `index`."""
        return self._with(index=index)

    def fold(self, *keys: int) -> Draw:
        """An independent family of draws for another purpose."""
        return self._with(salt=mix(self.salt, *keys))

    def take(self, rows: Sequence[int]) -> Draw:
        """The draws of some rows of the batch only."""
        return self._with(ids=[self.ids[r] for r in rows])

    def groups(self, n: int) -> Draw:
        """One stream for every n consecutive ids, the first a multiple of n, and no longer one for each.

        Raises `DataError` where a group is cut.
        """
        if whole("a group", n, 1) == 1:
            return self
        ids = list(self.ids)
        if len(ids) % n or any(ids[k - k % n] % n or i != ids[k - k % n] + k % n for k, i in enumerate(ids)):
            raise DataError(
                f"{n} samples belong together, as those of the ids 0 to {n - 1} do, and these {len(ids)} ids cut such a group: "
                f"give whole ones"
            )
        return self._with(block=n)

    def normal(self, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal, shape (B, *shape)."""
        return self._fill(_NORMAL, _sizes(shape), dtype, lambda out, g: out.normal_(generator=g))

    def uniform(self, shape: Sequence[int] = (), dtype: torch.dtype = torch.float64) -> Tensor:
        """Uniform on [0, 1), shape (B, *shape)."""
        return self._fill(_UNIFORM, _sizes(shape), dtype, lambda out, g: out.uniform_(generator=g))

    def integers(self, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Uniform on {0, ..., high - 1}, shape (B, *shape), int64."""
        high = whole("high", high, 1, 2**62)
        return self._fill(_INTEGER, _sizes(shape), torch.int64, lambda out, g: out.random_(high, generator=g))

    def normal_like(self, x: State) -> State:
        """Standard normal of the shape and dtype of a state; each leaf of a tree has its own stream."""
        return self.leafwise(x, lambda draw, leaf: draw.normal(leaf.shape[1:], leaf.dtype))

    def uniform_like(self, x: State) -> State:
        """Uniform on [0, 1) of the shape of a state (float64 where the leaf is an integer)."""
        return self.leafwise(
            x, lambda d, leaf: d.uniform(leaf.shape[1:], leaf.dtype if leaf.is_floating_point() else torch.float64)
        )

    def shared_uniform(self) -> float:
        """One uniform number for the whole global batch, whatever rank asks."""
        stream = Draw(self.seed, [0], index=self.index, salt=mix(self.salt, 0x5EED))
        return float(stream.uniform()[0])

    def leafwise(self, x: State, one: Callable[[Draw, Tensor], Tensor]) -> State:
        """`one(draw, leaf)` for every leaf of a state, each with a stream of its own.

        Raises `DataError` unless there is one id per row.
        """
        if len(self.ids) != len(leaves(x)[0]):
            raise DataError(f"the noise is for {len(self.ids)} samples, the state has {len(leaves(x)[0])}; give one id per row")
        if isinstance(x, Tensor):
            return one(self, x)
        return numbered(lambda i, leaf: one(self.fold(0x1EAF, i), leaf), x)

    def _seed(self, unit: int, kind: int) -> int:
        key = mix(self.seed, self.salt, kind, self.block, unit >> 20, self.index >> 12)
        return _permute32((unit & 0xFFFFF) << 12 | (self.index & 0xFFF), key)

    def _fill(self, kind: int, shape: tuple[int, ...], dtype: torch.dtype, fill: Callable[..., Tensor]) -> Tensor:
        device = self.device if self.on_device else torch.device("cpu")
        generator = _generators.of(device)
        out = torch.empty((len(self.ids), *shape), dtype=dtype, device=device)
        if self.block == 1:
            rows = [out] if len(self.ids) == 1 else out.split(1)
            for row, unit in zip(rows, self.ids, strict=True):
                fill(row, generator.manual_seed(self._seed(unit, kind)))
            return out.to(self.device)
        row = 0
        while row < len(self.ids):
            unit, offset = divmod(self.ids[row], self.block)
            count = self._run(row, self.block - offset)
            generator.manual_seed(self._seed(unit, kind))
            if count == self.block:
                fill(out[row : row + count], generator)
            else:
                whole = fill(torch.empty((self.block, *shape), dtype=dtype, device=device), generator)
                out[row : row + count] = whole[offset : offset + count]
            row += count
        return out.to(self.device)

    def _run(self, row: int, most: int) -> int:
        """How many ids from `row` on are consecutive, at most `most`."""
        most = min(most, len(self.ids) - row)
        if isinstance(self.ids, range) and self.ids.step == 1:
            return most
        return next((n for n in range(1, most) if self.ids[row + n] != self.ids[row] + n), most)

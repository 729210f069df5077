"""Sets without end: sample number i is a pure function of (seed, i)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import diffcore as dc

BLOCK = 256
"""Samples are made in whole blocks of this many, so that sample i is the same bit for bit whatever is asked with it."""


@dc.component
class Keyed(dc.Data):
    """A distribution that is sampled without end. The values are unbounded and used as they are."""

    seed: int = dc.param(default=0, ge=0, doc="another seed gives other samples of the same distribution")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return (2,)

    @property
    def modes(self) -> int:
        """Number of classes that are offered as the condition 'label'; 0: none."""
        return 0

    def block(self, draw: dc.Draw) -> tuple[Tensor, Tensor]:
        """`BLOCK` samples (BLOCK, *shape) float64 and their modes (BLOCK,), from the draws of one block number."""
        raise NotImplementedError

    def open(self) -> Generated:
        """The source; nothing is made before it is asked for."""
        return Generated(self)


@dc.component
class Modes(Keyed):
    """A distribution whose samples each belong to one of several modes."""

    conditional: bool = dc.param(default=False, doc="offer the mode of each sample as the condition 'label'")

    @property
    def count(self) -> int:
        """Number of modes."""
        raise NotImplementedError

    @property
    def modes(self) -> int:
        """All of them or none, as `conditional` says."""
        return self.count if self.conditional else 0


class Generated:
    """The source of a `Keyed` set. A `dc.Source`."""

    def __init__(self, data: Keyed) -> None:
        self.data = data
        self.event: tuple[int, ...] = data.shape
        self.size: int | None = None
        self.classes: Mapping[str, int] = {"label": data.modes} if data.modes else {}

    def batch(self, ids: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Samples (B, *shape) float32 by number, and their modes where they are offered."""
        numbers, place = torch.unique(ids // BLOCK, return_inverse=True)
        blocks = [self.data.block(dc.Draw(self.data.seed, [number])) for number in numbers.tolist()]
        x, label = (torch.stack(parts)[place, ids % BLOCK] for parts in zip(*blocks, strict=True))
        return x.float(), {"label": label} if self.classes else {}


def normal(draw: dc.Draw, dim: int) -> Tensor:
    """(BLOCK, dim) standard normal float64."""
    return draw.normal((BLOCK, dim), dtype=torch.float64)[0]


def uniform(draw: dc.Draw) -> Tensor:
    """(BLOCK,) uniform on [0, 1) float64."""
    return draw.uniform((BLOCK,))[0]


def mode(draw: dc.Draw, count: int) -> Tensor:
    """(BLOCK,) uniform on {0, ..., count - 1}."""
    return draw.integers(count, (BLOCK,))[0]

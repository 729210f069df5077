"""A finite set held in memory: what every loaded file ends as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

import diffcore as dc


class Table:
    """Samples x (N, *shape), and optionally their classes label (N,) int64 from 0, as many as have names. A `dc.Source`.

    Bytes and float32 are read as real numbers; where `x` are tokens they are read as int64.
    """

    def __init__(self, x: Tensor, label: Tensor | None = None, names: Sequence[str] = (), *, tokens: bool = False) -> None:
        self.x, self.label = x, label
        self.event: tuple[int, ...] = tuple(x.shape[1:])
        self.size: int | None = len(x)
        self.dtype = torch.int64 if tokens else torch.float32
        self.classes: Mapping[str, int] = {} if label is None else {"label": len(names) or int(label.max()) + 1}

    @classmethod
    def of(cls, x: np.ndarray, label: np.ndarray | None, names: Sequence[str] = ()) -> Table:
        """From arrays; labels become int64."""
        return cls(torch.from_numpy(x), None if label is None else torch.from_numpy(label.astype(np.int64)), names)

    def batch(self, ids: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Raw values (B, *shape) of the samples with these numbers, and their classes."""
        return self.x[ids].to(self.dtype), {} if self.label is None else {"label": self.label[ids]}


def every_tenth(size: int, split: str) -> np.ndarray:
    """Numbers of a small set's split: 'test' is every tenth sample, 'train' the others, 'all' both."""
    numbers = np.arange(size)
    return numbers[{"all": numbers >= 0, "test": numbers % 10 == 9, "train": numbers % 10 != 9}[split]]


@dc.component
class Labelled(dc.Data):
    """What sets with known classes share; `names` are those of the classes, by number."""

    names: ClassVar[tuple[str, ...]] = ()

    conditional: bool = dc.param(default=True, doc="offer the class of each sample as the condition 'label'")

    def table(self, x: np.ndarray, label: np.ndarray) -> Table:
        """The source, with or without its labels."""
        return Table.of(x, label if self.conditional else None)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names, where the classes are offered."""
        return self.names if self.conditional else ()

"""Tokens held in memory: what every set of this package ends as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

import diffcore as dc

Split = Literal["all", "train", "test"]


class Rows:
    """Samples x (N, *shape) int64, and optionally classes label (N,). A `dc.Source`."""

    def __init__(self, x: Tensor, label: Tensor | None = None) -> None:
        self.x, self.label = x, label
        self.event: tuple[int, ...] = tuple(x.shape[1:])
        self.size: int | None = len(x)
        self.classes: Mapping[str, int] = {} if label is None else {"label": int(label.max()) + 1}

    def batch(self, ids: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Copies of the samples with these numbers, and their classes."""
        return self.x[ids].long(), {} if self.label is None else {"label": self.label[ids]}


class Windows:
    """All windows of `length` consecutive tokens of a long row, a window every `stride` tokens. A `dc.Source`."""

    def __init__(self, tokens: Tensor, length: int, stride: int) -> None:
        self.windows = tokens.unfold(0, length, stride)
        self.event: tuple[int, ...] = (length,)
        self.size: int | None = len(self.windows)
        self.classes: Mapping[str, int] = {}

    def batch(self, ids: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Copies of the windows with these numbers."""
        return self.windows[ids].long(), {}


def windows(tokens: Tensor, length: int, split: Split, name: str) -> Windows:
    """Windows of a part of a long row: 'test' is its last tenth, cut into windows that do not overlap, 'train' the rest.

    Raises `DataError` with the name of the text where that part is shorter than a window.
    """
    cut = len(tokens) - len(tokens) // 10
    part = {"all": tokens, "train": tokens[:cut], "test": tokens[cut:]}[split]
    if len(part) < length:
        raise dc.DataError(
            f"{name}, split '{split}', has {len(part)} characters, fewer than 'length' = {length}; take a smaller length"
        )
    return Windows(part, length, length if split == "test" else 1)


def every_tenth(size: int, split: Split) -> Tensor:
    """Numbers of a split: 'test' is every tenth sample, 'train' the others, 'all' both."""
    numbers = torch.arange(size)
    return numbers[{"all": numbers >= 0, "test": numbers % 10 == 9, "train": numbers % 10 != 9}[split]]

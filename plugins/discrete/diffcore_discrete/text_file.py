"""A text of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import diffcore as dc

from .letters import one_line, read, to_texts, to_tokens
from .table import Split, Windows, windows

MASK = ord("_")


@dc.component
class TextFile(dc.Data):
    """Windows of `length` tokens of a UTF-8 text file: its bytes (256 values) or, where `alphabet` names them, its characters.

    Character i of the alphabet is token i, so that a process has as many `values`. 'test' is the last tenth of the text in
    windows that do not overlap, 'train' every window of the rest, 'all' of both.

    Raises `DataError` for a text that is not UTF-8, holds a character that is not in the alphabet, or is shorter than a window.
    """

    source: ClassVar[str] = "your own file"
    example: ClassVar[Mapping[str, Any]] = {"path": "corpus.txt"}

    path: str = dc.param(doc="a UTF-8 text file")
    length: int = dc.param(default=64, ge=2, le=1_000_000, doc="tokens of a window")
    alphabet: str | None = dc.param(default=None, doc="the characters that are tokens, in order; null: tokens are bytes")
    split: Split = dc.param(default="train", doc="'test' is the last tenth of the text, 'train' the rest")

    def __attrs_post_init__(self) -> None:
        if self.alphabet is not None and not 2 <= len(self.alphabet) == len(set(self.alphabet)):
            raise dc.SpecError(f"'alphabet' of text-file must be two or more different characters; got {self.alphabet!r}")

    def open(self) -> Windows:
        """The windows."""
        file = dc.user_file(self.path)
        text = read(file)
        if self.alphabet is None:
            return windows(
                torch.from_numpy(np.frombuffer(bytearray(text, "utf-8"), np.uint8)), self.length, self.split, str(file)
            )
        try:
            return windows(to_tokens(text, self.alphabet), self.length, self.split, str(file))
        except dc.DataError as error:
            raise dc.DataError(f"{file}: {error}; add them to 'alphabet', or leave it out for bytes") from None

    def texts(self, raw: Tensor) -> list[str]:
        """One line per sample; a byte sequence that is no UTF-8 shows as '\N{REPLACEMENT CHARACTER}'."""
        if self.alphabet is not None:
            return [one_line(text) for text in to_texts(raw, self.alphabet)]
        rows = torch.where(raw > 255, MASK, raw).flatten(1).to("cpu", torch.uint8)
        return [one_line(bytes(row.tolist()).decode(errors="replace")) for row in rows]

"""Handwritten digits in black and white."""

from __future__ import annotations

from typing import ClassVar

import torch

import diffcore as dc

from .table import Rows, Split, every_tenth


@dc.component
class BinaryDigits(dc.Data):
    """1,797 digits of 1 x 8 x 8 pixels from the package scikit-learn: token 1 where the grey value is 8 or more of 16."""

    source: ClassVar[str] = "Alpaydin and Kaynak 1998"

    split: Split = dc.param(default="train", doc="'test' is every tenth sample, 'train' the other nine")
    conditional: bool = dc.param(default=False, doc="offer the digit of each sample as the condition 'label'")

    def open(self) -> Rows:
        """The split, in memory."""
        from sklearn.datasets import load_digits

        grey, digit = (torch.from_numpy(v) for v in load_digits(return_X_y=True))
        rows = every_tenth(len(grey), self.split)
        return Rows((grey[rows].reshape(-1, 1, 8, 8) >= 8).long(), digit[rows].long() if self.conditional else None)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The digits, where they are offered."""
        return tuple("0123456789") if self.conditional else ()

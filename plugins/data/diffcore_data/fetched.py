"""MNIST, Fashion-MNIST and CIFAR-10, each fetched once by `python -m diffcore_data fetch NAME`; never while a spec runs."""

from __future__ import annotations

from typing import ClassVar, Literal

import diffcore as dc
from diffcore_data import cache
from diffcore_data.table import Labelled, Table

DIGITS = tuple("0123456789")


@dc.component
class Fetched(Labelled):
    """A set of the cache: raw values 0 to 255, shape (C, H, W). `open` raises `DataError` where it was not fetched."""

    range: ClassVar[dc.Range] = dc.Range(lo=0, hi=255)
    name: ClassVar[str]

    split: Literal["train", "test"] = dc.param(default="train", doc="the published split")

    def open(self) -> Table:
        """The split, from the cache."""
        return self.table(*cache.load(self.name, self.split))


@dc.component
class MNIST(Fetched):
    """60,000 + 10,000 handwritten digits, grey, 28 x 28, 10 classes; training mean 0.1307 of full scale."""

    source: ClassVar[str] = "LeCun, Bottou, Bengio and Haffner 1998"
    name: ClassVar[str] = "mnist"
    names: ClassVar[tuple[str, ...]] = DIGITS


@dc.component
class FashionMNIST(Fetched):
    """60,000 + 10,000 pictures of clothes, grey, 28 x 28, 10 balanced classes; training mean 0.2860 of full scale."""

    source: ClassVar[str] = "Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747"
    name: ClassVar[str] = "fashion-mnist"
    names: ClassVar[tuple[str, ...]] = (
        "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip


@dc.component
class CIFAR10(Fetched):
    """50,000 + 10,000 photographs, RGB, 32 x 32, 10 balanced classes; channel means 0.4914, 0.4822, 0.4465 of full scale."""

    source: ClassVar[str] = "Krizhevsky 2009"
    name: ClassVar[str] = "cifar-10"
    names: ClassVar[tuple[str, ...]] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip

"""Molecules as text."""

from __future__ import annotations

import csv
import gzip
import importlib.util
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

import diffcore as dc

from .letters import to_texts, to_tokens
from .table import Rows

ALPHABET = " #()-123456=BCFHNOS[]clnors"


@dc.component
class Molecules(dc.Data):
    """SMILES of the MOSES set, one character a token, filled up with spaces (value 0) to 57: 27 values.

    1,584,663 molecules for training and 176,074 for testing, from the package molsets, whose own code is not run. Molecules
    longer than `length` are left out; `most` keeps the first ones only.
    """

    source: ClassVar[str] = "Polykovskiy et al. 2020, arXiv 1811.12823"

    split: Literal["train", "test"] = dc.field(default="train", doc="the published split")
    length: int = dc.field(default=57, ge=1, doc="characters of a sample")
    most: int | None = dc.field(default=None, ge=1, doc="how many to read; all where null")

    def open(self) -> Rows:
        """The split, in memory. Raises `DataError` where the package is missing."""
        lines: list[str] = []
        with gzip.open(self.file(), "rt", encoding="ascii", newline="") as file:
            for row in csv.DictReader(file):
                if len(row["SMILES"]) <= self.length:
                    lines.append(row["SMILES"].ljust(self.length))
                if len(lines) == self.most:
                    break
        if not lines:
            raise dc.DataError(f"no molecule of the split '{self.split}' has at most {self.length} characters; raise length")
        return Rows(to_tokens("".join(lines), ALPHABET).byte().reshape(-1, self.length))

    def file(self) -> Path:
        """The table of the split, without importing the package."""
        spec = importlib.util.find_spec("moses")
        found = [Path(p) / "dataset" / "data" / f"{self.split}.csv.gz" for p in (spec and spec.submodule_search_locations) or ()]
        if not found or not found[0].is_file():
            raise dc.DataError(
                "molecules come with the package molsets, which is not installed: pip install --no-deps molsets==0.3.1"
            )
        return found[0]

    def texts(self, raw: Tensor) -> list[str]:
        """SMILES, without the filling."""
        return [line.rstrip() for line in to_texts(raw, ALPHABET)]

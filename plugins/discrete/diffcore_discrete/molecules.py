"""Molecules as text."""

from __future__ import annotations

import csv
import functools
import gzip
import importlib.util
import itertools
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

import diffcore as dc

from .letters import to_texts, to_tokens
from .table import Rows

ALPHABET = " #()-123456=BCFHNOS[]clnors"


@dc.component
class Molecules(dc.Data):
    """SMILES of the MOSES set, one character a token, filled up with spaces (value 0) to `length`: 27 values.

    1,584,663 molecules for training and 176,074 for testing, from the package molsets, whose own code is not run. Molecules
    longer than `length` are left out (57 is the longest; 48 leaves out 14 of 10,000); `most` keeps the first ones only.
    """

    source: ClassVar[str] = "Polykovskiy et al. 2020, arXiv 1811.12823"

    split: Literal["train", "test"] = dc.param(default="train", doc="the published split")
    length: int = dc.param(default=57, ge=1, le=1_000_000, doc="characters of a sample")
    most: int | None = dc.param(default=None, ge=1, le=10_000_000, doc="how many to read; all where null")

    def open(self) -> Rows:
        """The split, in memory. Raises `DataError` where the package is missing."""
        return Rows(_read(self.file(), self.length, self.most))

    def file(self) -> Path:
        """The table of the split, without importing the package."""
        spec = importlib.util.find_spec("moses")
        found = [Path(p) / "dataset" / "data" / f"{self.split}.csv.gz" for p in (spec and spec.submodule_search_locations) or ()]
        if not found or not found[0].is_file():
            raise dc.DataError(
                "molecules come with the package molsets, which is not installed: fetch it once with "
                "`pip install --no-deps molsets==0.3.1`"
            )
        return found[0]

    def texts(self, raw: Tensor) -> list[str]:
        """SMILES, without the filling."""
        return [line.rstrip() for line in to_texts(raw, ALPHABET)]


@functools.lru_cache(maxsize=2)
def _read(file: Path, length: int, most: int | None) -> Tensor:
    """The tokens of a table, uint8 (N, length): read in seconds, and kept, for a run opens its set for every metric."""
    with dc.reading(file, "a table of molecules"), gzip.open(file, "rt", encoding="ascii", newline="") as table:
        rows = itertools.islice(csv.reader(table), 1, None)
        fitting = (smiles for smiles, *_ in rows if len(smiles) <= length)
        lines = [smiles.ljust(length) for smiles in itertools.islice(fitting, most)]
    if not lines:
        raise dc.DataError(f"no molecule of {file.name} has at most {length} characters; raise length")
    return to_tokens("".join(lines), ALPHABET).reshape(-1, length)

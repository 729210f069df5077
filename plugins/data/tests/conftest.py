"""Damage for files: many small mutations, each of which must give a value or one clear line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffcore as dc


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One flipped bit, one other byte, a cut, or a few bytes more in the middle."""
    data, at = bytearray(content), int(rng.integers(len(content)))
    kind = rng.integers(4)
    if kind == 0:
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[at] = int(rng.integers(256))
    elif kind == 2:
        del data[at:]
    else:
        data[at:at] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(data)


def outcomes(read: Callable[[], Any], file: Path, count: int) -> Iterator[Any]:
    """What a reader makes of each of `count` damaged copies of a file, written in its place: a value, or the line of a refusal.

    Any other exception, and any warning, goes through to the test.
    """
    content, rng = file.read_bytes(), np.random.default_rng(7)
    for _ in range(count):
        file.write_bytes(mutated(content, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                found = read()
            except dc.DataError as error:
                found = str(error)
        assert not isinstance(found, str) or (str(file) in found and len(found.splitlines()) == 1), found
        yield found


@pytest.fixture(name="outcomes")
def outcomes_of() -> Callable[..., Iterator[Any]]:
    return outcomes

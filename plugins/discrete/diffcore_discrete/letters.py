"""Text as tokens, and back."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import diffcore as dc

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
POINTS = 0x110000
"""Code points of Unicode."""
CHUNK = 1 << 20
"""Characters that are looked up at once."""
SHOWN = 40


def simplified(text: str) -> str:
    """Lower case; everything that is no letter a to z becomes one space."""
    return re.sub("[^a-z]+", " ", text.lower().replace("'", ""))


def read(path: Path, encoding: str = "utf-8-sig") -> str:
    """A whole text file. Raises `DataError` where it is none of this encoding, or larger than memory."""
    dc.require_memory(4 * path.stat().st_size, str(path))
    with dc.reading(path, f"{encoding.removesuffix('-sig')} text"):
        return path.read_bytes().decode(encoding)


def to_tokens(text: str, alphabet: str = ALPHABET) -> Tensor:
    """The place of every character in the alphabet, uint8 (int32 for more than 255 of them).

    Raises `DataError` naming the characters that have none.
    """
    unknown = len(alphabet)
    places = np.full(POINTS, unknown, np.uint8 if unknown < 256 else np.int32)
    places[_points(alphabet)] = np.arange(unknown)
    tokens = np.empty(len(text), places.dtype)
    for at in range(0, len(text), CHUNK):
        tokens[at : at + CHUNK] = places[_points(text[at : at + CHUNK])]
    if (tokens == unknown).any():
        _refuse(text, int((tokens == unknown).argmax()), alphabet)
    return torch.from_numpy(tokens)


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), "<u4")


def _refuse(text: str, at: int, alphabet: str) -> None:
    missing = "".join(sorted(set(text) - set(alphabet)))
    raise dc.DataError(
        f"character {text[at]!r} at place {at} is none of the {len(alphabet)} that are tokens ({alphabet[:SHOWN]!r}); "
        f"{len(missing)} are missing: {missing[:SHOWN]!r}"
    )


def to_texts(tokens: Tensor, alphabet: str = ALPHABET) -> list[str]:
    """One line per row; what is no place in the alphabet (a mask) is shown as '_'."""
    rows = tokens.flatten(1).cpu().clamp(max=len(alphabet)).numpy()
    length, text = rows.shape[1], _points(alphabet + "_")[rows].tobytes().decode("utf-32-le")
    return [text[i * length : (i + 1) * length] for i in range(len(rows))]


def one_line(text: str) -> str:
    """Line ends as '⏎' and other characters that do not print as '·'."""
    return "".join(c if c.isprintable() else "⏎" if c.splitlines() == [""] else "·" for c in text)

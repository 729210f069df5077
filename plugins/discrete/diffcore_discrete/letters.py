"""Text as tokens, and back."""

from __future__ import annotations

import re

import torch
from torch import Tensor

import diffcore as dc

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
UNKNOWN = 255


def simplified(text: str) -> str:
    """Lower case; everything that is no letter a to z becomes one space."""
    return re.sub("[^a-z]+", " ", text.lower().replace("'", ""))


def to_tokens(text: str, alphabet: str = ALPHABET) -> Tensor:
    """The place of every character in the alphabet, uint8. Raises `DataError` naming a character that has none."""
    places = bytearray([UNKNOWN] * 256)
    for i, letter in enumerate(alphabet.encode("ascii")):
        places[letter] = i
    coded = bytearray(text.encode("ascii", errors="replace")).translate(places)
    if (at := coded.find(UNKNOWN)) >= 0:
        raise dc.DataError(f"character {text[at]!r} at place {at} is none of the {len(alphabet)} that are tokens: {alphabet!r}")
    return torch.frombuffer(coded, dtype=torch.uint8) if coded else torch.zeros(0, dtype=torch.uint8)


def to_texts(tokens: Tensor, alphabet: str = ALPHABET) -> list[str]:
    """One line per row; what is no place in the alphabet (a mask) is shown as '_'."""
    shown = torch.frombuffer(bytearray(alphabet + "_", "ascii"), dtype=torch.uint8)
    rows = shown[tokens.flatten(1).cpu().clamp_max(len(alphabet)).long()]
    text, length = bytes(rows.numpy()).decode("ascii"), rows.shape[1]
    return [text[i * length : (i + 1) * length] for i in range(len(rows))]

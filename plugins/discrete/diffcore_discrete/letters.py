"""Text as tokens: 26 letters and the space."""

from __future__ import annotations

import re

import torch
from torch import Tensor

ALPHABET = " abcdefghijklmnopqrstuvwxyz"


def simplified(text: str) -> str:
    """Lower case; everything that is no letter a to z becomes one space."""
    return re.sub("[^a-z]+", " ", text.lower().replace("'", ""))


def to_tokens(text: str, alphabet: str = ALPHABET) -> Tensor:
    """The place of every character in the alphabet, int64."""
    index = {character: i for i, character in enumerate(alphabet)}
    return torch.tensor([index[character] for character in text])


def to_texts(tokens: Tensor, alphabet: str = ALPHABET) -> list[str]:
    """One line per row; what is no place in the alphabet (a mask) is shown as '_'."""
    shown = alphabet + "_"
    return ["".join(shown[min(i, len(alphabet))] for i in row) for row in tokens.flatten(1).tolist()]

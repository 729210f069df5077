"""Tokens as real numbers: an injective code that an affine process can noise, and its inverse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .binary_digits import BinaryDigits


class Bits:
    """The bits of another source. A `dc.Source` of +-1 numbers, (B, *shape, bits)."""

    def __init__(self, inner: dc.Source, count: int) -> None:
        self.inner, self.count = inner, count
        self.event = dc.Event(*dc.Event.of(inner.event).leaf("data analog-bits").shape, count)
        self.size, self.classes = inner.size, inner.classes

    def batch(self, ids: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The code of the samples with these numbers, and their classes. Raises `DataError` where a token has more bits."""
        tokens, cond = self.inner.batch(ids)
        if int(tokens.max()) >= 2**self.count:
            raise dc.DataError(f"a token is {int(tokens.max())}, which has more than {self.count} bits; raise bits")
        return to_bits(tokens, self.count), cond


def to_bits(tokens: Tensor, count: int) -> Tensor:
    """E: binary digits, lowest first, as -1 and 1, float32 (*shape, count)."""
    return (tokens[..., None] >> torch.arange(count, device=tokens.device) & 1).float() * 2 - 1


def to_tokens(bits: Tensor) -> Tensor:
    """D: the token whose code is nearest (the signs), int64; D(E(a)) = a."""
    return ((bits > 0).long() << torch.arange(bits.shape[-1], device=bits.device)).sum(-1)


@dc.component
class AnalogBits(dc.Data):
    """Tokens of `data` as `bits` real numbers each, for any affine process, network and solver; read out by their signs."""

    source: ClassVar[str] = "Chen, Zhang and Hinton 2023, arXiv 2208.04202"
    items: ClassVar[tuple[str, ...]] = ("12.08",)

    data: dc.Data = dc.param(factory=BinaryDigits, doc="a set of tokens")
    bits: int = dc.param(default=1, ge=1, le=62, doc="bits of a token: log2 of the number of values, rounded up")

    def open(self) -> Bits:
        """The code of the set."""
        return Bits(self.data.open(), self.bits)

    def decode(self, x: Tensor) -> Tensor:
        """The nearest code."""
        return torch.where(x > 0, 1.0, -1.0)

    def texts(self, raw: Tensor) -> list[str] | None:
        """What the set makes of the tokens."""
        return self.data.texts(to_tokens(raw))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the set."""
        return self.data.class_names

"""Any data set at the scale that processes expect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import diffcore as dc
from diffcore_data.standard import Standard

CHUNK = 1024


@dc.component
class Standardised(dc.Data):
    """The data `of`, brought to mean 0 and standard deviation 1/2 by its own moments, channel by channel (the first axis of a
    sample; each entry of a vector): x = (y - mean) / (2 std), where y is what the network sees of `of` alone.

    The moments are measured on up to `moments` samples when the data is opened, and saved with the weights of a run, so that a
    trained run needs no data. Raises `DataError` where `of` holds tokens or trees.
    """

    source: ClassVar[str] = "x = (y - mean) / (2 std): the scale of images in [-1, 1], the default sigma_data"
    example: ClassVar[Mapping[str, Any]] = {"of": {"type": "two-moons"}}

    of: dc.Data = dc.param(doc="the data set")
    moments: int = dc.param(default=10_000, ge=2, le=10_000_000, doc="samples on which mean and deviation are measured, at most")

    @cached_property
    def _standard(self) -> Standard:
        return Standard()

    def open(self) -> dc.Source:
        """The source of `of`, measured."""
        source = self.of.open()
        if not self._standard.measured:
            self._standard.measure(lambda: self._samples(source))
        return source

    def _samples(self, source: dc.Source) -> Iterator[Tensor]:
        """Samples spread evenly over the set, as the network sees them of `of`."""
        size = source.size
        ids = torch.arange(self.moments) if size is None else torch.linspace(0, size - 1, min(size, self.moments)).long()
        for some in ids.split(CHUNK):
            x = self.of.encode(source.batch(some)[0])
            if not (isinstance(x, Tensor) and x.is_floating_point()):
                raise dc.DataError(f"'standardised' needs real numbers; {type(self.of).__name__} has others: leave it out")
            yield x

    @property
    def seen_through(self) -> str:
        """The moments of `of`."""
        return f"its mean and deviation; name {type(self.of).__name__} itself for values that are used as they are"

    def parts(self) -> dict[str, nn.Module]:
        """The moments, and what `of` has."""
        return {"standard": self._standard, **{f"of.{role}": module for role, module in self.of.parts().items()}}

    def encode(self, raw: dc.State) -> Tensor:
        """Raw values of `of` at the scale of the network."""
        return self._standard.encode(self.of.encode(raw))  # pyright: ignore[reportArgumentType]

    def decode(self, x: Tensor) -> dc.State:
        """What the network makes, as raw values of `of`."""
        return self.of.decode(self._standard.decode(x))

    def texts(self, raw: dc.State) -> list[str] | None:
        """Those of `of`."""
        return self.of.texts(raw)

    @property
    def value_range(self) -> Any:
        """That of `of`."""
        return self.of.value_range

    @property
    def has_opacity(self) -> bool:
        """That of `of`."""
        return self.of.has_opacity

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of `of`."""
        return self.of.class_names

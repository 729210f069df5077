"""Data through a codec: what latent diffusion trains on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import diffcore as dc

from .codec import Codec, codec_of

STILL = 1e-6
"""Least standard deviation of a channel: one that never moves is not divided by 0."""


class LatentSource:
    """The data of `of`, raw, with the event of its latents. A `dc.Source`."""

    def __init__(self, inner: dc.Source, shape: tuple[int, ...]) -> None:
        self.inner, self.event, self.size, self.classes = inner, shape, inner.size, inner.classes

    def batch(self, ids: Tensor) -> tuple[dc.State, Mapping[str, Tensor]]:
        """Raw data of `of` and its conditions; `Latent.encode` makes latents of it."""
        return self.inner.batch(ids)


@dc.component
class Latent(dc.Data):
    """The data `of`, which the network sees as the latents of a codec: z = (E[z_1 | x] - mean) / std, channel by channel.

    A process then runs on z of `shape`, with mean 0 and variance 1 (take `sigma_data: 1.0`); samples are decoded and mapped back
    to the range of `of`, where metrics and pictures compare them. Batches are encoded when they are read: a pass of the encoder.

    The moments are fitted on up to `moments` data of `of` at the first use and are weights of this run like the codec itself
    (role "codec"). So a trained run needs neither the file nor a new fit. Training needs the file; without file and weights the
    first use raises `DataError`, as `open` does for a codec of other shapes than `of` and `shape`.
    """

    source: ClassVar[str] = "Rombach et al. 2022, arXiv 2112.10752, sections 3.1 and G (rescaled latents)"
    example: ClassVar[Mapping[str, Any]] = {"of": {"type": "digits-8x8"}, "codec": "runs/vae", "shape": [2, 4, 4]}
    expected_failures: ClassVar[Mapping[str, str]] = {
        "as_declared": "the source reads the raw data; its shape is that of the latents, which are not in [-1, 1]"
    }

    of: dc.Data = dc.param(doc="the data behind the latents")
    codec: str = dc.param(doc="run directory or weights of a VAE, or a plain safetensors codec")
    shape: tuple[int, ...] = dc.param(le=65_536, doc="shape of the latents: latents[0] of the VAE")
    moments: int = dc.param(
        default=5000, ge=2, le=10_000_000, doc="data on which mean and std of the latents are fitted, at most"
    )
    batch: int = dc.param(default=250, ge=1, le=10_000_000, doc="data encoded or decoded at once")

    @cached_property
    def _inner(self) -> dc.Source:
        return self.of.open()

    @cached_property
    def _codec(self) -> Codec:
        return codec_of(self.codec) if dc.user_path(self.codec).exists() else Codec()

    def open(self) -> LatentSource:
        """The source; nothing is encoded yet. A codec file that is not there is no error here."""
        if self._codec.ready and (self._codec.shape, self._codec.latent) != (dc.Event.of(self._inner.event).shape, self.shape):
            raise dc.DataError(
                f"the codec {self.codec} makes latents {self._codec.latent} of data {self._codec.shape}; data.shape is "
                f"{self.shape} and data.of has {dc.Event.of(self._inner.event)}"
            )
        return LatentSource(self._inner, self.shape)

    def parts(self) -> dict[str, nn.Module]:
        """The codec, frozen, and what `of` has."""
        return {"codec": self._codec, **{f"of.{role}": module for role, module in self.of.parts().items()}}

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

    @torch.no_grad()
    def encode(self, raw: Tensor) -> Tensor:
        """Raw data to standardised latents."""
        codec = self._fitted()
        return torch.cat([codec.encode(part) for part in self._seen(raw)])

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Standardised latents to raw data, in the range of `of`."""
        codec = self._fitted()
        return torch.cat([self.of.decode(codec.decode(part)) for part in x.to(codec.mean).split(self.batch)])

    def _seen(self, raw: Tensor) -> list[Tensor]:
        """Raw data as the codec's network sees it, in parts, on its device."""
        return list(self.of.encode(raw).to(self._codec.mean).split(self.batch))

    def _fitted(self) -> Codec:
        """The codec with moments. Raises `DataError` where it has no weights."""
        if not self._codec.ready:
            raise dc.DataError(
                f"the codec {self.codec} is not there (a relative path starts at the working folder, {Path.cwd()}), and no "
                f"weights of a run were loaded; train it first (diffcore run examples/vae-digits.yaml), or set data.codec"
            )
        if not self._codec.fitted:
            self._fit()
        return self._codec

    def _fit(self) -> None:
        """Mean and standard deviation of each channel, over data spread evenly over the set."""
        size = self._inner.size
        ids = torch.arange(self.moments) if size is None else torch.linspace(0, size - 1, min(size, self.moments)).long()
        found = [self._codec.means(part) for some in ids.split(self.batch) for part in self._seen(self._raw(some))]
        entries = torch.cat(found).double().transpose(0, 1).flatten(1)
        self._codec.mean.copy_(entries.mean(1))
        self._codec.std.copy_(entries.std(1).clamp_min(STILL))

    def _raw(self, ids: Tensor) -> Any:
        return self._inner.batch(ids)[0]

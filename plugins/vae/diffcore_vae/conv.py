"""A convolutional VAE of images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

import diffcore as dc

from .fitting import checked_shape
from .mlp import ONE_JUMP
from .module import Conditioned, VAEModule


def normed(channels: int) -> nn.Sequential:
    """Group normalisation and SiLU; at least 4 channels a group, as a group of one forgets what a condition adds to it."""
    return nn.Sequential(nn.GroupNorm(math.gcd(8, channels // 4), channels), nn.SiLU())


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """3 x 3, same sides."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def halving(inputs: int, outputs: int) -> nn.Conv2d:
    """4 x 4, half the sides."""
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)


def doubling(inputs: int, outputs: int) -> nn.Sequential:
    """Twice the sides, by rearranging channels."""
    return nn.Sequential(conv(inputs, 4 * outputs), nn.PixelShuffle(2))


class Residual(nn.Module):
    """x + conv(act(conv(act(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(normed(channels), conv(channels, channels), normed(channels), conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Like x."""
        return x + self.body(x)


class Convolutional(nn.Module):
    """A conditioned body of convolutions."""

    def __init__(self, first: nn.Module, channels: int, rest: list[nn.Module], cond: Mapping[str, int]) -> None:
        super().__init__()
        self.body = Conditioned(first, channels, nn.Sequential(*rest), cond)

    def forward(self, x: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """Images to images."""
        return self.body(x, cond)


def encoder(channels: int, latent: int, widths: list[int], cond: Mapping[str, int]) -> Convolutional:
    """Sides are halved once for every width but the last."""
    layers: list[nn.Module] = [Residual(widths[0])]
    for a, b in pairwise(widths):
        layers += [halving(a, b), Residual(b)]
    return Convolutional(conv(channels, widths[0]), widths[0], [*layers, normed(widths[-1]), conv(widths[-1], 2 * latent)], cond)


def decoder(channels: int, latent: int, widths: list[int], cond: Mapping[str, int]) -> Convolutional:
    """The mirror image of the encoder."""
    layers: list[nn.Module] = [Residual(widths[-1])]
    for a, b in pairwise(widths[::-1]):
        layers += [doubling(a, b), Residual(b)]
    return Convolutional(conv(latent, widths[-1]), widths[-1], [*layers, normed(widths[0]), conv(widths[0], channels)], cond)


@dc.component
class ConvVAE(dc.Network):
    """Residual convolutional encoder and decoder; z_1 is an image whose sides are those of the data, halved some times.

    The number of halvings follows from the shapes: images of 28 x 28 with latents [[4, 7, 7]] are halved twice. Channels double
    with every halving, up to 4 width. `unshuffle` folds squares of pixels into channels first, which is much cheaper than
    convolutions at full size. Further levels z_2, ... are reached by perceptrons. Raises `IncompatibleError` for shapes that do
    not halve into each other.
    """

    source: ClassVar[str] = "Kingma and Welling 2014, arXiv 1312.6114; Rombach et al. 2022, arXiv 2112.10752, appendix G"
    items: ClassVar[tuple[str, ...]] = ("2.03",)
    example: ClassVar[Mapping[str, Any]] = {"latents": [[1, 8, 8]], "width": 8, "unshuffle": 1}
    event_shape: ClassVar[tuple[int, ...]] = (1, 8, 8)
    expected_failures: ClassVar[Mapping[str, str]] = ONE_JUMP

    latents: tuple[tuple[int, ...], ...] = dc.param(
        le=65_536, doc="shapes of the latents, as in process 'vae'; the first is (C, H, W)"
    )
    width: int = dc.param(default=32, ge=4, le=65_536, doc="channels at the largest sides")
    unshuffle: int = dc.param(default=2, ge=1, le=64, doc="pixels per side that are folded into channels first")
    hidden: int = dc.param(default=256, ge=1, le=65_536, doc="hidden units between levels")
    decoder: Literal["gaussian", "bernoulli"] = dc.param(default="gaussian", doc="the density of data given latents")
    std: float | None = dc.param(default=None, gt=0, le=1e6, doc="standard deviation of a Gaussian decoder; null: learned")

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The module for images."""
        shape = checked_shape(self, self.latents, event, outputs)
        latent, folded = self.latents[0], self.unshuffle**2
        widths = [min(self.width * 2**i, 4 * self.width) for i in range(1 + halvings(shape, latent, self.unshuffle))]
        down = encoder(shape[0] * folded, latent[0], widths, cond)
        back = decoder(shape[0] * folded, latent[0], widths, cond)
        if self.unshuffle > 1:
            down.body.first = nn.Sequential(nn.PixelUnshuffle(self.unshuffle), down.body.first)
            back.body.rest = nn.Sequential(back.body.rest, nn.PixelShuffle(self.unshuffle))
        return VAEModule(shape, self.latents, cond, (down, back), (self.hidden, 2), self.decoder, self.std)


def halvings(shape: tuple[int, ...], latent: tuple[int, ...], unshuffle: int) -> int:
    """How often the folded sides are halved. Raises `IncompatibleError` where they do not become those of the latent."""
    if len(shape) == len(latent) == 3 and shape[1] % (latent[1] * unshuffle) == 0:
        times = int(math.log2(shape[1] // (latent[1] * unshuffle)))
        if all(side == unshuffle * 2**times * other for side, other in zip(shape[1:], latent[1:], strict=True)):
            return times
    raise dc.IncompatibleError(
        f"vae-conv makes latents whose sides are those of the data, divided by unshuffle = {unshuffle} and some powers of 2; "
        f"data {shape} and latent {latent} are not so"
    )

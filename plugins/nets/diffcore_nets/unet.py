"""A small image U-Net (Ronneberger et al. 2015; the blocks of Dhariwal and Nichol 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

import diffcore as dc

from .embedding import Conditioning
from .layers import PixelAttention, group_norm, image_shape, modulate, output_channels, pad_to, zeroed


class ResBlock(nn.Module):
    """x + conv(silu(modulate(norm(conv(silu(norm(x))))))), then self-attention where `head_width` is given."""

    def __init__(self, inputs: int, outputs: int, embedding: int, head_width: int | None) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm2, self.conv2 = group_norm(outputs), zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.attention = nn.Identity() if head_width is None else PixelAttention(outputs, head_width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        scale, shift = self.modulation(emb)[..., None, None].chunk(2, dim=1)
        h = self.norm2(self.conv1(silu(self.norm1(x))))
        return self.attention(self.skip(x) + self.conv2(silu(modulate(h, scale, shift))))


class Down(nn.Module):
    """A level on the way down: to its resolution, then its blocks, whose outputs are all kept."""

    def __init__(self, shrink: nn.Module, blocks: Iterable[ResBlock]) -> None:
        super().__init__()
        self.shrink, self.blocks = shrink, nn.ModuleList(blocks)

    def forward(self, h: Tensor, emb: Tensor) -> list[Tensor]:
        """The outputs of the blocks, in order."""
        kept: list[Tensor] = []
        h = self.shrink(h)
        for block in self.blocks:
            h = block(h, emb)
            kept.append(h)
        return kept


class Up(nn.Module):
    """A level on the way up: its blocks, each given one kept output of the way down, then to the resolution above."""

    def __init__(self, blocks: Iterable[ResBlock], grow: nn.Module) -> None:
        super().__init__()
        self.blocks, self.grow = nn.ModuleList(blocks), grow

    def forward(self, h: Tensor, emb: Tensor, kept: Sequence[Tensor]) -> Tensor:
        """The features of the next finer level."""
        for block, skip in zip(self.blocks, reversed(kept), strict=True):
            h = block(torch.cat((h, skip), dim=1), emb)
        return self.grow(h)


class UNetModule(nn.Module):
    """See `UNet`. Between levels, pixels move into channels and back: no pooling, no interpolation."""

    def __init__(self, spec: UNet, shape: tuple[int, int, int], cond: Mapping[str, int], channels_out: int) -> None:
        super().__init__()
        widths, factor = [spec.width * m for m in spec.multipliers], spec.unshuffle
        self.null_cond, self.multiple = dict(cond), factor * 2 ** (len(widths) - 1)
        inputs, emb = shape[0] * factor**2, 4 * spec.width

        def blocks(level: int, wider: int = 1) -> list[ResBlock]:
            head = spec.head_width if level in spec.attention else None
            return [ResBlock(wider * widths[level], widths[level], emb, head) for _ in range(spec.blocks)]

        shrinks = [nn.Identity(), *(_shrink(w, coarser) for w, coarser in pairwise(widths))]
        grows = [nn.Identity(), *(_grow(coarser, w) for w, coarser in pairwise(widths))]
        self.embed = Conditioning(emb, cond, spec.second_time)
        self.stem = nn.Sequential(nn.PixelUnshuffle(factor), nn.Conv2d(inputs, widths[0], 3, padding=1))
        self.down = nn.ModuleList(Down(shrink, blocks(i)) for i, shrink in enumerate(shrinks))
        self.middle = ResBlock(widths[-1], widths[-1], emb, spec.head_width)
        self.up = nn.ModuleList(Up(blocks(i, wider=2), grows[i]) for i in reversed(range(len(widths))))
        self.norm = group_norm(widths[0])
        self.head = nn.Sequential(zeroed(nn.Conv2d(widths[0], channels_out * factor**2, 3, padding=1)), nn.PixelShuffle(factor))

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, **cond: Tensor | None) -> Tensor:
        """The prediction at x: an image of its sides."""
        kept: list[list[Tensor]] = []
        emb = self.embed(x, t, s, cond)
        h = self.stem(pad_to(x, self.multiple))
        for down in self.down:
            kept.append(down(h, emb))
            h = kept[-1][-1]
        h = self.middle(h, emb)
        for up, features in zip(self.up, reversed(kept), strict=True):
            h = up(h, emb, features)
        return self.head(silu(self.norm(h)))[..., : x.shape[-2], : x.shape[-1]]


def _shrink(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * inputs, outputs, 1))


def _grow(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 1), nn.PixelShuffle(2))


@dc.component
class UNet(dc.Network):
    """A U-Net for images (channels, height, width) of any size.

    Level i has `width * multipliers[i]` channels at 1 / (unshuffle 2^i) of the resolution; sides that do not divide by the
    coarsest are zero-padded inside. The time and class embedding scales and shifts the second normalisation of every residual
    block; the coarsest feature map passes through self-attention. The output layer starts at zero, so the untrained network
    is 0 everywhere. Raises `IncompatibleError` for events that are not images.
    """

    source: ClassVar[str] = "Ronneberger et al. 2015 (arXiv 1505.04597); Dhariwal and Nichol 2021 (arXiv 2105.05233)"

    width: int = dc.param(default=32, ge=8, le=65_536, doc="channels of the finest level; a multiple of 8 groups well")
    multipliers: tuple[int, ...] = dc.param(
        default=(1, 2), ge=1, le=1024, doc="channels of each level in units of width, finest first"
    )
    blocks: int = dc.param(default=1, ge=1, le=100, doc="residual blocks per level, each way")
    unshuffle: int = dc.param(
        default=2, ge=1, le=64, doc="pixels per side that move into channels at the border; 1 is full resolution"
    )
    attention: tuple[int, ...] = dc.param(
        default=(), ge=0, le=63, doc="levels with self-attention after each block (0 is finest)"
    )
    head_width: int = dc.param(
        default=32, ge=4, le=65_536, doc="channels per attention head, about: the heads divide the channels"
    )
    second_time: bool = dc.param(default=False, doc="also embed s: the network of a flow map")

    def __attrs_post_init__(self) -> None:
        levels = len(self.multipliers)
        if not levels or any(level >= levels for level in self.attention):
            raise dc.SpecError(
                f"UNet needs 'multipliers', and 'attention' levels of 0 to {levels - 1}; got {list(self.attention)}"
            )

    @property
    def takes_second_time(self) -> bool:
        """`second_time`."""
        return self.second_time

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The module for images; outputs are images of the same sides."""
        shape, out = self.shapes(event, outputs)
        return UNetModule(self, image_shape("unet", shape), cond, output_channels("unet", shape, out))

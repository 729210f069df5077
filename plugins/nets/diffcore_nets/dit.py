"""A diffusion transformer (Peebles and Xie 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import diffcore as dc

from .embedding import Conditioning
from .layers import SelfAttention, image_shape, modulate, output_channels, pad_to, zeroed


def positions(rows: int, columns: int, width: int) -> Tensor:
    """Fixed 2-D position embedding: (rows * columns, width), row-major.

    A quarter of the width each for sin and cos of r w_k and of c w_k, w_k = 10000^(-k / (width / 4)) (Vaswani et al. 2017).
    """
    quarter = width // 4
    frequency = 10_000.0 ** (-torch.arange(quarter) / quarter)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * frequency for place in (row, column)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def layer_norm(width: int) -> nn.LayerNorm:
    """Layer normalisation whose scale and shift come from a modulation."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


class Block(nn.Module):
    """adaLN-zero: attention and perceptron, each modulated before and gated after; all gates start at zero."""

    def __init__(self, width: int, head_width: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.attention = layer_norm(width), SelfAttention(width, head_width)
        hidden, out = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)
        self.norm2, self.mlp = layer_norm(width), nn.Sequential(hidden, nn.GELU("tanh"), out)
        self.modulation = zeroed(nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Tokens (B, N, width) -> the same shape."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(emb)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attention(modulate(self.norm1(x), scale1, shift1))
        return x + gate2 * self.mlp(modulate(self.norm2(x), scale2, shift2))


class DiTModule(nn.Module):
    """See `DiT`."""

    positions: Tensor

    def __init__(self, spec: DiT, shape: tuple[int, int, int], cond: Mapping[str, int], channels_out: int) -> None:
        super().__init__()
        channels, *sides = shape
        self.null_cond, self.patch = dict(cond), spec.patch
        rows, columns = (-(-side // spec.patch) for side in sides)
        self.embed = Conditioning(spec.width, cond, spec.second_time)
        self.stem = nn.Conv2d(channels, spec.width, spec.patch, stride=spec.patch)
        self.register_buffer("positions", positions(rows, columns, spec.width), persistent=False)
        self.blocks = nn.ModuleList(Block(spec.width, spec.head_width, spec.mlp_ratio) for _ in range(spec.depth))
        self.norm, self.modulation = layer_norm(spec.width), zeroed(nn.Linear(spec.width, 2 * spec.width))
        self.head = zeroed(nn.Linear(spec.width, channels_out * spec.patch**2))
        self.unpatch = nn.Sequential(nn.Unflatten(2, (rows, columns)), nn.PixelShuffle(spec.patch))

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, **cond: Tensor | None) -> Tensor:
        """The prediction at x: an image of its sides."""
        emb = self.embed(x, t, s, cond)
        h = self.stem(pad_to(x, self.patch)).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            h = block(h, emb)
        scale, shift = self.modulation(emb)[:, None].chunk(2, dim=-1)
        patches = self.head(modulate(self.norm(h), scale, shift)).transpose(1, 2)
        return self.unpatch(patches)[..., : x.shape[-2], : x.shape[-1]]


@dc.component
class DiT(dc.Network):
    """A transformer on square patches, with fixed 2-D position embedding and adaLN-zero conditioning.

    An image (C, H, W) becomes ceil(H / patch) ceil(W / patch) tokens (zero-padded below and to the right where a side does not
    divide). Every block is the identity at first and the output layer is zero, so the untrained network is 0 everywhere.
    Raises `IncompatibleError` for events that are not images.
    """

    source: ClassVar[str] = "Peebles and Xie 2023, arXiv 2212.09748"

    width: int = dc.param(default=128, ge=4, le=65_536, doc="channels of a token; a multiple of 4 (of head_width for full heads)")
    depth: int = dc.param(default=6, ge=1, le=1000, doc="transformer blocks")
    patch: int = dc.param(default=4, ge=1, le=1024, doc="pixels per side of a patch")
    head_width: int = dc.param(default=32, ge=4, le=65_536, doc="channels per attention head, about: the heads divide the width")
    mlp_ratio: int = dc.param(default=4, ge=1, le=64, doc="hidden units of the perceptron in units of width")
    second_time: bool = dc.param(default=False, doc="also embed s: the network of a flow map")

    def __attrs_post_init__(self) -> None:
        if self.width % 4:
            raise dc.SpecError(f"'width' of DiT must be a multiple of 4 (sine and cosine, row and column); got {self.width}")

    @property
    def takes_second_time(self) -> bool:
        """`second_time`."""
        return self.second_time

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The module for images; outputs are images of the same sides."""
        shape, out = self.shapes(event, outputs)
        return DiTModule(self, image_shape("dit", shape), cond, output_channels("dit", shape, out))

"""A transformer on tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention, silu

import diffcore as dc

FEATURES = 32


def waves(t: Tensor) -> Tensor:
    """cos and sin of 2 pi f t for 16 frequencies f, geometric from 1/8 to 16: (B,) -> (B, 32), float32."""
    frequency = torch.logspace(-3, 4, FEATURES // 2, base=2.0, device=t.device)
    angle = 2 * torch.pi * t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


def turned(x: Tensor) -> Tensor:
    """Pairs of channels (j, j + D/2) turned by the angle i 100^(-2j/D) at position i: x (..., L, D), D even.

    The product of a query at i and a key at k then depends on i and k through i - k (Su et al. 2021, arXiv 2104.09864).
    """
    length, half = x.shape[-2], x.shape[-1] // 2
    speed = 100.0 ** (-torch.arange(half, device=x.device) / half)
    angle = torch.arange(length, device=x.device)[:, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.split(half, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Block(nn.Module):
    """Attention and perceptron, each normalised and modulated before, gated after; the modulation starts as none."""

    def __init__(self, width: int, heads: int, rotary: bool) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        with torch.no_grad():
            self.modulation.bias.view(6, width).copy_(torch.tensor([0.0, 0.0, 1.0] * 2)[:, None])

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """(B, L, width) -> the same shape."""
        a, b, gate, c, d, gate2 = self.modulation(emb)[:, None].chunk(6, -1)
        h = h + gate * self.attention(self.norm(h) * (1 + a) + b)
        return h + gate2 * self.down(gelu(self.up(self.norm(h) * (1 + c) + d)))

    def attention(self, h: Tensor) -> Tensor:
        """Every token attends to all."""
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.rotary:
            q, k = turned(q), turned(k)
        return self.mix(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class TokenTransformerModule(nn.Module):
    """See `TokenTransformer`."""

    slot: Tensor

    def __init__(self, spec: TokenTransformer, length: int, values: int, cond: Mapping[str, int]) -> None:
        super().__init__()
        self.null_cond, width, self.group = dict(cond), spec.width, spec.group
        self.token = nn.Embedding(spec.group * (values + 1), width)
        self.place = nn.Parameter(0.5 * torch.randn(length // spec.group, width))
        self.register_buffer("slot", torch.arange(spec.group) * (values + 1), persistent=False)
        self.time = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = nn.ModuleDict({name: nn.Embedding(count + 1, width) for name, count in cond.items()})
        self.blocks = nn.ModuleList(Block(width, spec.heads, spec.rotary) for _ in range(spec.depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, spec.group * values)
        nn.init.normal_(self.token.weight, std=0.5)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor | None) -> Tensor:
        """Tokens (B, *shape) at times t (B,) -> logits (B, *shape, V)."""
        emb = silu(self.time(waves(t).to(self.head.weight.dtype)) + self._labelled(x, cond))
        h = self.token(x.flatten(1).unflatten(1, (-1, self.group)) + self.slot).sum(2) + self.place
        for block in self.blocks:
            h = block(h, emb)
        return self.head(self.norm(h)).view(*x.shape, -1)

    def _labelled(self, x: Tensor, cond: Mapping[str, Tensor | None]) -> Tensor | float:
        unknown = sorted(set(cond) - set(self.null_cond))
        if unknown:
            raise dc.IncompatibleError(
                f"this network has no condition '{unknown[0]}'; it has: {', '.join(self.null_cond) or 'none'}"
            )
        total: Tensor | float = 0.0
        for name, table in self.labels.items():
            label = cond.get(name)
            index = torch.full((len(x),), self.null_cond[name], device=x.device) if label is None else label.expand(len(x))
            total = total + table(index)
        return total


@dc.component
class TokenTransformer(dc.Network):
    """Tokens 0..V (V: the mask) -> logits of V values, entry by entry, with full attention over all L entries.

    Learned embeddings of token and place; Fourier features of the time and embeddings of class conditions modulate every block
    through its normalisations. The output layer starts at zero: the untrained network says 1/V everywhere. An event of any shape
    is read as a row of L entries, `group` of them to a position: fewer positions cost less, and see their neighbours at once.
    Raises `IncompatibleError` under a process that wants no logits.
    """

    source: ClassVar[str] = (
        "Vaswani et al. 2017, arXiv 1706.03762; Peebles and Xie 2023, arXiv 2212.09748; Su et al. 2021, arXiv 2104.09864"
    )

    width: int = dc.param(default=128, ge=2, le=65_536, doc="channels of a token, a multiple of heads")
    depth: int = dc.param(default=4, ge=1, le=1000, doc="transformer blocks")
    heads: int = dc.param(default=4, ge=1, le=1024, doc="attention heads")
    group: int = dc.param(default=1, ge=1, le=1024, doc="consecutive entries that are read, and answered, as one position")
    rotary: bool = dc.param(default=False, doc="attention is told how far apart two positions are: learns text in fewer steps")

    def __attrs_post_init__(self) -> None:
        if self.width % self.heads:
            raise dc.SpecError(f"'width' of TokenTransformer must be a multiple of heads = {self.heads}; got {self.width}")
        if self.rotary and self.width // self.heads % 2:
            raise dc.SpecError(f"'rotary' needs an even number of channels per head; got {self.width // self.heads}")

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The module for tokens of any shape; outputs are (*shape, V)."""
        shape, out = self.shapes(event, outputs)
        if out[:-1] != shape:
            raise dc.IncompatibleError(
                f"network 'token-transformer' gives logits of shape {(*shape, 'V')} for tokens of shape {shape}, not "
                f"outputs of shape {out}; take a process of tokens, such as 'masked'"
            )
        if math.prod(shape) % self.group:
            raise dc.SpecError(
                f"'group' of TokenTransformer must divide the {math.prod(shape)} entries of an event; got {self.group}"
            )
        return TokenTransformerModule(self, math.prod(shape), out[-1], cond)

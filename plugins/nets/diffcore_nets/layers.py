"""Small parts that more than one network is made of."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

import diffcore as dc


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with all parameters zero: a branch that starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(1 + scale) x + shift (Perez et al. 2018, FiLM)."""
    return x * (1 + scale) + shift


def pad_to(x: Tensor, multiple: int) -> Tensor:
    """Images (B, C, H, W) zero-padded below and to the right so that both sides divide by `multiple`."""
    return pad(x, (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over (B, heads, N, d).

    The fused kernels have no forward derivative, so an input that carries a tangent takes the plain kernel.
    """
    dual = not torch.compiler.is_compiling() and forward_ad.unpack_dual(q).tangent is not None
    with sdpa_kernel(SDPBackend.MATH) if dual else nullcontext():
        return scaled_dot_product_attention(q, k, v)


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens: (B, N, C) -> (B, N, C)."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.heads = math.gcd(channels, max(1, channels // head_width))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Every token attends to all."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v).transpose(1, 2).flatten(-2))


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation in up to 8 groups of 4 channels or more (one channel alone would lose its scale)."""
    return nn.GroupNorm(math.gcd(8, max(1, channels // 4), channels), channels)


class PixelAttention(nn.Module):
    """x + attention(norm(x)) over the pixels of a feature map."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.norm, self.attention = group_norm(channels), SelfAttention(channels, head_width)
        zeroed(self.attention.out)

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x, (B, C, H, W)."""
        tokens = self.attention(self.norm(x).flatten(2).transpose(1, 2))
        return x + tokens.transpose(1, 2).unflatten(2, x.shape[2:])


def image_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape as (channels, height, width). Raises `IncompatibleError` where events are not images."""
    if len(shape) != 3:
        raise dc.IncompatibleError(
            f"network '{name}' needs images of shape (channels, height, width); the data has events of shape {shape}; "
            f"use 'mlp', which takes any shape"
        )
    return shape


def output_channels(name: str, shape: tuple[int, ...], outputs: tuple[int, ...]) -> int:
    """The channels of an output image. Raises `IncompatibleError` where outputs are not images of the same sides."""
    if len(outputs) != 3 or outputs[1:] != shape[1:]:
        raise dc.IncompatibleError(
            f"network '{name}' makes images of the sides of its input {shape}, not outputs of shape {outputs}"
        )
    return outputs[0]

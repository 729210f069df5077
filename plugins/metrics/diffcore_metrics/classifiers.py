"""Two small classifiers of 28x28 grey images: one gives features, the other judges the class.

Both take images of shape (B, 1, 28, 28) in [-1, 1] and give (B, 10) logits. They share no layer, no seed and no
initialisation, so that a sample that happens to please one need not please the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeatureNet(nn.Module):
    """Four convolutions with group norm and SiLU; `features` is the 128-d spatial mean of the last one. 0.24 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(1, 32, 5, stride=2, padding=2),
                nn.Conv2d(32, 64, 3, padding=1),
                nn.Conv2d(64, 128, 3, stride=2, padding=1),
                nn.Conv2d(128, 128, 3, padding=1),
            ]
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in (32, 64, 128, 128))
        self.head = nn.Linear(128, 10)

    def features(self, x: Tensor) -> Tensor:
        """(B, 1, 28, 28) -> (B, 128)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.silu(norm(conv(x)))
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 28, 28) -> (B, 10)."""
        return self.head(self.features(x))


class JudgeNet(nn.Module):
    """Two 5x5 convolutions with ReLU and max-pooling, then two dense layers (LeCun et al. 1998, widened). 0.11 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 5, padding=2)
        self.second = nn.Conv2d(16, 32, 5, padding=2)
        self.hidden = nn.Linear(32 * 7 * 7, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 28, 28) -> (B, 10)."""
        for conv in (self.first, self.second):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        return self.head(F.relu(self.hidden(x.flatten(1))))


NETS: dict[str, Callable[[], nn.Module]] = {"features": FeatureNet, "judge": JudgeNet}
"""Role of a net in the metrics -> its class."""


def empty(role: str) -> Any:
    """The net of a role, its parameters not yet there. Torch's global generator is left alone."""
    with torch.device("meta"):
        return NETS[role]()


def initialise(net: nn.Module, generator: torch.Generator) -> None:
    """Fill the parameters of an `empty` net in place: weights after He et al. 2015 from one generator, norms ones and zeros."""
    net.to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = math.prod(module.weight.shape[1:])
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in), generator=generator)
        if isinstance(bias := getattr(module, "bias", None), Tensor):
            nn.init.zeros_(bias)

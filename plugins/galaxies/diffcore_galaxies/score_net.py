"""The score network of the pretrained models: an MLP-Mixer on patches of 4 x 4 pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import diffcore as dc
from diffcore_galaxies.weights import MODELS, Name, find, load

PATCH, WIDTH, HIDDEN, BLOCKS, T1 = 4, 64, 512, 4, 10.0


def _mlp(size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, size))


def _zero_table(rows: int) -> nn.Embedding:
    return nn.Embedding.from_pretrained(torch.zeros(rows, WIDTH), freeze=False)


class MixerBlock(nn.Module):
    """y + patches(norm y), then the same across channels. y (B, WIDTH, patches)."""

    def __init__(self, patches: int) -> None:
        super().__init__()
        self.patch_mixer, self.hidden_mixer = _mlp(patches), _mlp(WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm([WIDTH, patches]), nn.LayerNorm([patches, WIDTH])

    def forward(self, y: Tensor) -> Tensor:
        """The shape of y."""
        y = (y + self.patch_mixer(self.norm1(y))).mT
        return (y + self.hidden_mixer(self.norm2(y))).mT


class ScoreNet(nn.Module):
    """x (B, 1, H, W) and t in [0, 1], which is one more channel, to the score (B, 1, H, W).

    The modules are declared in the order of the arrays in the original's files. Conditions are added behind the first layer by
    embeddings that start at zero, so that a conditional network starts as the unconditional one.
    """

    def __init__(self, side: int, cond: Mapping[str, int]) -> None:
        super().__init__()
        self.null_cond, patches = dict(cond), (side // PATCH) ** 2
        self.conv_in = nn.Conv2d(2, WIDTH, PATCH, stride=PATCH)
        self.conv_out = nn.ConvTranspose2d(WIDTH, 1, PATCH, stride=PATCH)
        self.blocks = nn.ModuleList(MixerBlock(patches) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm([WIDTH, patches])
        self.embed = nn.ModuleDict({name: _zero_table(count + 1) for name, count in cond.items()})

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, **cond: Tensor | None) -> Tensor:
        """The score at x; t is (B,), or one time per pixel. Conditions that are not given are the null ones."""
        time = dc.expand(t.to(x), x).expand_as(x)
        y = self.conv_in(torch.cat([x, time], dim=1))
        for name, table in self.embed.items():
            chosen = cond.get(name)
            null = torch.full((len(x),), self.null_cond[name], device=x.device)
            y = y + table(null if chosen is None else chosen)[:, :, None, None]
        z = y.flatten(2)
        for block in self.blocks:
            z = block(z)
        return self.conv_out(self.norm(z).reshape(y.shape))

    @torch.no_grad()
    def take(self, arrays: Sequence[np.ndarray], name: str) -> None:
        """Fill in the arrays of an original file: 54 parameters and t1 = 10. Raises `DataError` where they do not fit."""
        own = {key: value for key, value in self.state_dict(keep_vars=True).items() if not key.startswith("embed.")}
        if len(arrays) != len(own) + 1 or arrays[-1].shape != () or float(arrays[-1]) != T1:
            raise dc.DataError(f"{name} holds {len(arrays)} arrays, not {len(own)} and t1 = 10: it is of another network")
        for (key, value), array in zip(own.items(), arrays, strict=False):
            found = _as_torch(key, torch.from_numpy(array.astype(np.float32)))
            if found.shape != value.shape:
                raise dc.DataError(f"{name}: {key} is {tuple(found.shape)}, this network has {tuple(value.shape)}")
            value.copy_(found)


def _as_torch(key: str, value: Tensor) -> Tensor:
    """Equinox keeps the bias of a convolution as (C, 1, 1), and the kernel of a transposed one as (out, in, H, W), flipped."""
    if key in ("conv_in.bias", "conv_out.bias"):
        return value.flatten()
    return value.flip(2, 3).transpose(0, 1) if key == "conv_out.weight" and value.ndim == 4 else value


@dc.component
class GalaxyScore(dc.Network):
    """A pretrained score model: grad log p_t(x) of images x = log(flux + 1) / 0.1 of (1, side, side), prediction `score`.

    It is for process `galaxy-vp`. An MLP-Mixer: patches of 4 x 4, width 64, 4 blocks of hidden size 512. The weights are read
    from the installed package galaxygrad 0.2.1, or from `weights`; with `pretrained: false` they are random (the seed's).
    Conditions, which the originals lack, enter by embeddings that start at zero.

    Raises `DataError` where the weights are missing or damaged, `IncompatibleError` for images of another shape.
    """

    source: ClassVar[str] = "Sampson et al. 2024, arXiv 2401.07313; Tolstikhin et al. 2021, arXiv 2105.01601 (MLP-Mixer)"
    example: ClassVar[Mapping[str, object]] = {"pretrained": False}
    event_shape: ClassVar[tuple[int, ...]] = (1, 32, 32)

    model: Name = dc.param(default="hsc32", doc="which model: survey and side of its images")
    weights: str | None = dc.param(default=None, doc="weights file, or folder of them; null: the installed galaxygrad")
    pretrained: bool = dc.param(default=True, doc="read the weights; false: the same network from the seed")

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> ScoreNet:
        """The module for images of the model's shape."""
        (shape, out), wanted = self.shapes(event, outputs), MODELS[self.model].shape
        if (shape, out) != (wanted, wanted):
            raise dc.IncompatibleError(
                f"galaxy-score model '{self.model}' is for images {wanted} and returns the same; asked for {shape} to {out}"
            )
        net = ScoreNet(MODELS[self.model].side, cond)
        if self.pretrained:
            net.take(load(self.model, self.weights), str(find(self.model, self.weights)))
        return net

"""How the shipped weights were made: `python -m diffcore_metrics.train_features --set mnist-5k`.

Trains the feature net and the judge of one data set from fixed seeds, rounds them to half precision, as they are shipped,
writes them, and prints their accuracy on images that neither saw and the hash to pin in `weights.py`. Needs the
distribution that provides the data set. The result repeats bit for bit on one machine with one thread, not on all.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

import diffcore as dc
from diffcore_metrics.classifiers import empty, initialise
from diffcore_metrics.weights import FOLDER


@attrs.frozen(kw_only=True)
class Recipe:
    """Steps of AdamW on batches of shifted, turned and scaled images; the rate rises for a tenth, then falls as a cosine."""

    images: str
    steps: int
    batch: int = 128
    rate: float = 2e-3
    decay: float = 0.02
    shift: float = 2 / 14  # of half the image: 2 pixels
    turn: float = math.radians(10)
    scale: float = 0.1


RECIPES = {
    "mnist-5k": Recipe(images="mnist", steps=1200),
    "fashion-mnist": Recipe(images="fashion-mnist", steps=2400, rate=3e-3, shift=1 / 14, turn=0.0, scale=0.0),
}
SEEDS = {"features": 20260101, "judge": 20260202}


def augment(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """A random shift, turn and scale of each image, within the bounds of the recipe; what enters is background (-1)."""
    turn, scale, *shift = torch.empty(4, len(x)).uniform_(-1, 1, generator=generator)
    angle, factor = recipe.turn * turn, 1 + recipe.scale * scale
    cos, sin = factor * angle.cos(), factor * angle.sin()
    rows = [torch.stack([cos, -sin, recipe.shift * shift[0]], 1), torch.stack([sin, cos, recipe.shift * shift[1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


def batches(n: int, recipe: Recipe, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of `steps` batches: one shuffled pass after the other, short ends dropped."""
    left = recipe.steps
    while left:
        for ids in torch.randperm(n, generator=generator).split(recipe.batch)[: min(left, n // recipe.batch)]:
            left -= 1
            yield ids


def rate_at(step: int, recipe: Recipe) -> float:
    """Learning rate of a step, as a share of the peak."""
    warm = recipe.steps / 10
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * max(0.0, step - warm) / (recipe.steps - warm))))


def train(role: str, x: Tensor, label: Tensor, recipe: Recipe, seed: int) -> nn.Module:
    """The net of a role, trained on images (N, 1, 28, 28) in [-1, 1] and labels (N,) from one seed."""
    generator = torch.Generator().manual_seed(seed)
    net = empty(role)
    initialise(net, generator)
    net.to(memory_format=torch.channels_last)  # twice as fast on a CPU
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    for step, ids in enumerate(batches(len(x), recipe, generator)):
        optimiser.param_groups[0]["lr"] = recipe.rate * rate_at(step, recipe)
        optimiser.zero_grad()
        F.cross_entropy(net(augment(x[ids], recipe, generator)), label[ids]).backward()
        optimiser.step()
    return net


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, label: Tensor) -> float:
    """Share of images (N, 1, 28, 28) that the net puts into their class."""
    hits = [(net(a).argmax(1) == b).sum() for a, b in zip(x.split(1000), label.split(1000), strict=True)]
    return float(sum(hits) / len(x))


def real(name: str, split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) in [-1, 1] and labels (N,) of an installed data set."""
    data = dc.Registry.load().make("data", name, split=split)
    source = data.open()
    raw, cond = source.batch(torch.arange(source.size))
    return data.to_model(raw), cond["label"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, test and write both nets of a data set."""
    parser = argparse.ArgumentParser(prog="python -m diffcore_metrics.train_features", description=__doc__)
    parser.add_argument("--set", choices=sorted(RECIPES), required=True, help="data set to train on")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the weights")
    options = parser.parse_args(arguments)
    recipe, seen, unseen = RECIPES[options.set], real(options.set, "train"), real(options.set, "test")
    for role, seed in SEEDS.items():
        net = train(role, *seen, recipe, seed).half()
        data = save({name: weight.contiguous() for name, weight in net.state_dict().items()})
        (options.out / f"{recipe.images}-{role}.safetensors").write_bytes(data)
        right = accuracy(net.float(), *unseen)
        print(f"{recipe.images} {role}: right on {right:.4f} of {len(unseen[0])}, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()

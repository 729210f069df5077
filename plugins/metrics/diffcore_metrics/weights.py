"""The shipped weights of the small classifiers, each checked against its pinned hash before it is read."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
from safetensors.torch import load

import diffcore as dc
from diffcore_metrics.classifiers import empty

Trained = Literal["mnist", "fashion-mnist"]
"""The kinds of image there are classifiers for."""

FOLDER = Path(__file__).parent / "weights"


@attrs.frozen(kw_only=True)
class Card:
    """What is known of one file of weights: its hash, the images it was trained on, and its accuracy on unseen ones."""

    sha256: str
    trained_on: str
    accuracy: float
    unseen: int


CARDS: Mapping[tuple[Trained, str], Card] = {
    ("mnist", "features"): Card(
        sha256="cfb909cb5b09a50f312ecc713274d46daca5d5a9cbaf828eb7e3e98178b4b06d",
        trained_on="4,500 digits of mnist-5k",
        accuracy=0.9800,
        unseen=500,
    ),
    ("mnist", "judge"): Card(
        sha256="b945da38941c9ed7ac2b7e7ef4743fcdd38b83f760ae195a2b33bd5121051957",
        trained_on="4,500 digits of mnist-5k",
        accuracy=0.9820,
        unseen=500,
    ),
    ("fashion-mnist", "features"): Card(
        sha256="66327672c239528d376d8246ecda555d031b770253b04e3b4ccbb3c99df7b884",
        trained_on="60,000 images of fashion-mnist",
        accuracy=0.8978,
        unseen=10_000,
    ),
    ("fashion-mnist", "judge"): Card(
        sha256="5c606558962e5bd6c88534d6b4523868c3941ed0d3dc2d81c14269e19dfb2e17",
        trained_on="60,000 images of fashion-mnist",
        accuracy=0.9099,
        unseen=10_000,
    ),
}


def file_of(images: Trained, role: str) -> Path:
    """Where the weights of a role ('features' or 'judge') for a kind of image are."""
    return FOLDER / f"{images}-{role}.safetensors"


@functools.cache
def classifier(images: Trained, role: str) -> Any:
    """The trained net of a role, float32, on the CPU, frozen.

    Raises `CheckpointError` where its file is missing or not the one this version of the package was released with.
    """
    stored = load(verified(file_of(images, role), CARDS[images, role].sha256))
    net = empty(role)
    net.load_state_dict({name: weight.float() for name, weight in stored.items()}, assign=True)
    return net.requires_grad_(False).eval()


def verified(file: Path, sha256: str) -> bytes:
    """The bytes of a file with this hash."""
    again = "reinstall diffcore-metrics"
    if not file.is_file():
        raise dc.CheckpointError(f"the weights {file} are missing: {again}")
    data = file.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise dc.CheckpointError(f"the weights {file} have SHA-256 {found}, expected {sha256}: {again}")
    return data

"""What distances are measured on: the values themselves, or the features of a small trained net."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

import diffcore as dc
from diffcore_metrics.weights import Trained, classifier

Features = Literal["pixels", "mnist", "fashion-mnist"]
"""'pixels': the values, flattened. Otherwise the 128 features of the net trained on those images."""

PREFIX: dict[Features, str] = {"pixels": "", "mnist": "digit-", "fashion-mnist": "fashion-"}
"""What the names of results begin with, so that numbers on different features are never mistaken for each other."""

IMAGE = (1, 28, 28)
BATCH = 500


def check_images(x: Tensor, kind: Trained) -> None:
    """Raises `DataError` for samples that the nets do not take."""
    if tuple(x.shape[1:]) != IMAGE:
        raise dc.DataError(f"the net for '{kind}' takes images of shape {IMAGE}; the samples have shape {tuple(x.shape[1:])}")


def images(x: Tensor, kind: Trained) -> Tensor:
    """Samples as the nets take them: (B, 1, 28, 28) in [-1, 1]. Raises `DataError` for another shape."""
    check_images(x, kind)
    return x.float().clamp(-1, 1)


@torch.no_grad()
def extract(x: Tensor, features: Features) -> Tensor:
    """Features (B, d) float64 of samples (B, *shape)."""
    if features == "pixels":
        return x.flatten(1).double()
    net = classifier(features, "features")
    return torch.cat([net.features(part) for part in images(x, features).split(BATCH)]).double()


@torch.no_grad()
def judge(x: Tensor, kind: Trained) -> Tensor:
    """The class (B,) that the judge of these images reads in each sample (B, 1, 28, 28)."""
    net = classifier(kind, "judge")
    return torch.cat([net(part).argmax(1) for part in images(x, kind).split(BATCH)])

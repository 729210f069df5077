"""Networks for diffcore: a perceptron, a U-Net and a diffusion transformer."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_networks() -> Iterator[dc.Component]:
    """The networks of this distribution."""
    yield dc.Component("mlp", "diffcore_nets.mlp:MLP", "residual perceptron for vectors (Perez et al. 2018 modulation)")
    yield dc.Component("unet", "diffcore_nets.unet:UNet", "small image U-Net (Ronneberger et al. 2015, Dhariwal & Nichol 2021)")
    yield dc.Component("dit", "diffcore_nets.dit:DiT", "diffusion transformer, adaLN-zero (Peebles & Xie 2023)")

"""Whether network, process and data fit together."""

from __future__ import annotations

from typing import Any

import diffcore as dc

from .module import Shape, VAEModule
from .process import check_latents


def checked_shape(network: dc.Network, latents: tuple[Shape, ...], event: Any, outputs: Any) -> Shape:
    """The shape of the data.

    Raises `SpecError` for bad latents, `IncompatibleError` where the process wants other outputs than data.
    """
    check_latents(latents, type(network).__name__)
    shape, out = network.shapes(event, outputs)
    if out != shape:
        raise dc.IncompatibleError(f"{type(network).__name__} makes data of shape {shape}, not {out}; take process 'vae'")
    return shape


def check_vae(model: dc.Denoiser) -> VAEModule:
    """The network, if it is one of this family and has the latents of the process; else `IncompatibleError`."""
    net: Any = model.net
    if not all(hasattr(net, name) for name in ("posterior", "log_likelihood", "latents")):
        raise dc.IncompatibleError(f"a VAE needs encoder and decoder: network vae-mlp or vae-conv; got {type(net).__name__}")
    wanted = getattr(model.process, "latents", None)
    if wanted != net.latents:
        raise dc.IncompatibleError(f"process.latents {wanted} and network.latents {net.latents} differ; give both the same")
    return net

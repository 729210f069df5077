"""Variational autoencoders for diffcore: flat and hierarchical, their bounds, and the latents of a trained one as data."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_processes() -> Iterator[dc.Component]:
    """One jump."""
    yield dc.Component("vae", "diffcore_vae.process:OneJump", "standard normal latents, one jump to data (Kingma, Welling 2014)")


@dc.hookimpl
def diffcore_networks() -> Iterator[dc.Component]:
    """Encoder, decoder and what lies between them."""
    yield dc.Component("vae-mlp", "diffcore_vae.mlp:MLPVAE", "perceptron encoder and decoder, any events (Kingma, Welling 2014)")
    yield dc.Component("vae-conv", "diffcore_vae.conv:ConvVAE", "convolutional encoder and decoder, images to latent images")


@dc.hookimpl
def diffcore_losses() -> Iterator[dc.Component]:
    """The objective."""
    yield dc.Component("vae", "diffcore_vae.loss:NegativeELBO", "negative ELBO, flat or hierarchical (Kingma and Welling 2014)")


@dc.hookimpl
def diffcore_solvers() -> Iterator[dc.Component]:
    """The jump as a solver."""
    yield dc.Component("decode", "diffcore_vae.decode:Decode", "latents to data by one call of the decoder")


@dc.hookimpl
def diffcore_metrics() -> Iterator[dc.Component]:
    """How good the bound is, and what the latents carry."""
    yield dc.Component("vae-bound", "diffcore_vae.bound:VAEBound", "ELBO and importance-weighted bound (Burda et al. 2016)")
    yield dc.Component(
        "vae-latents",
        "diffcore_vae.collapse:VAELatents",
        "reconstruction, active units, information in latents (Hoffman 2016)",
    )


@dc.hookimpl
def diffcore_data() -> Iterator[dc.Component]:
    """Latents as data."""
    yield dc.Component("latent", "diffcore_vae.latent:Latent", "data through a trained codec (Rombach et al. 2022)")

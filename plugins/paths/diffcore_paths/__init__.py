"""Gaussian paths x_t = alpha_t x_0 + sigma_t eps as diffcore processes. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_processes() -> Iterator[dc.Component]:
    """The seven paths of this family, and laws of noise."""
    yield dc.Component("vp", "diffcore_paths.vp:VP", "variance preserving, linear beta (Song et al. 2021)")
    yield dc.Component("ve", "diffcore_paths.ve:VE", "variance exploding, geometric sigma (Song et al. 2021)")
    yield dc.Component("sub-vp", "diffcore_paths.sub_vp:SubVP", "variance at most that of VP, linear beta (Song et al. 2021)")
    yield dc.Component("edm", "diffcore_paths.edm:EDM", "time is the noise level, sigma = t (Karras et al. 2022)")
    yield dc.Component("flow", "diffcore_paths.flow:Flow", "straight line from data to noise (Liu et al., Lipman et al. 2022)")
    yield dc.Component("trig", "diffcore_paths.trig:Trig", "quarter circle from data to noise (Albergo and Vanden-Eijnden 2022)")
    yield dc.Component(
        "cosine", "diffcore_paths.cosine:Cosine", "variance preserving, alpha a cosine of t (Nichol and Dhariwal 2021)"
    )
    yield dc.Component(
        "mixed", "diffcore_paths.mixed:Mixed", "in part common to all frames of a sample (Ge et al. 2023)", kind="noise"
    )
    yield dc.Component(
        "gaussian-process",
        "diffcore_paths.gaussian_process:GaussianProcess",
        "smooth functions on a grid (Bilos et al. 2023)",
        kind="noise",
    )
    yield dc.Component(
        "symmetric", "diffcore_paths.symmetric:Symmetric", "symmetric matrices, for graphs (Jo et al. 2022)", kind="noise"
    )

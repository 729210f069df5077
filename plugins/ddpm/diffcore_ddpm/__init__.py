"""Denoising diffusion probabilistic models as diffcore components. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_processes() -> Iterator[dc.Component]:
    """The chain."""
    yield dc.Component("ddpm", "diffcore_ddpm.chain:Chain", "discrete chain of N noising steps (Ho et al. 2020)")


@dc.hookimpl
def diffcore_networks() -> Iterator[dc.Component]:
    """The adapter of networks that take integers."""
    yield dc.Component(
        "indexed", "diffcore_ddpm.indexed:Indexed", "a network that is given the index 0 .. N - 1 (Ho et al. 2020)"
    )


@dc.hookimpl
def diffcore_losses() -> Iterator[dc.Component]:
    """The bound, the hybrid of Nichol and Dhariwal, and the law of integer times."""
    yield dc.Component("vlb", "diffcore_ddpm.vlb:VLB", "variational bound in bits per dimension (Ho et al. 2020)")
    yield dc.Component("ddpm-hybrid", "diffcore_ddpm.hybrid:Hybrid", "learns the variance too (Nichol and Dhariwal 2021)")
    yield dc.Component("indices", "diffcore_ddpm.indices:Indices", "uniform over the chain (Ho et al. 2020)", kind="time_law")


@dc.hookimpl
def diffcore_solvers() -> Iterator[dc.Component]:
    """Ancestral sampling with the chain's variances, and the grids of published samplers."""
    yield dc.Component(
        "ddpm",
        "diffcore_ddpm.ancestral:DDPM",
        "ancestral, variance small, large or learned (Ho et al. 2020)",
        aliases=(
            dc.Alias("ComfyUI", "ddpm"),
            dc.Alias("diffusers", "DDPMScheduler"),
        ),
    )
    yield dc.Component(
        "leading", "diffcore_ddpm.leading:Leading", "every c-th index from the first (Ho et al. 2020)", kind="grid"
    )
    yield dc.Component("trailing", "diffcore_ddpm.trailing:Trailing", "even, from the last index (Lin et al. 2023)", kind="grid")
    yield dc.Component(
        "linspace", "diffcore_ddpm.linspace:Linspace", "even, first and last index included (Nichol & Dhariwal 2021)", kind="grid"
    )
    yield dc.Component(
        "respaced", "diffcore_ddpm.respaced:Respaced", "even within sections of the chain (Nichol and Dhariwal 2021)", kind="grid"
    )


@dc.hookimpl
def diffcore_metrics() -> Iterator[dc.Component]:
    """The bound on data."""
    yield dc.Component("elbo", "diffcore_ddpm.elbo:ELBO", "variational bound on data in bits per dimension (Ho et al. 2020)")

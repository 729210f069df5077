"""Pretrained score models of galaxies for diffcore: their process, their network, and samples of them as data."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_processes() -> Iterator[dc.Component]:
    """The process that the models were trained under."""
    yield dc.Component(
        "galaxy-vp", "diffcore_galaxies.process:GalaxyVP", "variance preserving, beta = 1, t to 10 (Sampson et al. 2024)"
    )


@dc.hookimpl
def diffcore_networks() -> Iterator[dc.Component]:
    """The network of the models."""
    yield dc.Component(
        "galaxy-score", "diffcore_galaxies.score_net:GalaxyScore", "pretrained score networks of galaxies (Sampson et al. 2024)"
    )


@dc.hookimpl
def diffcore_data() -> Iterator[dc.Component]:
    """What the models know, as a data set."""
    yield dc.Component(
        "galaxy-samples",
        "diffcore_galaxies.samples:GalaxySamples",
        "fine samples of a pretrained model of galaxies; not a survey",
    )

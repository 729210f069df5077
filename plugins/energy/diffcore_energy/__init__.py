"""The score view: score matching, energy networks, the noise ladder of NCSN, Langevin sampling. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_losses() -> Iterator[dc.Component]:
    """Four losses and a time law."""
    yield dc.Component(
        "implicit-score-matching", "diffcore_energy.implicit:ImplicitScoreMatching", "exact trace, for small D (Hyvarinen 2005)"
    )
    yield dc.Component(
        "sliced-score-matching", "diffcore_energy.sliced:SlicedScoreMatching", "trace by random probes (Song et al. 2019)"
    )
    yield dc.Component("sure", "diffcore_energy.sure:SURE", "risk of a denoiser without clean data (Stein 1981)")
    yield dc.Component(
        "contrastive-divergence",
        "diffcore_energy.contrastive:ContrastiveDivergence",
        "energy of data minus energy of short Langevin runs (Hinton 2002)",
    )
    yield dc.Component(
        "ladder", "diffcore_energy.levels:LadderLaw", "times of L geometric noise levels (Song and Ermon 2019)", kind="time_law"
    )


@dc.hookimpl
def diffcore_networks() -> Iterator[dc.Component]:
    """The energy network and a smooth perceptron to put into it."""
    yield dc.Component("energy", "diffcore_energy.energy:Energy", "gradient of a scalar network (Salimans and Ho 2021)")
    yield dc.Component("perceptron", "diffcore_energy.perceptron:Perceptron", "plain smooth perceptron for vectors")


@dc.hookimpl
def diffcore_processes() -> Iterator[dc.Component]:
    """The noise ladder of NCSN."""
    yield dc.Component("ncsn", "diffcore_energy.ncsn:NCSN", "ladder of L geometric noise levels, alpha = 1 (Song and Ermon 2019)")


@dc.hookimpl
def diffcore_solvers() -> Iterator[dc.Component]:
    """Two Langevin samplers and the grid of geometric levels."""
    yield dc.Component(
        "annealed-langevin", "diffcore_energy.annealed:AnnealedLangevin", "Langevin steps level by level (Song and Ermon 2019)"
    )
    yield dc.Component("ula", "diffcore_energy.ula:ULA", "unadjusted Langevin at one noise level (Roberts and Tweedie 1996)")
    yield dc.Component(
        "ladder", "diffcore_energy.levels:Ladder", "geometric noise levels, then clean data (Song and Ermon 2019)", kind="grid"
    )


@dc.hookimpl
def diffcore_metrics() -> Iterator[dc.Component]:
    """Whether a field is a gradient, and what an energy takes for data."""
    yield dc.Component(
        "conservativity", "diffcore_energy.conservativity:Conservativity", "asymmetry of the Jacobian (Salimans and Ho 2021)"
    )
    yield dc.Component(
        "outliers", "diffcore_energy.outliers:Outliers", "real data told by its energy (Hendrycks and Gimpel 2017)"
    )

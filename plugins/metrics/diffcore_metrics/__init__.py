"""Metrics for diffcore: distances and overlaps with real data, class accuracy, cost. Each states its spread and its floor."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_metrics() -> Iterator[dc.Component]:
    """The metrics of this distribution."""
    yield dc.Component(
        "sliced-wasserstein",
        "diffcore_metrics.sliced:SlicedWasserstein",
        "Wasserstein distance averaged over 1-D projections (Rabin et al. 2011)",
    )
    yield dc.Component(
        "frechet", "diffcore_metrics.frechet:Frechet", "distance of Gaussians fitted to named features; not the FID"
    )
    yield dc.Component(
        "precision-recall",
        "diffcore_metrics.precision_recall:PrecisionRecall",
        "share of samples near real data, and of real data near samples (Kynkaanniemi et al. 2019)",
    )
    yield dc.Component(
        "coverage",
        "diffcore_metrics.coverage:Coverage",
        "share of real data with a sample near it, and density (Naeem et al. 2020)",
    )
    yield dc.Component(
        "class-accuracy",
        "diffcore_metrics.class_accuracy:ClassAccuracy",
        "share of samples that a classifier reads as the class asked for",
    )
    yield dc.Component(
        "wasserstein", "diffcore_metrics.wasserstein:Wasserstein", "W1 (earth mover) or W2 between the two sets, exact (POT)"
    )
    yield dc.Component("mmd", "diffcore_metrics.mmd:MMD", "maximum mean discrepancy and its p-value (Gretton et al. 2012)")
    yield dc.Component(
        "energy-distance", "diffcore_metrics.energy_distance:EnergyDistance", "energy distance (Szekely and Rizzo 2013)"
    )
    yield dc.Component(
        "knn-kl", "diffcore_metrics.knn_kl:KNNKL", "KL both ways from nearest neighbours (Wang, Kulkarni and Verdu 2009)"
    )
    yield dc.Component("kl", "diffcore_metrics.kl:KL", "KL against data of known density")
    yield dc.Component(
        "f-divergence",
        "diffcore_metrics.f_divergence:FDivergence",
        "f-divergences of binned samples against a known density",
    )
    yield dc.Component("fisher", "diffcore_metrics.fisher:Fisher", "error of the score, on data of known score (Hyvarinen 2005)")
    yield dc.Component("cost", "diffcore_metrics.cost:Cost", "network evaluations and seconds per sample")

"""Runge-Kutta methods for diffcore."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


def _solver(id: str, target: str, summary: str) -> dc.Component:
    return dc.Component(id, f"diffcore_edm_solvers.{target}", summary)


@dc.hookimpl
def diffcore_solvers() -> Iterator[dc.Component]:
    """The solvers of this distribution."""
    yield _solver(
        "runge-kutta", "runge_kutta:RungeKutta", "explicit Runge-Kutta of order 1 to 5, in t, sigma or lam (Kutta 1901)"
    )
    yield _solver(
        "exp-runge-kutta",
        "exp_runge_kutta:ExpRungeKutta",
        "exponential Runge-Kutta in lam, order 2 to 4 (Hochbruck and Ostermann 2005)",
    )
    yield _solver(
        "edm-stochastic",
        "edm_stochastic:EDMStochastic",
        "the churn of EDM before a step of any Runge-Kutta method (Karras et al. 2022)",
    )
    yield _solver("adaptive", "adaptive:Adaptive", "embedded pair 3(2) or 5(4), a step size per sample (Dormand and Prince 1980)")
    yield _solver("torchdiffeq", "ode_library:TorchDiffEq", "the adaptive methods of the package torchdiffeq (Chen 2018)")

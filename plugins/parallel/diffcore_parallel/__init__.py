"""Sampling in parallel over time for diffcore."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_solvers() -> Iterator[dc.Component]:
    """The solver of this distribution."""
    yield dc.Component(
        "paradigms",
        "diffcore_parallel.paradigms:Paradigms",
        "many steps at once: Picard iteration over a sliding window of the steps of any one-step solver (Shih et al. 2023)",
    )

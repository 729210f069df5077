"""Time grids optimised for a model, and the solver that is chosen for it."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


def _grid(id: str, target: str, summary: str) -> dc.Component:
    return dc.Component(id, f"diffcore_auto.{target}", summary, kind="grid")


@dc.hookimpl
def diffcore_solvers() -> Iterator[dc.Component]:
    """The solver and the time grids of this distribution."""
    yield dc.Component("auto", "diffcore_auto.auto:Auto", "the solver, order and grid of least measured error at a budget")
    yield _grid("cosine", "cosine:Cosine", "equal angles arctan(sigma / alpha) (Nichol and Dhariwal 2021)")
    yield _grid("crash", "crash:Crash", "small steps at both ends: sin(phi) = sin(pi u / 2)^2 (Rouard and Hadjeres 2021)")
    yield _grid(
        "straight", "straight:Straight", "equal steps of sigma / (alpha + sigma), the straight path's time (Liu et al. 2022)"
    )
    yield _grid("explicit", "explicit:Explicit", "times, levels lam or noise ratios as given (Sabour et al. 2024)")
    yield _grid("equidistributed", "equidistributed:Equidistributed", "equal shares of measured local error (Sabour et al. 2024)")
    yield _grid("endpoint", "endpoint:Endpoint", "least distance to a fine solution at the end (Watson et al. 2021)")

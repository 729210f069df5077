"""One model in many views: changes of schedule, the gamma family of reverse SDEs, ELBO weightings. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_processes() -> Iterator[dc.Component]:
    """A process seen through another schedule, and the schedule of least kinetic energy."""
    yield dc.Component(
        "transformed", "diffcore_unified.transformed:Transformed", "one process on the schedule of another (Lai et al. 2025)"
    )
    yield dc.Component(
        "kinetic", "diffcore_unified.kinetic:Kinetic", "straight line at constant marginal speed (Shaul et al. 2023)"
    )


@dc.hookimpl
def diffcore_solvers() -> Iterator[dc.Component]:
    """The gamma family, and any solver run on another schedule."""
    yield dc.Component("gamma-sde", "diffcore_unified.gamma_sde:GammaSDE", "ODE, reverse SDE and all between (Ma et al. 2024)")
    yield dc.Component("through", "diffcore_unified.through:Through", "another solver on another schedule (Lai et al. 2025)")


@dc.hookimpl
def diffcore_losses() -> Iterator[dc.Component]:
    """Weightings of the squared error."""
    where = "diffcore_unified.weightings"
    yield dc.Component("p2", f"{where}:P2", "1 / (k + SNR)^gamma on the noise (Choi et al. 2022)", kind="weighting")
    yield dc.Component(
        "in-target", f"{where}:InTarget", "another weighting, pinned to one target (Lai et al. 2025)", kind="weighting"
    )
    yield dc.Component(
        "monotone",
        "diffcore_unified.monotone:Monotone",
        "another weighting made monotone, an average of ELBOs (Kingma and Gao 2023)",
        kind="weighting",
    )

"""Flow maps: networks that jump along the probability-flow ODE, and the losses that train them."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_flow_maps() -> Iterator[dc.Component]:
    """Parametrisations of the flow map."""
    yield dc.Component(
        "mean-flow", "diffcore_flowmaps.mean_flow:MeanFlow", "jumps by the average velocity between two times (Geng et al. 2025)"
    )


@dc.hookimpl
def diffcore_losses() -> Iterator[dc.Component]:
    """Losses that train a flow map from data alone."""
    yield dc.Component(
        "mean-flow",
        "diffcore_flowmaps.mean_flow_loss:MeanFlowLoss",
        "trains an average velocity by the MeanFlow identity (Geng et al. 2025)",
    )

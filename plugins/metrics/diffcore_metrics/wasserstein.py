"""Wasserstein distance between two sets of samples, solved exactly."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc
from diffcore_metrics.neighbours import squared_distances
from diffcore_metrics.quantiles import quantile_costs
from diffcore_metrics.two_samples import TwoSamples

ROUNDS = 10_000_000


def wasserstein(x: Tensor, y: Tensor, order: Literal[1, 2]) -> float:
    """W_p = (min over couplings of the two sets of E|X - Y|^p)^{1/p} for p = `order`, with Euclidean |.| and equal weights.

    x: (n, d), y: (m, d). On the line the quantile functions are coupled, in closed form; elsewhere the linear program is
    solved by POT. Raises `DataError` where POT is absent, `NumericsError` where it does not finish.
    """
    total = float(quantile_costs(x, y, order)) if x.shape[1] == 1 else transport(x, y, order)
    return max(total, 0.0) ** (1 / order)


def transport(x: Tensor, y: Tensor, order: Literal[1, 2]) -> float:
    """The least mean of |x - y|^order over all couplings of equal weights, by the network simplex of POT."""
    origin = x.double().mean(0)
    squared = torch.cat([*squared_distances(x.double() - origin, y.double() - origin)]).clamp(min=0)
    cost, log = pot().emd2([], [], (squared ** (order / 2)).numpy(), numItermax=ROUNDS, log=True)
    if log["warning"] is not None:
        raise dc.NumericsError(f"POT did not finish the transport of {len(x)} to {len(y)} points: {log['warning']}; take fewer")
    return float(cost)


def pot() -> Any:
    """The package POT. Raises `DataError` where it is absent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ot  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise dc.DataError(
            "wasserstein needs the package POT in more than one dimension; run: pip install 'diffcore-metrics[pot]', or take "
            "sliced-wasserstein"
        ) from None
    return ot


@dc.component
class Wasserstein(TwoSamples):
    """Exact Wasserstein distance `W1` (earth mover) or `W2` of the two sets, in the units of the features.

    A translation by d is at distance |d|. It is biased upwards: between two sets of one distribution it falls only as
    n^{-1/d} in d > 2 (order 2: d > 4) dimensions, so read it beside its floor. The cost of the solver grows about as n^3.

    Raises `DataError` in more than one dimension where POT is absent.
    """

    source: ClassVar[str] = "Villani 2009; Bonneel et al. 2011 (network simplex); Flamary et al. 2021 (POT)"
    within: ClassVar[tuple[float | None, float | None]] = (0.0, None)
    items: ClassVar[tuple[str, ...]] = ("1.04",)

    order: Literal[1, 2] = dc.param(default=2, doc="p: the cost is the p-th power of the distance")

    def check(self, ev: dc.Evaluation) -> None:
        """Also asks for POT where it is needed."""
        super().check(ev)
        if self.features != "pixels" or ev.samples[0].numel() > 1:
            pot()

    def compare(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """W1 or W2."""
        return {f"W{self.order}": wasserstein(fake, real, self.order)}

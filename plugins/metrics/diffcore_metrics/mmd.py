"""Maximum mean discrepancy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc
from diffcore_metrics.features import extract
from diffcore_metrics.neighbours import squared_distances
from diffcore_metrics.two_sample_statistic import Kernel, unbiased
from diffcore_metrics.two_samples import TwoSamples

MOST = 1000


def gaussian_mixture_kernel(widths: Sequence[float]) -> Kernel:
    """k = mean over the widths h of exp(-|x - y|^2 / (2 h^2)): positive definite, characteristic, 1 at equal points."""

    def kernel(squared: Tensor) -> Tensor:
        return torch.stack([torch.exp(squared / (-2 * h * h)) for h in widths]).mean(0)

    return kernel


def median_distance(x: Tensor) -> float:
    """Median distance of different points among (at most the first 1000 of) x (n, d). Raises `DataError` where it is zero."""
    x = x[:MOST].double()
    squared = torch.cat([*squared_distances(x - x.mean(0), x - x.mean(0))])
    pairs = torch.ones_like(squared).triu(1).bool()
    found = float(squared[pairs].clamp(min=0).median().sqrt())
    if found == 0:
        raise dc.DataError("half of all pairs of real samples coincide, so mmd has no median distance; set 'bandwidth'")
    return found


@dc.component
class MMD(TwoSamples):
    """Squared maximum mean discrepancy `MMD2` of a mixture of Gaussian kernels, unbiased, and `MMD-p`, its permutation p-value.

        MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),    k = mean_h exp(-|x - y|^2 / (2 h^2))

    The widths h are `scales` times `bandwidth`, or times the median distance of the real data, so that samples, floor and
    blocks are measured with one kernel. Unbiased: about 0 for equal distributions, also below. In [-2, 2].

    Raises `DataError` where half of the real data coincide and no bandwidth is given.
    """

    source: ClassVar[str] = "Gretton et al. 2012, JMLR 13, lemma 6 (unbiased statistic) and section 5 (median distance)"

    scales: tuple[float, ...] = dc.param(
        default=(0.5, 1.0, 2.0), gt=0, le=1e6, doc="widths of the kernels, in units of the bandwidth"
    )
    bandwidth: float | None = dc.param(
        default=None, gt=0, le=1e6, doc="unit of the widths; null: the median distance of the real data"
    )
    permutations: int = dc.param(default=200, ge=1, le=1_000_000, doc="relabellings for the p-value")
    seed: int = dc.param(default=0, ge=0, doc="seed of the relabellings")

    def better_of(self, name: str) -> Literal["lower", "higher"]:
        """A small p-value says that the distributions differ."""
        return "higher" if name == "MMD-p" else "lower"

    def check(self, ev: dc.Evaluation) -> None:
        """Also refuses real data whose values have no median distance."""
        super().check(ev)
        if self.bandwidth is None and self.features == "pixels":
            median_distance(extract(ev.reference, "pixels"))

    def within_of(self, name: str) -> tuple[float | None, float | None]:
        """The estimate of the square has no bias, so that it may be negative; p is a share."""
        return (0.0, 1.0) if name == "MMD-p" else (None, None)

    def compare(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """MMD2 and MMD-p with the kernel of `real`."""
        unit = self.bandwidth or median_distance(real)
        kernel = gaussian_mixture_kernel([scale * unit for scale in self.scales])
        value, p = unbiased(fake, real, kernel, self.permutations, self.seed)
        return {"MMD2": value, "MMD-p": p}

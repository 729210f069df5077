"""What the metrics that compare samples with real data share: who is compared with whom, the spread, and the floor."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

import diffcore as dc
from diffcore_metrics.features import PREFIX, Features, check_images, extract


def _count(ev: dc.Evaluation) -> int:
    """How many samples are compared: as many as can be held out of the reference beside them."""
    return min(len(ev.samples), len(ev.reference) // 2)


@dc.component
class TwoSamples(dc.Metric):
    """A distance or overlap between n samples and real data, and three numbers that say what it is worth.

    The reference of N real samples is cut in two: its last n are put in the place of the samples to give the *floor*, what
    a perfect model would score with this n; the other N - n are what both are compared with. n is the number of samples,
    or half the reference where that is less. The *spread* is the standard deviation over blocks of n / blocks samples
    (wider than that of the value itself, which uses all n). Compare only values with equal n, N and features.
    """

    features: Features = dc.param(
        default="pixels", doc="what is compared: the values, or features of a net trained on these images"
    )
    blocks: int = dc.param(default=4, ge=2, le=10_000, doc="blocks of samples, for the spread")

    better: ClassVar[Literal["lower", "higher"]] = "lower"
    within: ClassVar[tuple[float | None, float | None]] = (None, None)

    @property
    def least(self) -> int:
        """Fewest samples that can be compared."""
        return 2

    def better_of(self, name: str) -> Literal["lower", "higher"]:
        """Which way the number `name` of `compare` is good."""
        return self.better

    def within_of(self, name: str) -> tuple[float | None, float | None]:
        """The smallest and the largest value that the number `name` can have."""
        return self.within

    def compare(self, fake: Tensor, real: Tensor) -> Mapping[str, float]:
        """Named numbers from features (n, d) and (m, d), float64."""
        raise NotImplementedError

    def check(self, ev: dc.Evaluation) -> None:
        """Also refuses fewer samples, or real ones, than the blocks need, and images that the net of the features never saw."""
        super().check(ev)
        if _count(ev) // self.blocks < self.least:
            raise dc.DataError(
                f"{type(self).__name__} with {self.blocks} blocks needs {self.blocks * self.least} samples and twice as many "
                f"real ones; there are {len(ev.samples)} and {len(ev.reference)}; raise evaluation.n or take more data"
            )
        if self.features != "pixels":
            check_images(ev.samples, self.features)

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """Value, floor and spread of every number of `compare`."""
        self.check(ev)
        n = _count(ev)
        fake, reference = (extract(x.cpu(), self.features) for x in (ev.samples[:n], ev.reference))
        real, held_out = reference[:-n], reference[-n:]
        values, floors = self.compare(fake, real), self.compare(held_out, real)
        parts = [self.compare(part, real) for part in fake.split(n // self.blocks)[: self.blocks]]
        return {
            PREFIX[self.features] + name: dc.Measured(
                value=value,
                n=n,
                spread=statistics.stdev(part[name] for part in parts),
                floor=floors[name],
                against=f"{len(real)} of {ev.reference_name}",
                better=self.better_of(name),
                within=self.within_of(name),
            )
            for name, value in values.items()
        }

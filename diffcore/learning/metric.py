"""Metrics: numbers about samples or fields that say how many samples, how uncertain, and against what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
from torch import Tensor

from diffcore.declare.component import Base
from diffcore.declare.errors import DataError
from diffcore.declare.kinds import kind
from diffcore.learning.data import Data
from diffcore.numerics.fields import Field


@attrs.frozen(kw_only=True)
class Measured:
    """One number and what it means. `spread` is the standard deviation over blocks of samples, `floor` the same metric
    between two sets of real data of that size, `against` what it was computed against, `better` which way is good, `within`
    the smallest and the largest value that there can be (None where there is no such bound)."""

    value: float
    n: int
    spread: float | None = None
    floor: float | None = None
    against: str = ""
    better: Literal["lower", "higher", ""] = ""
    within: tuple[float | None, float | None] = (None, None)


@attrs.frozen(kw_only=True)
class Evaluation:
    """What a metric may look at. Samples and reference are data, in [-1, 1] where it has a range.

    field: the field that was sampled, on states as the network sees them (`data.encode` of raw values).
    """

    samples: Tensor
    reference: Tensor
    cond: Mapping[str, Tensor] = attrs.field(factory=dict[str, Tensor])
    reference_cond: Mapping[str, Tensor] = attrs.field(factory=dict[str, Tensor])
    reference_name: str = "data"
    nfe: float = 0.0
    calls: int = 0
    seconds: float = 0.0
    field: Field | None = None
    data: Data | None = None


@kind("metric")
class Metric(Base):
    """A metric. `requires`: capabilities of the process. `needs_classes`: only meaningful for class-conditional samples.
    `of_samples`: whether it judges samples, and not the field on real data. `of_data`: it is about the data itself, so that
    a codec between data and network is refused. `least_real`: fewest real samples it can work with."""

    requires: ClassVar[frozenset[str]] = frozenset()
    needs_classes: ClassVar[bool] = False
    of_samples: ClassVar[bool] = True
    of_data: ClassVar[bool] = False
    least_real: ClassVar[int] = 1

    def check(self, ev: Evaluation) -> None:
        """Refuse what this metric cannot measure, before anything is trained or sampled.

        A pipeline asks when it is assembled: `ev.samples` has its shape and no values (on the device "meta") and `ev.field`
        is None, all else is as it will be. An override adds to this one, and its `measure` begins with `self.check(ev)`.
        Raises `DataError` for a codec or too few real samples, where the class says so.
        """
        through = ev.data.seen_through if self.of_data and ev.data is not None else ""
        if through:
            who, data = type(self).__name__, type(ev.data).__name__
            raise DataError(f"{who} is about the data itself; {data} is seen by the network through {through}")
        if len(ev.reference) < self.least_real:
            raise DataError(f"{type(self).__name__} needs at least {self.least_real} real samples; there are {len(ev.reference)}")

    def measure(self, ev: Evaluation) -> Mapping[str, Measured]:
        """Named results. Raises `DataError` where the samples do not fit the metric (shape, range, count)."""
        raise NotImplementedError

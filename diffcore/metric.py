"""Metrics: numbers about samples or fields that say how many samples, how uncertain, and against what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
from torch import Tensor

from diffcore.component import Base
from diffcore.data import Data
from diffcore.fields import Field


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


class Metric(Base):
    """A metric. `needs_classes`: only meaningful for class-conditional samples. `of_samples`: whether it judges samples, and
    not the field on real data."""

    kind: ClassVar[str] = "metric"
    needs_classes: ClassVar[bool] = False
    of_samples: ClassVar[bool] = True

    def measure(self, ev: Evaluation) -> Mapping[str, Measured]:
        """Named results. Raises `DataError` where the samples do not fit the metric (shape, range, count)."""
        raise NotImplementedError

"""Distributions known in closed form: of the data, and of a model; and numbers about samples against the data's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore.testing import FiniteSet, Oracle

LogDensity = Callable[[Tensor], Tensor]
"""log p(x) in nats, (B,) float64, of x (B, *shape)."""


def oracle_of(ev: dc.Evaluation, who: str) -> Oracle:
    """The law of the data in closed form, as its `oracle()` says; without data, that of an exact network.

    Raises `DataError` where it is not known, or where the network sees the data scaled or through a codec.
    """
    data: Any = ev.data
    net = None if ev.field is None else getattr(ev.field.base, "net", None)
    if data is None and isinstance(known := getattr(net, "oracle", None), Oracle):
        return known
    plain = data is not None and data.value_range is None and type(data).encode is dc.Data.encode
    found: Oracle | None = data.oracle() if plain else None  # pyright: ignore[reportOptionalMemberAccess]
    if found is None:
        name, why = "none" if data is None else type(data).__name__, ", whose `oracle()` gives none" if plain else ""
        raise dc.DataError(f"{who} needs data of known density (gaussian, gaussian-mixture); the data is {name}{why}")
    return found


def density_of(oracle: Oracle, who: str) -> LogDensity:
    """log p of data. Raises `DataError` for a finite set, which has no density."""
    if isinstance(oracle, FiniteSet):
        raise dc.DataError(f"{who} needs data with a density; a finite set of points has none")
    return oracle.log_prob


def model_density(field: dc.Field | None) -> LogDensity | None:
    """log q of a model that states its density: an exact network, or a normalising flow (`net.log_prob(x, time)`), else None."""
    base: Any = getattr(field, "base", None)
    net: Any = getattr(base, "net", None)
    if isinstance(known := getattr(net, "oracle", None), Oracle):
        return None if isinstance(known, FiniteSet) else known.log_prob
    return (lambda x: _flow_density(base, net, x)) if hasattr(net, "log_prob") else None


@torch.no_grad()
def _flow_density(base: Any, net: Any, x: Tensor) -> Tensor:
    parameter = next(net.parameters())
    x, at = x.to(parameter), base.point(0.0, x)
    scale = base.reading.feed(base.process, torch.ones_like(x), at)
    return (net.log_prob(scale * x, base.time(at.t, x)) + scale.log().flatten(1).sum(1)).double().cpu()


@dc.component
class AgainstDensity(dc.Metric):
    """Numbers about n samples against the data's exact density. The floor is the same with n real samples; the spread is the
    standard deviation over blocks of n / blocks samples."""

    id: ClassVar[str] = "a metric against the exact density"

    blocks: int = dc.param(default=4, ge=2, le=10_000, doc="blocks of samples, for the spread")

    @property
    def least(self) -> int:
        """Fewest samples that can be compared."""
        return 2

    def against(self, ev: dc.Evaluation) -> tuple[Callable[[Tensor], Mapping[str, float]], str]:
        """What gives the named numbers of samples (n, *shape), float64, and what it compares them with."""
        raise NotImplementedError

    def check(self, ev: dc.Evaluation) -> None:
        """Also refuses data without a known density, and fewer samples, or real ones, than the blocks need."""
        super().check(ev)
        density_of(oracle_of(ev, self.id), self.id)
        if min(len(ev.samples), len(ev.reference)) // self.blocks < self.least:
            need = self.blocks * self.least
            raise dc.DataError(
                f"{type(self).__name__} with {self.blocks} blocks needs {need} samples and as many real ones; there are "
                f"{len(ev.samples)} and {len(ev.reference)}; raise evaluation.n or take more data"
            )

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """Value, floor and spread of every number."""
        self.check(ev)
        numbers, name = self.against(ev)
        n = min(len(ev.samples), len(ev.reference))
        fake, real = ev.samples[:n].cpu().double(), ev.reference[-n:].cpu().double()
        values, floors = numbers(fake), numbers(real)
        parts = [numbers(part) for part in fake.split(n // self.blocks)[: self.blocks]]
        return {
            key: dc.Measured(
                value=value,
                n=n,
                spread=statistics.stdev(part[key] for part in parts),
                floor=floors[key],
                against=name,
                better="lower",
            )
            for key, value in values.items()
        }

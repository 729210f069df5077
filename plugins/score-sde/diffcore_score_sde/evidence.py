"""What the metrics of this distribution share: real rows as the network sees them, and numbers with their spread."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor, nn

import diffcore as dc

BLOCKS = 4


def field_of(ev: dc.Evaluation, who: str) -> dc.Field:
    """The sampled field. Raises `DataError` where there is none."""
    if ev.field is None:
        raise dc.DataError(f"{who} measures a field, and the evaluation has none; evaluate a pipeline, or give `field`")
    return ev.field


def rows(ev: dc.Evaluation, field: dc.Field, n: int) -> tuple[Tensor, dc.Field]:
    """The first n real samples as the network sees them, float64, on its device, and the field under their conditions."""
    device = device_of(field)
    x = ev.reference[:n].to(device, torch.float64)
    cond = {key: value[:n].to(device) for key, value in ev.reference_cond.items() if key in field.cond}
    return x, field.bound(cond)


def device_of(field: dc.Field) -> torch.device:
    """Where the network is; the CPU for plain functions."""
    net: Any = getattr(field.base, "net", None)
    parameter = next(net.parameters(), None) if isinstance(net, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def mean_of(values: Tensor, against: str, better: Any = "") -> dc.Measured:
    """The mean of one value per sample, its spread that of the means of four blocks."""
    n = len(values)
    blocks = values.double().split(n // BLOCKS)[:BLOCKS]
    return dc.Measured(
        value=float(values.double().mean()),
        n=n,
        spread=statistics.stdev(float(b.mean()) for b in blocks),
        against=against,
        better=better,
    )

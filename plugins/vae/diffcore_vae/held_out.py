"""What the metrics are measured on, and with which network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import attrs
import torch
from torch import Tensor

import diffcore as dc

from .fitting import check_vae
from .module import VAEModule


class HeldOut(NamedTuple):
    """Data as the network sees it (n, *shape), its conditions, and what it is called in a report."""

    x: Tensor
    cond: Mapping[str, Tensor]
    name: str


def network(ev: dc.Evaluation) -> VAEModule:
    """The VAE of an evaluation. Raises `DataError` where it has none."""
    if ev.field is None or "latents" not in ev.field.process.provides:
        raise dc.DataError("this metric measures a VAE (process 'vae', networks vae-mlp and vae-conv)")
    return check_vae(ev.field.base)


def held_out(ev: dc.Evaluation, n: int) -> HeldOut:
    """Up to n samples: of the split 'test' where the data has been trained on 'train', else of the reference."""
    device = next(network(ev).parameters()).device
    if ev.data is None or getattr(ev.data, "split", "") != "train":
        return HeldOut(ev.reference[:n].to(device), _to(device, ev.reference_cond, n), ev.reference_name)
    other: Any = attrs.evolve(ev.data, split="test")
    source = other.open()
    raw, cond = source.batch(torch.linspace(0, source.size - 1, min(n, source.size)).long())
    return HeldOut(other.encode(raw).to(device), _to(device, cond, n), f"{ev.reference_name}, test split")


def _to(device: torch.device, cond: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: value[:n].to(device) for name, value in cond.items()}

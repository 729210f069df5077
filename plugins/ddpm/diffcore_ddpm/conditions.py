"""Random numbers of the losses by purpose, and conditions left out at random (Ho and Salimans 2022, arXiv 2207.12598)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import diffcore as dc

INDEX, NOISE, DROP = 1, 2, 3


def dropped(cond: Mapping[str, Any], null: Mapping[str, Any], rate: float, draw: dc.Draw) -> dict[str, Any]:
    """The conditions; all those of a sample that have a null value are that value with probability `rate`."""
    if rate == 0:
        return dict(cond)
    out = draw.uniform() < rate

    def one(value: Tensor, empty: Any) -> Tensor:
        return torch.where(dc.expand(out, value), torch.as_tensor(empty, dtype=value.dtype, device=value.device), value)

    return {name: one(value, null[name]) if name in null else value for name, value in cond.items()}

"""Noise that is a data set."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class Empirical(dc.NoiseLaw):
    """The empirical distribution of the first `pool` samples of `data`, as the network sees them, drawn with replacement.

    Not Gaussian: for processes of velocities alone. Its classes are not used. Raises `DataError` for a state whose shape is not
    that of the samples.
    """

    source: ClassVar[str] = "Liu et al. 2022, arXiv 2209.03003, section 2.1"
    example: ClassVar[Mapping[str, Any]] = {"data": {"type": "eight-gaussians"}}
    gaussian: ClassVar[bool] = False

    data: dc.Data = dc.param(doc="where samples are drawn from")
    pool: int = dc.param(default=65536, ge=1, le=100_000_000, doc="samples that are kept and drawn from")

    @property
    def shape(self) -> tuple[int, ...]:
        """That of a sample."""
        return tuple(_pool_of(self.data, self.pool).shape[1:])

    def like(self, x: Tensor, draw: dc.Draw) -> Tensor:
        """One sample per row."""
        if tuple(x.shape[1:]) != self.shape:
            raise dc.DataError(
                f"the source has samples of shape {self.shape}, the target of shape {tuple(x.shape[1:])}; give both one shape"
            )
        pool = _pool_of(self.data, self.pool)
        return pool[draw.integers(len(pool)).to(pool.device)].to(x)


@lru_cache(maxsize=8)
def _pool_of(data: dc.Data, most: int) -> Tensor:
    """The first samples of a data set as the network sees them."""
    found = data.open()
    raw, _ = found.batch(torch.arange(most if found.size is None else min(most, found.size)))
    return data.encode(raw)

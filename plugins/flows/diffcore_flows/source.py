"""A flow from any distribution to any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class SourceFlow(dc.AffineProcess):
    """x_t = (1 - t) x_0 + t x_1 + sigma z, x_1 a sample of `data` instead of Gaussian noise, z ~ N(0, I).

    The velocity of a pair is x_1 - x_0 and its posterior mean carries the source at t = 1 to the target at t = 0 (blurred by
    sigma there and in between). Nothing here is Gaussian, so there is a velocity and a flat space to move in, and no score,
    no level lam and no reverse kernel: solvers and guidance that need 'affine' or 'reverse' are refused. Train by
    'flow-matching', with or without a coupling.

    The source is the empirical distribution of the first `pool` samples of `data`, as the network sees them, drawn with
    replacement; its classes are not used.

    Raises `DataError` for a target whose shape is not that of the source.
    """

    source: ClassVar[str] = "Liu et al. 2022, arXiv 2209.03003, eq. 1; Tong et al. 2024, arXiv 2302.00482, eq. 14"
    items: ClassVar[tuple[str, ...]] = ("5.10", "5.14")
    example: ClassVar[Mapping[str, Any]] = {"data": {"type": "eight-gaussians"}}
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"sigma": 0.1},)
    provides: ClassVar[frozenset[str]] = frozenset({"velocity", "flat"})
    predictions: ClassVar[tuple[str, ...]] = ("velocity",)
    expected_failures: ClassVar[Mapping[str, str]] = {"prior_moments": "the prior is the source, in its own shape"}

    data: dc.Data = dc.param(doc="where the flow starts from, at t = 1")
    sigma: float = dc.param(default=0.0, ge=0, le=1e6, doc="standard deviation of the blur around the line")
    pool: int = dc.param(default=65536, ge=1, le=100_000_000, doc="samples of the source that are kept and drawn from")

    def probe(self, draw: dc.Draw) -> Tensor:
        """Some target of the shape of the source, float64: for checks."""
        return draw.normal(tuple(pool_of(self.data, self.pool).shape[1:]), torch.float64)

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """1 - t and t, weights of target and source, and their derivatives; any shape, the dtype of t."""
        one = torch.ones_like(t)
        return dc.Coeffs(t, 1 - t, t, -one, one)

    def prior(self, shape: Sequence[int], draw: dc.Draw) -> Tensor:
        """Samples of the source, one per id, blurred by sigma."""
        self._check(shape)
        return self._blurred(self._drawn(draw), draw)

    def noise(self, x: Tensor, draw: dc.Draw) -> Tensor:
        """Samples of the source, in the place of the noise."""
        self._check(x.shape[1:])
        return self._drawn(draw).to(x)

    def corrupt(self, x0: Tensor, t: Tensor, draw: dc.Draw, eps: Tensor | None = None) -> dc.Corruption:
        """The line between x0 and `eps` (source samples, drawn where none are given) at times t, blurred."""
        made = super().corrupt(x0, t, draw, eps)
        return dc.Corruption(self._blurred(made.xt, draw), made.at, made.x0, made.eps)

    def _drawn(self, draw: dc.Draw) -> Tensor:
        return drawn(self.data, self.pool, draw)

    def _blurred(self, x: Tensor, draw: dc.Draw) -> Tensor:
        return x if self.sigma == 0 else x + self.sigma * draw.fold(1).normal_like(x)

    def _check(self, shape: Sequence[int]) -> None:
        own = tuple(pool_of(self.data, self.pool).shape[1:])
        if tuple(shape) != own:
            raise dc.DataError(f"the source has samples of shape {own}, the target of shape {tuple(shape)}; give both one shape")


def drawn(data: dc.Data, most: int, draw: dc.Draw) -> Tensor:
    """One of the first `most` samples of a data set per id of `draw`, with replacement."""
    pool = pool_of(data, most)
    return pool[draw.integers(len(pool)).to(pool.device)].to(draw.device)


@lru_cache(maxsize=8)
def pool_of(data: dc.Data, most: int) -> Tensor:
    """The first samples of a data set as the network sees them."""
    found = data.open()
    raw, _ = found.batch(torch.arange(most if found.size is None else min(most, found.size)))
    return data.encode(raw)

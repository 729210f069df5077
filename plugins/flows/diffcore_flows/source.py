"""A flow from any distribution to any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class SourceFlow(dc.AffineProcess):
    """x_t = (1 - t) x_0 + t x_1 + sigma z, x_1 of any law `noise` instead of Gaussian noise, z ~ N(0, I).

    The velocity of a pair is x_1 - x_0 and its posterior mean carries the source at t = 1 to the target at t = 0 (blurred by
    sigma there and in between). Nothing here is Gaussian, so there is a velocity and a flat space to move in, and no score,
    no level lam and no reverse kernel: solvers and guidance that need 'affine' or 'reverse' are refused. Train by
    'flow-matching', with or without a coupling.

    Raises `DataError` for a target whose shape is not that of the source.
    """

    source: ClassVar[str] = "Liu et al. 2022, arXiv 2209.03003, eq. 1; Tong et al. 2024, arXiv 2302.00482, eq. 14"
    items: ClassVar[tuple[str, ...]] = ("5.10", "5.14")
    example: ClassVar[Mapping[str, Any]] = {"noise": {"type": "empirical", "data": {"type": "eight-gaussians"}}}
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"sigma": 0.1},)
    provides: ClassVar[frozenset[str]] = frozenset({"velocity", "flat"})
    predictions: ClassVar[tuple[str, ...]] = ("velocity",)
    expected_failures: ClassVar[Mapping[str, str]] = {"prior_moments": "the prior is the source, in its own shape"}

    noise: dc.NoiseLaw = dc.param(doc="where the flow starts from, at t = 1")
    sigma: float = dc.param(default=0.0, ge=0, le=1e6, doc="standard deviation of the blur around the line")

    def probe(self, draw: dc.Draw) -> Tensor:
        """Some target of the shape of the source, float64: for checks."""
        return draw.normal(self.noise.shape or (2,), torch.float64)

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """1 - t and t, weights of target and source, and their derivatives; any shape, the dtype of t."""
        one = torch.ones_like(t)
        return dc.Coeffs(t, 1 - t, t, -one, one)

    def prior(self, event: Any, draw: dc.Draw) -> dc.State:
        """Samples of the source, one per id, blurred by sigma."""
        return self._blurred(super().prior(event, draw), draw)

    def corrupt(self, x0: Tensor, t: Tensor, draw: dc.Draw, eps: Tensor | None = None) -> dc.Corruption:
        """The line between x0 and `eps` (source samples, drawn where none are given) at times t, blurred."""
        made = super().corrupt(x0, t, draw, eps)
        return made._replace(xt=self._blurred(made.xt, draw))

    def _blurred(self, x: dc.State, draw: dc.Draw) -> dc.State:
        return x if self.sigma == 0 else dc.lincomb((1, x), (self.sigma, draw.fold(1).normal_like(x)))

"""Weightings of the squared error: P2, and a weighting pinned to one target.

A weight read in eps is a function w(lam) of the noise level; relative to times that are uniform in lam, the loss is
int w(lam) E|eps error|^2 dlam, whatever the schedule (Lai et al. 2025, arXiv 2510.21890, chapter 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc

EPS: dc.Row = (0.0, 1.0)


def from_eps(weight: Any, at: dc.Coeffs, row: dc.Row) -> Any:
    """A weight of the squared error of eps as the weight of the squared error in `row`: at fixed x_t an error e of eps is
    an error (q - p sigma / alpha) e of the target p x_0 + q eps. Where p = 0 that is q e, also without signal (alpha = 0)."""
    p, q = row
    return weight / (q - torch.where(torch.as_tensor(p) == 0, 0.0, p * at.sigma / at.alpha)) ** 2


@dc.component
class P2(dc.Weighting):
    """1 / (k + SNR)^gamma on the squared error of eps: less weight where there is little noise. gamma = 0 is the plain loss."""

    source: ClassVar[str] = "Choi et al. 2022, arXiv 2204.00227"
    items: ClassVar[tuple[str, ...]] = ("6.09",)

    gamma: float = dc.param(default=1.0, ge=0, le=10, doc="exponent")
    k: float = dc.param(default=1.0, gt=0, le=1e6, doc="signal-to-noise ratio below which the weight levels off")

    def __call__(self, at: dc.Coeffs, row: dc.Row) -> Tensor:
        """The weight in `row`, shape of at.t."""
        return from_eps((self.k + (at.alpha / at.sigma) ** 2) ** -self.gamma, at, row)


@dc.component
class InTarget(dc.Weighting):
    """The weighting `of` as it is in the target `target`, read in whatever target the loss measures.

    With D = alpha q - sigma p for the row (p, q) measured and D' for that of `target`, w = of * (D' / D)^2. So the loss
    with target A and weighting w, and the loss with target B and {in-target: A, of: w}, are one function with one gradient.
    """

    source: ClassVar[str] = "Lai et al. 2025, arXiv 2510.21890, chapter 6"
    items: ClassVar[tuple[str, ...]] = ("6.05",)
    example: ClassVar[Mapping[str, Any]] = {"of": {"type": "p2"}}

    of: dc.Weighting = dc.param(doc="the weight in that target")
    target: Literal["x0", "eps", "score", "v", "velocity", "edm"] = dc.param(default="eps", doc="the target it is meant for")
    sigma_data: float = dc.param(
        default=0.5, ge=1e-06, le=1e6, doc="standard deviation of the data, for the target edm; the model's own"
    )

    def __call__(self, at: dc.Coeffs, row: dc.Row) -> Tensor:
        """The weight in `row`, shape of at.t."""
        meant = dc.row(self.target, at, self.sigma_data)
        return self.of(at, meant) * (determinant(at, meant) / determinant(at, row)) ** 2


def determinant(at: dc.Coeffs, row: dc.Row) -> Any:
    """alpha q - sigma p: how strongly the target p x_0 + q eps speaks, at given x_t, of what is not known."""
    p, q = row
    return at.alpha * q - at.sigma * p


def levels(lam: Tensor) -> dc.Coeffs:
    """The variance-preserving coefficients at lam = log(alpha / sigma), with lam itself as the (rising) time."""
    alpha, sigma = torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()
    return dc.Coeffs(lam, alpha, sigma, alpha * sigma**2, -sigma * alpha**2)

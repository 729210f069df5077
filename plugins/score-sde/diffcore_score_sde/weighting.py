"""Likelihood weighting."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

import diffcore as dc
from diffcore_score_sde.sde import diffusion_square


@dc.component
class Likelihood(dc.Weighting):
    """g^2 on the squared error of the score: g^2 / sigma^2 = -2 lam' on that of the noise, -SNR' on that of x_0.

    With it, half the loss summed over the entries and integrated over t bounds KL(data | samples of the reverse SDE) up to a
    constant and the prior's KL, with equality where the learned score belongs to a density that evolves (Song et al. 2021,
    theorems 1 and 2). A loss that averages over D entries and over times uniform on [t_min, T] is that integral divided by
    D (T - t_min). Infinite at sigma = 0 and, in the noise, at alpha = 0.
    """

    source: ClassVar[str] = "Song et al. 2021, arXiv 2101.09258, theorem 1"
    items: ClassVar[tuple[str, ...]] = ("4.06", "C3")

    def __call__(self, at: dc.Coeffs, row: dc.Row) -> Tensor:
        """The weight in `row`, shape of at.t."""
        return dc.weight_from_x0(diffusion_square(at) * (at.alpha / at.sigma**2) ** 2, at, row)

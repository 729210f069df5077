"""The variational bound as a loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .bound import Variance, prior_term, step_term, steps_of
from .indices import drawn, length
from .purposes import DROP, INDEX, NOISE


@dc.component
class VLB(dc.Loss):
    """L_T + N L_i, i uniform on 1 .. N: an unbiased estimate of the bound -ELBO >= -log2 p(x_0), in bits per dimension.

    L_i = KL(q(x_{i-1}|x_i, x_0) || N(mu, v)) for i > 1, L_1 = -log p(x_0|x_1), L_T = KL(q(x_N|x_0) || prior). v is that of
    the reverse model: beta~ (`small`; at i = 1 that of i = 2), beta (`large`), or `learned`. Of a fixed v it is a weighted
    squared error of x_0 and has its minimiser, the posterior mean. Data in [-1, 1]; a tensor, not a tree.

    Raises `IncompatibleError` where `learned` meets a network that is not, or the process has no indices and `chain` is null.
    """

    source: ClassVar[str] = "Ho et al. 2020, arXiv 2006.11239, equations 5 and 13; Nichol and Dhariwal 2021, arXiv 2102.09672"
    items: ClassVar[tuple[str, ...]] = ("2.14",)
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    example: ClassVar[Mapping[str, Any]] = {"chain": 10}
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"variance": "large", "levels": None},)

    variance: Variance = dc.param(default="small", doc="variance of the reverse steps")
    levels: int | None = dc.param(
        default=256, ge=2, le=65_536, doc="even values of [-1, 1] that data takes; null: the decoder is a density"
    )
    chain: int | None = dc.param(default=None, ge=2, le=100_000, doc="number of indices N; that of the process where null")
    drop: float = dc.param(default=0.0, ge=0, le=1, doc="probability of training a sample without its conditions")

    def __call__(self, model: dc.Denoiser, x0: dc.State, draw: dc.Draw, **cond: Any) -> Tensor:
        """Estimates [B] in bits per dimension."""
        process, n = model.process, length(model.process, self.chain)
        i = drawn(draw.fold(INDEX), n)
        above, t, s = ((i + j).clamp_max(n) / n * process.T for j in (1, 0, -1))
        noised = process.corrupt(x0, t, draw.fold(NOISE))
        known = model(noised.xt, noised.at, **dc.dropped(cond, model.null, self.drop, draw.fold(DROP)))
        k = steps_of(process, above, t, s)
        return torch.add(prior_term(process, x0), step_term(k, x0, known, self.variance, self.levels), alpha=n)

"""The negative evidence lower bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

import diffcore as dc

from .elbo import noise, terms
from .fitting import check_vae
from .gaussians import total


@dc.component
class NegativeELBO(dc.Loss):
    """(-log p(x | z_1) + beta sum_i D_i) / D in nats per entry of x, at one sample of the latents.

    Flat: D_1 = KL(q(z | x) || N(0, I)). Hierarchical, q(z_1..z_L | x) = q(z_1 | x) prod q(z_{i+1} | z_i):
    D_i = E log q(z_i | z_{i-1}) - log p(z_i | z_{i+1}) below the top, a KL to N(0, I) at the top. With beta = 1 the mean is
    above -log p(x) / D and meets it where q is the exact posterior.

    free_bits: D_i is at least that much in every channel of every latent (unit, for vectors) of each sample. The original floors
    the mean over a batch; floored sample by sample the value of a sample does not depend on its batch, and is not smaller.

    Raises `IncompatibleError` for networks without encoder, or with other latents than the process.
    """

    source: ClassVar[str] = "Kingma and Welling 2014, arXiv 1312.6114, eq. 10; Higgins et al. 2017 (beta); Kingma et al. 2016, \
arXiv 1606.04934, appendix C.8 (free bits); Lai et al. 2025, arXiv 2510.21890, section 2.1.3 (hierarchical)"
    items: ClassVar[tuple[str, ...]] = ("1.07", "2.01", "2.03", "2.05")
    requires: ClassVar[frozenset[str]] = frozenset({"latents"})
    predictions: ClassVar[tuple[str, ...]] = ("decoder",)
    oracle: ClassVar[str | None] = None

    beta: float = dc.param(default=1.0, ge=0, le=1e6, doc="weight of the divergences; 1 is the bound")
    free_bits: float = dc.param(default=0.0, ge=0, le=1e6, unit="nats", doc="least divergence per channel of a latent")

    def parts(self, model: dc.Denoiser, event: dc.Event, cond: Mapping[str, int]) -> dict[str, nn.Module]:
        """No further modules; refuses what does not fit."""
        check_vae(model)
        return {}

    def __call__(self, model: dc.Denoiser, x0: Tensor, draw: dc.Draw, **cond: Any) -> Tensor:
        """Values [B] of data x0 (B, *shape)."""
        net = check_vae(model)
        found = terms(net, x0, noise(net, x0, draw), **cond)
        rate = sum((self._floored(d) for d in found.divergences[1:]), start=self._floored(found.divergences[0]))
        return (self.beta * rate - found.log_likelihood) / x0[0].numel()

    def _floored(self, divergence: Tensor) -> Tensor:
        if self.free_bits == 0:
            return total(divergence)
        return divergence.unsqueeze(-1).flatten(2).sum(2).clamp_min(self.free_bits).sum(1)

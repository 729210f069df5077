"""Contrastive divergence: maximum likelihood of an energy with short Langevin runs as model samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_energy.density import log_ratio
from diffcore_energy.langevin import langevin
from diffcore_energy.matching import CHAIN, WEAK_PUSH, NoisedLoss


@dc.component
class ContrastiveDivergence(NoisedLoss):
    """w (log p(x-) - log p(x+)) / D with x+ = x_t from data and x- the end of `steps` Langevin steps from x+ under the model.

    Its gradient at fixed x-, E_data grad E - E_chain grad E with E = -log p, is that of the negative log-likelihood when the
    chain has reached the model. The partition function drops out: the difference of energies is the work of the score along
    the line from x+ to x- (`log_ratio`), so any network serves; a network `energy` makes that work path-independent.

    Steps: x <- x + eta s + sqrt(2 eta) z, eta = size sigma^2. At the true score the mean gradient is zero up to O(size^2), the
    bias of unadjusted steps. The value is no measure of progress: it is near 0 at the optimum and may be negative.

    x0 (B, ...), result (B,). Cost: steps + nodes evaluations, the latter with gradients.
    """

    source: ClassVar[str] = (
        "Hinton 2002, Neural Comput. 14; Nijkamp et al. 2019, arXiv 1904.09770; Gao et al. 2020, arXiv 2012.08125"
    )
    items: ClassVar[tuple[str, ...]] = ("3.01",)
    expected_failures: ClassVar[Mapping[str, str]] = WEAK_PUSH

    steps: int = dc.param(default=5, ge=1, le=100_000, doc="Langevin steps of a chain")
    size: float = dc.param(default=0.1, gt=0, le=10, doc="eta / sigma^2; below 2, or the chain may diverge")
    nodes: int = dc.param(default=4, ge=1, le=1000, doc="points of the quadrature of the energy difference")

    def __call__(self, model: dc.Denoiser, x0: dc.State, draw: dc.Draw, **cond: Any) -> Tensor:
        """Losses (B,), differentiable in the model's parameters."""
        real, at, weight = self.noised(model, x0, draw)
        real = real.detach()
        with torch.no_grad():
            fake = self._chain(model, real, at, draw, cond)
        return weight * log_ratio(model, fake, real, at, nodes=self.nodes, **cond) / real[0].numel()

    def _chain(self, model: dc.Denoiser, x: Tensor, at: Any, draw: dc.Draw, cond: dict[str, Any]) -> Tensor:
        pull, push = -self.size * at.sigma, (2 * self.size) ** 0.5 * at.sigma
        for k in range(self.steps):
            x = langevin(x, model(x, at, **cond).eps, model.process.noise.like(x, draw.fold(CHAIN, k)), pull, push)
        return x

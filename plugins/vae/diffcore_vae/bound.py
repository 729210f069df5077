"""Bounds of the likelihood of a VAE."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .elbo import log_weight, noise
from .held_out import HeldOut, held_out, network
from .module import VAEModule


@dc.component
class VAEBound(dc.Metric):
    """Lower bounds of log p(x) / D in nats per entry, from k samples w_j = p(x, z_j) / q(z_j | x) of the latents:

        ELBO = E mean_j log w_j   <=   IWAE = E log mean_j w_j   <=   log p(x),

    with the same samples, so the first inequality holds for every x. IWAE rises with k and tends to log p(x); a gap of the two
    that does not close says that q is far from the posterior. A density of x as the network sees it, in [-1, 1] where the data
    has a range. Measured on the split 'test' where the data is trained on 'train', else on the reference, as `against` says.
    """

    source: ClassVar[str] = "Burda, Grosse and Salakhutdinov 2016, arXiv 1509.00519, equation 8"
    items: ClassVar[tuple[str, ...]] = ("2.01", "2.05")
    of_samples: ClassVar[bool] = False
    requires: ClassVar[frozenset[str]] = frozenset({"latents"})
    least_real: ClassVar[int] = 2

    k: int = dc.param(default=64, ge=2, le=1_000_000, doc="samples of the latents per x")
    n: int = dc.param(default=500, ge=2, le=10_000_000, doc="data looked at, at most")
    seed: int = dc.param(default=0, ge=0, doc="seed of the latents")

    @torch.no_grad()
    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """`ELBO` and `IWAE`, the spread being the standard error of the mean."""
        data = held_out(ev, self.n)
        weights = log_weights(network(ev), data, self.k, self.seed) / data.x[0].numel()
        size = data.x[0].numel()
        best = (torch.logsumexp(weights * size, 0) - math.log(self.k)) / size
        return {"ELBO": _measured(weights.mean(0), data.name), "IWAE": _measured(best, data.name)}


def log_weights(net: VAEModule, data: HeldOut, k: int, seed: int) -> Tensor:
    """log w_j of every x, float64 (k, n)."""
    draws = (dc.Draw(seed, range(len(data.x)), index=j, device=data.x.device) for j in range(k))
    return torch.stack([log_weight(net, data.x, noise(net, data.x, draw), **data.cond).double() for draw in draws])


def _measured(values: Tensor, name: str) -> dc.Measured:
    error = float(values.std() / len(values) ** 0.5)
    return dc.Measured(value=float(values.mean()), n=len(values), spread=error, against=f"{name}, nats/dim", better="higher")

"""What the latents of a VAE carry."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc

from .elbo import Climb, climb, noise, terms
from .gaussians import Normal
from .held_out import held_out, network


@dc.component
class VAELatents(dc.Metric):
    """Where a VAE stands between copying its data and ignoring its latents (posterior collapse).

    `reconstruction`: root mean squared error of E[x | z_1] at z_1 = E[z_1 | x], in units of x as the network sees it.
    `active-units z_i`: share of the entries of z_i whose posterior mean varies over the data by a variance above `threshold`;
    the rest has collapsed. The mean E q is carried up by the means of the levels.
    `rate` = E sum_i D_i = I_q(x; z) + KL(q(z) || p(z)): what the bound pays, in nats. Its two parts, `information` and
    `marginal-KL`, are estimated with q(z_1) as the mean of q(z_1 | x) over the n data, so information is at most log n (`within`
    says so): collapse is information near 0; a marginal-KL far from 0 says that the prior is not what the decoder was
    trained on. A rate is trustworthy as a split only where information stays below log n.
    """

    source: ClassVar[str] = "Burda et al. 2016, arXiv 1509.00519, section 5.2 (active units); Hoffman and Johnson 2016; \
Lai et al. 2025, arXiv 2510.21890, section 2.1"
    items: ClassVar[tuple[str, ...]] = ("2.06",)
    of_samples: ClassVar[bool] = False
    requires: ClassVar[frozenset[str]] = frozenset({"latents"})
    least_real: ClassVar[int] = 2

    n: int = dc.param(default=500, ge=2, le=10_000_000, doc="data looked at, at most")
    threshold: float = dc.param(default=0.01, gt=0, le=1e6, doc="variance of the posterior mean from which a unit is active")
    seed: int = dc.param(default=0, ge=0, doc="seed of the latents")

    @torch.no_grad()
    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """All of it."""
        net, data = network(ev), held_out(ev, self.n)
        x, count = data.x, len(data.x)
        eps = noise(net, x, dc.Draw(self.seed, range(count), device=x.device))
        rate = terms(net, x, eps, **data.cond).rate.double()
        drawn, still = climb(net, x, eps, **data.cond), climb(net, x, tuple(map(torch.zeros_like, eps)), **data.cond)
        error = ((net.decode(still.z[0], **data.cond) - x) ** 2).mean().sqrt()
        known = information(drawn.q[0], drawn.z[0]).mean()

        def said(value: Tensor, better: Literal["lower", "higher", ""] = "", most: float | None = None) -> dc.Measured:
            return dc.Measured(value=float(value), n=count, against=data.name, better=better, within=(None, most))

        return {
            "reconstruction": said(error, "lower"),
            **{f"active-units z_{i + 1}": said(share, "higher") for i, share in enumerate(active(still, self.threshold))},
            "rate": said(rate.mean()),
            "information": said(known, most=math.log(count)),
            "marginal-KL": said(rate.mean() - known, "lower"),
        }


def active(means: Climb, threshold: float) -> list[Tensor]:
    """The share of active entries of each level."""
    return [(z.double().var(0) > threshold).double().mean() for z in means.z]


def information(q: Normal, z: Tensor) -> Tensor:
    """log q(z_i | x_i) - log mean_j q(z_i | x_j) for samples z_i ~ q(. | x_i), float64 [n]."""
    law = Normal(q.mean.flatten(1).double(), q.log_var.flatten(1).double())
    rows = [law.log_prob(row).sum(1) for row in z.flatten(1).double()]
    pairs = torch.stack(rows)
    return pairs.diagonal() - (pairs.logsumexp(1) - math.log(len(pairs)))

"""The Fokker-Planck residual of a score: whether it is that of one density that evolves."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_score_sde.angle import affine, first_time, rate, times
from diffcore_score_sde.evidence import BLOCKS, field_of, mean_of, rows
from diffcore_score_sde.likelihood import Divergence, divergence, probes_like

NOISE, PROBES = 1, 2


def residual(field: dc.Field, x: Tensor, t: Tensor, probes: Tensor, weight: float) -> Tensor:
    """d_t s + grad(div v + <v, s>) at (x, t), t (B,) inside (0, T): zero where s = grad log p and d_t p = -div(v p); like x."""
    with dc.second_derivatives():
        x, t = x.detach().requires_grad_(), t.detach().requires_grad_()
        known = field.posterior(x, t)
        score = known.score
        v = field.process.velocity(x, known.at, known)
        flux = divergence(v, x, probes, weight, graph=True) + (v * score).flatten(1).sum(1)
        (spatial,) = torch.autograd.grad(flux.sum(), x, retain_graph=True)
        return _time_slope(score, t) + spatial


def _time_slope(score: Tensor, t: Tensor) -> Tensor:
    """d score / dt at fixed x: the slope of a vector in one number, by differentiating its transposed product.

    0 for a network that predicts the score without a look at the time.
    """
    u = torch.zeros_like(score, requires_grad=True)
    (back,) = torch.autograd.grad(score, t, u, create_graph=True, materialize_grads=True)
    return torch.autograd.grad(back.sum(), u, materialize_grads=True)[0]


@dc.component
class FokkerPlanckResidual(dc.Metric):
    """E |sigma dt/dr (d_t s + grad(div v + <v, s>))|^2 / D over x_t of noised real data: 0 for the score of a density that
    evolves by d_t p = -div(v p), the Fokker-Planck equation of the forward SDE.

    v = f x - g^2 s / 2 is the probability-flow velocity, so this is the residual of d_t s = grad(g^2 (div s + |s|^2) / 2
    - <f x, s> - div f). The factor makes it free of units: scores are measured in 1 / sigma, time in r = log atan(sigma/alpha),
    and r is spread evenly between (max(min_time, cut T)) and (1 - cut) T.

    divergence: `exact`, for small D; with probes the two factors of the square have independent ones (a pair a sample), so the
    value is unbiased and may be negative. It bounds nothing by itself: it is a check of consistency, in all dimensions.

    Raises `DataError` for data behind a codec, `IncompatibleError` for a process that is not affine.
    """

    source: ClassVar[str] = "Lai et al. 2023, arXiv 2210.04296, equation 8 (score FPE)"
    items: ClassVar[tuple[str, ...]] = ("4.05",)
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    of_data: ClassVar[bool] = True
    least_real: ClassVar[int] = BLOCKS

    n: int = dc.param(default=128, ge=4, le=10_000_000, doc="real samples, each noised to one time")
    divergence: Divergence = dc.param(default="rademacher", doc="exact trace, or the law of the Hutchinson probes")
    cut: float = dc.param(default=0.01, gt=0, lt=0.5, doc="times kept off both ends, as a fraction of T")
    batch: int = dc.param(default=128, ge=1, le=10_000_000, doc="samples at once")
    seed: int = dc.param(default=0, ge=0, doc="seed of noise and probes")

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """`fp residual` over the first n real samples."""
        self.check(ev)
        x, field = rows(ev, field_of(ev, "fokker-planck-residual"), self.n)
        process = affine(field.process, "fokker-planck-residual")
        where = torch.linspace(0, 1, len(x), dtype=torch.float64)
        with torch.no_grad():
            t = times(process, first_time(process, self.cut), (1 - self.cut) * process.T, where).to(x.device)
        ids = torch.arange(len(x)).split(self.batch)
        found = [self._square(field.bound({k: v[i] for k, v in field.cond.items()}), x[i], t[i], i) for i in ids]
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))  # blocks of all noise levels
        return {"fp residual": mean_of(torch.cat(found)[order], f"{len(x)} of {ev.reference_name}")}

    def _square(self, field: dc.Field, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """|factor * residual|^2 / D per sample, (B,)."""
        draw = dc.Draw(self.seed, ids, device=x.device)
        noised = field.process.corrupt(x, t, draw.fold(NOISE))
        factor = dc.expand((noised.at.sigma * rate(noised.at)).detach(), x)
        xt = noised.xt.detach()

        def one(k: int) -> Tensor:
            probes, weight = probes_like(x, self.divergence, 1, draw.fold(PROBES, k))
            return factor * residual(field, xt, t, probes, weight).detach()

        first = one(0)
        second = first if self.divergence == "exact" else one(1)
        return (first * second).flatten(1).mean(1).cpu()

"""Log-likelihood under the probability-flow ODE: the change of variables along the flow.

    log p(x_0) = log N(x_T; shift_T, sigma_T^2 I) + int_0^T div v(x_t, t) dt,    dx_t = v(x_t, t) dt from x_0.

The divergence is sum_k <e_k, J^T e_k> over the unit vectors e_k (exact, D products with the Jacobian), or its Hutchinson
estimate, the mean over probes e with E[e e^T] = I, unbiased. The probes stay the same along a trajectory. The part of the
divergence that only scales x with R = sqrt(alpha^2 + sigma^2), D R' / R, is integrated in closed form: D log(R_T / R_0).

Source: Song et al. 2021 (arXiv 2011.13456), equation 39 and appendix D.2; Chen et al. 2018 (arXiv 1806.07366), theorem 1;
Grathwohl et al. 2019 (arXiv 1810.01367) for fixed probes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

import diffcore as dc
from diffcore_score_sde.angle import affine, first_time, growth, size
from diffcore_score_sde.flow import States, integrate

Divergence = Literal["exact", "rademacher", "gaussian"]


def probes_like(x: Tensor, kind: Divergence, count: int, draw: dc.Draw) -> tuple[Tensor, float]:
    """Probes (K, B, ...) and the weight of each: the unit vectors and 1, or K random ones and 1 / K."""
    if kind == "exact":
        size = x[0].numel()
        return torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *x.shape[1:]).expand(size, *x.shape), 1.0
    drawn = torch.stack([draw.fold(k).normal_like(x) for k in range(count)])
    return (drawn if kind == "gaussian" else torch.where(drawn < 0, -1.0, 1.0).to(x.dtype)), 1 / count


def divergence(value: Tensor, x: Tensor, probes: Tensor, weight: float, *, graph: bool = False) -> Tensor:
    """weight * sum_k <e_k, J^T e_k> with J = d value / d x, sample by sample: (B,). graph: differentiable once more."""
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for k, probe in enumerate(probes):
        (back,) = torch.autograd.grad(value, x, probe, retain_graph=graph or k + 1 < len(probes), create_graph=graph)
        total = total + weight * (back * probe).flatten(1).sum(1)
    return total


@torch.no_grad()
def log_likelihood(
    field: dc.Field,
    x0: Tensor,
    probes: Tensor,
    weight: float,
    *,
    steps: int = 40,
    tolerance: float | None = None,
    cut: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """(log p (B,), codes x_T) of data x0 (B, ...), in nats, for the density of x0 in the network's range.

    probes, weight: of `probes_like`. steps, tolerance: see `integrate`. Data is put at t = max(min_time, cut T), so log p is
    that of the model's marginal there. Raises `IncompatibleError` for a process that is not affine.
    """
    process = affine(field.process, "the likelihood of the probability-flow ODE")
    dim, ends = x0[0].numel(), (first_time(process, cut), process.T)

    def slope(at: dc.Coeffs, y: States) -> States:
        with torch.enable_grad():
            x = y[0].detach().requires_grad_()
            v = field.velocity(x, at)
            spread = divergence(v, x, probes, weight)
        return v.detach(), spread - dim * growth(at)

    start = x0.detach(), torch.zeros(len(x0), dtype=x0.dtype, device=x0.device)
    xT, turned = integrate(process, slope, start, *ends, steps, tolerance)
    units = size(process.coeffs(torch.tensor(ends, dtype=torch.float64))).log()
    return log_prior(process, xT) + turned + dim * float(units[1] - units[0]), xT


def log_prior(process: dc.AffineProcess, xT: Tensor) -> Tensor:
    """log N(x_T; shift_T, sigma_T^2 I): the density of `process.prior`, (B,)."""
    at = process.coeffs(torch.tensor(process.T, dtype=torch.float64))
    shift, sigma = at.shift if isinstance(at.shift, Tensor) else torch.tensor(at.shift), float(at.sigma)
    r = (xT - dc.expand(shift.detach().to(xT), xT)) / sigma
    return -0.5 * (r**2).flatten(1).sum(1) - xT[0].numel() * (0.5 * math.log(2 * math.pi) + math.log(sigma))

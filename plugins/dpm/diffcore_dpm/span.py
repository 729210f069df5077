"""One step t -> s of an affine process, its linear part solved exactly. Elementwise, float64.

With h = lam_s - lam_t, the probability-flow ODE (eta = 0) and the reverse SDEs (eta > 0) have the solution

    x_s = keep x_t + int_0^1 full(u) f(lam_t + u h) du + noise z

for either f: the data prediction x* (keep = (sigma_s / sigma_t) e^(-eta h), weight proportional to e^((1 + eta) h u)) or, for
eta = 0, the noise prediction e* (keep = alpha_s / alpha_t, weight proportional to e^(-h u)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

import diffcore as dc
from diffcore_dpm.phi import moments

NO_SIGNAL = 1e-4
"""Below this ratio alpha / sigma a state counts as pure noise: the step from there is neither divided nor corrected."""
Prediction = Literal["x0", "eps"]


class Span(NamedTuple):
    """A step in terms of x_t and m = x*(x_t): x_s = keep x_t + gain m + sum of `full` w_j (f_j - f_t) + noise z.

    `full`: the weight of a constant f. `rate`: its density over the step is proportional to e^(rate u), 0 <= u <= 1.
    (own_x, own_m): f_t = own_x x_t + own_m m. So nothing is divided by alpha_t, and a step from pure noise is finite.
    `pull`: the weight of x_t where f_t is not read from it: x_s = pull x_t + full f_t + ...; infinite for eps at pure noise.
    """

    keep: Tensor
    gain: Tensor
    full: Tensor
    rate: Tensor
    own_x: Tensor
    own_m: Tensor
    noise: Tensor
    pull: Tensor

    def moments(self, count: int) -> list[Tensor]:
        """Averages of u^k over the step under the density of f."""
        return moments(self.rate, count)


def ends(process: dc.Process, grid: Tensor) -> tuple[dc.Coeffs, dc.Coeffs]:
    """The coefficients at the start and at the end of every step.

    Raises `IncompatibleError` for a process whose mean moves by a shift, which the formulas leave out.
    """
    t, s = process.pairs(grid)
    if isinstance(t.shift, Tensor) or t.shift != 0:
        raise dc.IncompatibleError(
            f"{type(process).__name__} shifts the mean of its states, exponential integrators do not; use euler, heun or rk4"
        )
    return t, s


def span(t: dc.Coeffs, s: dc.Coeffs, prediction: Prediction = "x0", eta: float = 0.0) -> Span:
    """The step t -> s. Entries whose time stands still have keep = 1 and all other weights 0."""
    still = t.t == s.t
    h = torch.where(still, 0.0, s.lam - t.lam)
    keep = torch.where(still, 1.0, s.sigma / t.sigma)
    noise = torch.zeros_like(h)
    if eta:
        keep, noise = keep * torch.exp(-eta * h), s.sigma * torch.expm1(-2 * eta * h).neg() ** 0.5
    gain = s.alpha - t.alpha * keep
    if prediction == "x0":
        return Span(keep, gain, gain, (1 + eta) * h, torch.zeros_like(h), torch.ones_like(h), noise, keep)
    own_x, own_m = (torch.where(still, 0.0, v) for v in (1 / t.sigma, -t.alpha / t.sigma))
    full = torch.where(still, 0.0, s.sigma - s.alpha * t.sigma / t.alpha)
    return Span(keep, gain, full, -h, own_x, own_m, noise, torch.where(still, 1.0, s.alpha / t.alpha))


def levels(t: dc.Coeffs, s: dc.Coeffs) -> Tensor:
    """lam at all nodes of the grid, [N + 1, ...]."""
    return torch.cat([t.lam, s.lam[-1:]])


class Weights(NamedTuple):
    """x_s = keep x_t + gain m + sum_j tail_j f_j: the weights of a step that interpolates f at f_t and at other nodes."""

    keep: Tensor
    gain: Tensor
    tail: list[Tensor]


def weigh(over: Span, nodes: Sequence[Tensor], active: Sequence[Tensor], moments: Sequence[Tensor]) -> Weights:
    """Integrate over the step the polynomial through f_t (u = 0) and the active ones of the other nodes u_j."""
    zero = torch.zeros_like(over.keep)
    fractions = lagrange([zero, *nodes], [zero == 0, *active], moments)[1:]
    tail = [torch.where(on, over.full * w, 0.0) for on, w in zip(active, fractions, strict=True)]
    total = sum(tail, zero)
    return Weights(over.keep - total * over.own_x, over.gain - total * over.own_m, tail)


def lagrange(nodes: Sequence[Tensor], active: Sequence[Tensor], moments: Sequence[Tensor]) -> list[Tensor]:
    """The average of every Lagrange polynomial l_j of the active nodes, given the averages of u^k; 0 for inactive ones."""
    return [torch.where(active[j], _average(j, nodes, active, moments), 0.0) for j in range(len(nodes))]


def _average(j: int, nodes: Sequence[Tensor], active: Sequence[Tensor], moments: Sequence[Tensor]) -> Tensor:
    """int l_j: the product of (u - u_m) / (u_j - u_m), multiplied out in powers of u."""
    powers = [torch.ones_like(nodes[j])]
    for m in range(len(nodes)):
        if m != j:
            both = active[m] & active[j]
            gap = torch.where(both, nodes[j] - nodes[m], 1.0)
            lower, upper = [*powers, torch.zeros_like(gap)], [torch.zeros_like(gap), *powers]
            powers = [torch.where(both, (b - nodes[m] * a) / gap, a) for a, b in zip(lower, upper, strict=True)]
    return sum((c * v for c, v in zip(powers, moments, strict=True)), torch.zeros_like(nodes[j]))

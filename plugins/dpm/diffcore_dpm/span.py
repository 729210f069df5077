"""One step t -> s of an affine process, its linear part solved exactly. Elementwise, float64.

With h = lam_s - lam_t, the probability-flow ODE (eta = 0) and the reverse SDEs (eta > 0) have the solution

    x_s = keep x_t + int_0^1 full(u) f(lam_t + u h) du + noise z

for either f: the data prediction x* (keep = (sigma_s / sigma_t) e^(-eta h), weight proportional to e^((1 + eta) h u)) or, for
eta = 0, the noise prediction e* (keep = alpha_s / alpha_t, weight proportional to e^(-h u)). With y = x / S the ODE is also

    dy/dphi = cos(phi) e* - sin(phi) x*,   S = (alpha^2 + sigma^2)^(1/2),   phi = arctan(sigma / alpha)
    dy/du = e* - x*,                       S = alpha + sigma,               u = sigma / (alpha + sigma)

where no exponential is left: the weight is constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

import diffcore as dc

PLAIN = ("v", "flow")
"""Readings whose weight is constant over a step."""
Prediction = Literal["x0", "eps"]
Reading = Literal["x0", "eps", "v", "flow"]
"""What a polynomial goes through, and what it is a polynomial of: m and e of lam; cos(phi) e - sin(phi) m of the angle phi =
arctan(sigma / alpha); e - m of sigma / (alpha + sigma), the time of the straight path. The latter two are finite at both ends."""


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
        return dc.moments_of_exp(self.rate, count)


def span(t: dc.Coeffs, s: dc.Coeffs, prediction: Reading = "x0", eta: float = 0.0) -> Span:
    """The step t -> s. Entries whose time stands still have keep = 1 and all other weights 0."""
    if prediction in PLAIN:
        return _plain(t, s, prediction)
    step = dc.Span.between(t, s)
    still, h = ~step.live, step.h
    keep, gain, noise = step.damped(step.damping**eta)
    if prediction == "x0":
        return Span(keep, gain, gain, (1 + eta) * h, torch.zeros_like(h), torch.ones_like(h), noise, keep)
    own_x, own_m = (torch.where(still, 0.0, v) for v in (1 / t.sigma, -t.alpha / t.sigma))
    full = torch.where(still, 0.0, s.sigma - s.alpha * t.sigma / t.alpha)
    return Span(keep, gain, full, -h, own_x, own_m, noise, torch.where(still, 1.0, s.alpha / t.alpha))


def _plain(t: dc.Coeffs, s: dc.Coeffs, reading: Reading) -> Span:
    """The step of v or flow: x_s = (S_s / S_t) x_t + S_s (the distance) (the average of the polynomial)."""
    still = t.t == s.t
    pull = torch.where(still, 1.0, size(s, reading) / size(t, reading))
    full = torch.where(still, 0.0, size(s, reading) * (position(s, reading) - position(t, reading)))
    own_x, own_m = own(t, reading)
    still_x, still_m = torch.where(still, 0.0, own_x), torch.where(still, 0.0, own_m)
    keep, gain = pull + full * still_x, full * still_m
    return Span(keep, gain, full, torch.zeros_like(full), still_x, still_m, torch.zeros_like(full), pull)


def position(c: dc.Coeffs, reading: Reading) -> Tensor:
    """What the polynomial is a polynomial of."""
    if reading == "v":
        return torch.atan2(c.sigma, c.alpha)
    return c.sigma / (c.alpha + c.sigma) if reading == "flow" else c.lam


def level_at(place: Tensor, reading: Reading) -> Tensor:
    """lam at a position."""
    if reading == "v":
        return -place.tan().log()
    return -torch.logit(place) if reading == "flow" else place


def positions(t: dc.Coeffs, s: dc.Coeffs, reading: Reading = "x0") -> Tensor:
    """The positions of all nodes of the grid, [N + 1, ...]; lam unless another reading is named."""
    return torch.cat([position(t, reading), position(s.at(slice(-1, None)), reading)])


def divisible(t: dc.Coeffs, s: dc.Coeffs, reading: Reading = "x0") -> Tensor:
    """Where positions lie between t and s: not where time stands still; in lam not from pure noise, not to clean data."""
    return s.t != t.t if reading in PLAIN else dc.Span.between(t, s).inside()


def size(c: dc.Coeffs, reading: Reading) -> Any:
    """S of v and flow."""
    return (c.alpha**2 + c.sigma**2) ** 0.5 if reading == "v" else c.alpha + c.sigma


def own(c: dc.Coeffs, reading: Reading) -> tuple[Any, Any]:
    """(a, b): the v or flow prediction is a x_t + b m. At sigma = 0, where nothing is read, finite."""
    sigma = torch.where(c.sigma == 0, 1.0, c.sigma) if isinstance(c.sigma, Tensor) else c.sigma
    whole = size(c, reading)
    return (c.alpha / whole if reading == "v" else 1.0) / sigma, -whole / sigma


def value(p: dc.Posterior, reading: Reading) -> dc.State:
    """The prediction that is interpolated."""
    return p.blend(*own(p.at, reading)) if reading in PLAIN else p.read(reading)


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

"""The algebra of one step t -> s of an affine process. Elementwise, float64, finite from pure noise to clean data.

With h = lam_s - lam_t and x* = E[x_0 | x_t], freezing x* solves the probability-flow ODE over the step exactly:

    x_s = keep x_t + gain x*,     keep = sigma_s / sigma_t,     gain = alpha_s - alpha_t keep = alpha_s (1 - e^-h),

and more generally, for any damping d of the noise that x_t holds, in [0, 1],

    x_s = (sigma_s / sigma_t) d (x_t - alpha_t x*) + alpha_s x* + sigma_s sqrt(1 - d^2) z

has the marginal of x_s given x_0. d = 1 is the ODE, d = e^-h the reverse kernel, d = e^-(eta h) the reverse SDE of noise
rate eta.

Sources: Lai et al. 2025 (arXiv 2510.21890) section 9.4; Song, Meng and Ermon 2021 (2010.02502) equation 12; Hochbruck and
Ostermann 2010 (Acta Numerica 19) equation 2.10 for phi_k.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffcore.numerics.affine import Coeffs

TERMS = 20
"""Terms of the Taylor series of phi_k for |z| < 1: the first one left out is below 1 / 20!."""
LARGEST = 600.0
"""Beyond this |z| the exponential would overflow."""


class Linear(NamedTuple):
    """x_s = keep x_t + gain x* + noise z."""

    keep: Tensor
    gain: Tensor
    noise: Tensor


class Span(NamedTuple):
    """The step t -> s with x* frozen, of the ODE; `damped` and `fresh` are its stochastic relatives. See the module.

    live: where time moves; an entry that rests has keep = damping = 1 and gain = h = 0. damping: e^-h. h: infinite from pure
    noise and to clean data.
    """

    t: Coeffs
    s: Coeffs
    keep: Tensor
    gain: Tensor
    damping: Tensor
    h: Tensor
    live: Tensor

    @classmethod
    def between(cls, t: Coeffs, s: Coeffs) -> Span:
        """The step between two times, from their coefficients."""
        rests = t.t == s.t
        keep = torch.where(rests, 1.0, s.sigma / t.sigma)
        damping = torch.where(rests, 1.0, (s.sigma * t.alpha) / (t.sigma * s.alpha)).clamp_max(1.0)
        return cls(t, s, keep, s.alpha - t.alpha * keep, damping, torch.where(rests, 0.0, s.lam - t.lam), ~rests)

    def damped(self, d: Tensor) -> Linear:
        """With the damping d in [0, 1] of the noise in x_t: `damping ** eta` is the reverse SDE of noise rate eta."""
        keep = torch.where(self.live, self.keep * d, 1.0)
        noise = torch.where(self.live, self.s.sigma * ((1 - d) * (1 + d)) ** 0.5, 0.0)
        return Linear(keep, self.s.alpha - self.t.alpha * keep, noise)

    def fresh(self, eta: float) -> Linear:
        """With the share eta in [0, 1] of the reverse kernel's standard deviation: 0 is the ODE, 1 the kernel."""
        new = 1 - self.damping**2
        keep = self.keep * (1 - eta**2 * new) ** 0.5
        return Linear(keep, self.s.alpha - self.t.alpha * keep, eta * self.s.sigma * new**0.5)

    def inside(self) -> Tensor:
        """Where a step has an inside in lam: it moves, not from pure noise, not to clean data."""
        return self.live & self.h.isfinite() & ~self.t.pure_noise


def phi(k: int, z: Tensor) -> Tensor:
    """phi_k(z) = int_0^1 e^((1 - u) z) u^(k-1) / (k-1)! du, k >= 1, elementwise; phi_k(0) = 1 / k!.

    Taylor's series for |z| < 1, phi_{j+1} = (phi_j - 1/j!) / z beyond: relative error below 1e-12 for k <= 6, |z| <= 600.
    """
    near = z.abs() < 1
    small, far = torch.where(near, z, 0.0), torch.where(near, 1.0, z)
    series = torch.zeros_like(z)
    for n in reversed(range(TERMS)):
        series = series * small + 1 / math.factorial(n + k)
    value = torch.expm1(far) / far
    for j in range(1, k):
        value = (value - 1 / math.factorial(j)) / far
    return torch.where(near, series, value)


def moments_of_exp(z: Tensor, count: int) -> list[Tensor]:
    """M_k = int e^(z u) u^k du / int e^(z u) du over 0..1, k = 0 .. count - 1: averages of u^k under the weight e^(z u).

    M_k = k! phi_{k+1}(-z) / phi_1(-z).
    """
    z = -z.clamp(-LARGEST, LARGEST)
    first = phi(1, z)
    return [torch.ones_like(z), *(math.factorial(k) * phi(k + 1, z) / first for k in range(1, count))]


def lam_at(process: Any, t: float) -> float:
    """log(alpha / sigma) of a process at time t; infinite where sigma = 0 or alpha = 0."""
    return float(process.coeffs(torch.tensor(t, dtype=torch.float64)).lam)

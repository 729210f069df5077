"""The functions of exponential integrators, stable for every argument.

    phi_k(z) = (e^z - sum_{j<k} z^j / j!) / z^k = int_0^1 e^((1 - u) z) u^(k-1) / (k-1)! du,     phi_k(0) = 1 / k!

Source: Hochbruck and Ostermann 2010, Acta Numerica 19, equation 2.10.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TERMS = 20
"""Terms of the Taylor series for |z| < 1: the first one left out is below 1 / 20!."""
LARGEST = 600.0
"""Beyond this |z| the exponential would overflow."""


def phi(k: int, z: Tensor) -> Tensor:
    """phi_k(z), k >= 1, elementwise: Taylor's series for |z| < 1, phi_{j+1} = (phi_j - 1/j!) / z beyond.

    Relative error below 1e-12 for k <= 6 and -600 <= z <= 600.
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


def moments(z: Tensor, count: int) -> list[Tensor]:
    """M_k = int e^(z u) u^k du / int e^(z u) du over 0..1, k = 0 .. count - 1: averages of u^k under the weight e^(z u).

    M_k = k! phi_{k+1}(-z) / phi_1(-z).
    """
    z = -z.clamp(-LARGEST, LARGEST)
    first = phi(1, z)
    return [torch.ones_like(z), *(math.factorial(k) * phi(k + 1, z) / first for k in range(1, count))]

"""phi_k(z) = sum_{n >= 0} z^n / (n + k)!: the functions of exponential integrators."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def phi(k: int, z: Tensor) -> Tensor:
    """phi_k(z) for k >= 1, float64, relative error below 1e-12 for k <= 4 and |z| <= 40.

    The series for |z| < 1.5; beyond, phi_1 = (e^z - 1) / z and z phi_{k+1} = phi_k - 1 / k!.

    Source: Hochbruck and Ostermann 2005, SIAM Journal on Numerical Analysis 43, section 2.
    """
    near = z.abs() < 1.5
    small, large = torch.where(near, z, 0.0), torch.where(near, 2.0, z)
    series = sum(small**n * (1 / math.factorial(n + k)) for n in range(24))
    beyond = torch.expm1(large) / large
    for j in range(1, k):
        beyond = (beyond - 1 / math.factorial(j)) / large
    return torch.where(near, torch.as_tensor(series), beyond)

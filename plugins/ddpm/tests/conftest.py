"""Chains under test, and the chain's numbers recomputed from beta in 50 digits."""

from __future__ import annotations

import mpmath
import pytest
import torch
from diffcore_ddpm.chain import Chain

mp = mpmath.mp.clone()
mp.dps = 50


class Numbers:
    """alpha_i and sigma_i of i = 0 .. N from published rules for beta, in 50 digits, rounded once."""

    def __init__(self, betas):
        squares = [mp.mpf(1)]
        for beta in betas:
            squares.append(squares[-1] * (1 - beta))
        self.beta = torch.tensor([float(b) for b in betas], dtype=torch.float64)
        self.squares = squares
        self.alpha = torch.tensor([float(mp.sqrt(a)) for a in squares], dtype=torch.float64)
        self.sigma = torch.tensor([float(mp.sqrt(1 - a)) for a in squares], dtype=torch.float64)


def from_signal(n, signal):
    values = [signal(mp.mpf(i) / n) for i in range(n + 1)]
    return [min(1 - values[i] / values[i - 1], mp.mpf("0.999")) for i in range(1, n + 1)]


def even(n, a, b):
    return [mp.mpf(a) + (mp.mpf(b) - mp.mpf(a)) * i / (n - 1) for i in range(n)]


def sigmoid(u):
    return 1 / (1 + mp.exp(-u))


RULES = {
    "linear": lambda n: [b * 1000 / n for b in even(n, "1e-4", ".02")],
    "scaled-linear": lambda n: [b**2 * 1000 / n for b in even(n, mp.sqrt(mp.mpf("1e-4")), mp.sqrt(mp.mpf(".02")))],
    "sigmoid-beta": lambda n: [(mp.mpf("1e-4") + mp.mpf(".0199") * sigmoid(u)) * 1000 / n for u in even(n, -6, 6)],
    "cosine": lambda n: from_signal(n, lambda u: mp.cos((u + mp.mpf(".008")) / mp.mpf("1.008") * mp.pi / 2) ** 2),
    "sigmoid": lambda n: from_signal(n, lambda u: (sigmoid(3) - sigmoid(-3 + 6 * u)) / (sigmoid(3) - sigmoid(-3))),
    "sqrt": lambda n: from_signal(n, lambda u: 1 - mp.sqrt(u + mp.mpf("1e-4"))),
}


@pytest.fixture(params=list(RULES))
def case(request):
    """(chain, its numbers), N = 1000."""
    return Chain(schedule=request.param), Numbers(RULES[request.param](1000))


@pytest.fixture(scope="session")
def numbers():
    return lambda schedule, n: Numbers(RULES[schedule](n))

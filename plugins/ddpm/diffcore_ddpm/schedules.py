"""Schedules: the variances beta_1 .. beta_N of the noising steps of a chain of N."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

LARGEST = 0.999
"""No step removes more of the signal's variance than this, so that the chain keeps some to its end."""


def linear(n: int, start: float, end: float) -> Tensor:
    """beta even from `start` to `end`, times 1000 / n (Ho et al. 2020, arXiv 2006.11239, section 4)."""
    return torch.linspace(start, end, n, dtype=torch.float64) * (1000 / n)


def scaled_linear(n: int, start: float, end: float) -> Tensor:
    """sqrt(beta) even, times 1000 / n under the square (Rombach et al. 2022, arXiv 2112.10752, published configurations)."""
    return torch.linspace(start**0.5, end**0.5, n, dtype=torch.float64) ** 2 * (1000 / n)


def sigmoid_beta(n: int, start: float, end: float) -> Tensor:
    """beta = start + (end - start) sigmoid(u), u even from -6 to 6, times 1000 / n (Xu et al. 2022, arXiv 2203.02923)."""
    return (start + (end - start) * torch.sigmoid(torch.linspace(-6, 6, n, dtype=torch.float64))) * (1000 / n)


def cosine(u: Tensor) -> Tensor:
    """abar(u) = cos^2((u + s) / (1 + s) pi / 2), s = .008 (Nichol and Dhariwal 2021, arXiv 2102.09672, equation 17)."""
    return torch.cos((u + 0.008) / 1.008 * (math.pi / 2)) ** 2


def sigmoid(u: Tensor) -> Tensor:
    """abar(u) falls like 1 - sigmoid, u from -3 to 3, moved to end at 0 (Jabri et al. 2022, arXiv 2212.11972, algorithm 1)."""
    return torch.sigmoid(3 - 6 * u) - 1 / (1 + math.exp(3))


def sqrt(u: Tensor) -> Tensor:
    """abar(u) = 1 - sqrt(u + s), s = 1e-4 (Li et al. 2022, arXiv 2205.14217, appendix A)."""
    return 1 - torch.sqrt(u + 1e-4)


RATES: dict[str, Callable[[int, float, float], Tensor]] = {
    "linear": linear,
    "scaled-linear": scaled_linear,
    "sigmoid-beta": sigmoid_beta,
}
SIGNALS: dict[str, Callable[[Tensor], Tensor]] = {"cosine": cosine, "sigmoid": sigmoid, "sqrt": sqrt}


def betas(schedule: str, n: int, start: float, end: float) -> Tensor:
    """beta_1 .. beta_n of a schedule, float64, at most .999.

    A schedule of the signal abar(i / n) has beta_i = 1 - abar(i / n) / abar((i - 1) / n).
    """
    if schedule in RATES:
        return RATES[schedule](n, start, end).clamp_max(LARGEST)
    left = SIGNALS[schedule](torch.linspace(0, 1, n + 1, dtype=torch.float64))
    return (1 - left[1:] / left[:-1]).clamp_max(LARGEST)


def signal(beta: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_0 .. alpha_N and sigma_0 .. sigma_N: alpha_i^2 = prod_{j <= i} (1 - beta_j), sigma_i^2 = 1 - alpha_i^2."""
    spent = torch.cat([beta.new_zeros(1), -torch.log1p(-beta).cumsum(0)])
    return torch.exp(-spent / 2), torch.sqrt(-torch.expm1(-spent))


def without_signal_at_the_end(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_1 .. alpha_N moved to end at 0 and scaled to keep alpha_1 (Lin et al. 2023, arXiv 2305.08891, algorithm 1)."""
    chain = (alpha[1:] - alpha[-1]) * (alpha[1] / (alpha[1] - alpha[-1]))
    moved = torch.cat([alpha[:1], chain])
    return moved, torch.sqrt((1 - moved) * (1 + moved))

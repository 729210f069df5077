"""Exact laws on a finite chain: what a sampler makes of it with the exact posterior, without sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import diffcore as dc

from .chain import Chain
from .d3pm import D3PM
from .masked import Masked
from .tokens import Tokens
from .uniform import UniformTokens

JOINT = torch.tensor([[0.30, 0.02, 0.05], [0.01, 0.20, 0.07], [0.15, 0.05, 0.15]], dtype=torch.float64)
"""A law of two dependent entries of three values."""
PROCESSES: dict[str, Tokens] = {
    "masked": Masked(),
    "masked-cosine": Masked(schedule="cosine"),
    "uniform": UniformTokens(),
    "uniform-exponential": UniformTokens(schedule="exponential"),
    "absorbing": D3PM(matrix="absorbing", levels=64),
    "d3pm-uniform": D3PM(levels=64),
    "gaussian": D3PM(matrix="gaussian", levels=64),
}


def point(process: Any, t: float) -> Any:
    """The point at one time, as planned steps see it."""
    return process.coeffs(torch.tensor(float(t), dtype=torch.float64)).map(float)


def all_states(process: Tokens, length: int = 2) -> Tensor:
    """Every state of `length` entries: [K^length, length]."""
    return torch.cartesian_prod(*[torch.arange(process.states)] * length)


def joint_step(laws: Tensor) -> Tensor:
    """Per-entry laws [N, 2, K] as transition rows over pairs, [N, K^2]."""
    return torch.einsum("na,nb->nab", laws[:, 0], laws[:, 1]).flatten(1)


def final_law(process: Tokens, chain: Chain, steps: int, law: Callable[..., Tensor]) -> Tensor:
    """The exact law of x_0 after a run with the exact posterior; law(x, posterior, t, s) -> per-entry laws."""
    states, grid = all_states(process), process.default_grid(steps, process.T)
    prior = process.prior_probs
    found = torch.outer(prior, prior).flatten()
    for t, s in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        at, end = point(process, t), point(process, s)
        logits = chain.posterior(states, process.transition(at)).clamp_min(1e-300).log()
        known = process.posterior(states, logits, at, dc.Reading("logits"))
        found = found @ joint_step(law(states, known, at, end))
    shape = (process.states, process.states)
    return found.reshape(shape)[: process.values, : process.values]


def variation(p: Tensor, q: Tensor) -> float:
    """Total variation distance."""
    return float((p - q).abs().sum() / 2 + (1 - p.sum()).abs() / 2)


def order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Minus the slope of log error against log steps."""
    x, y = torch.tensor(steps).double().log(), torch.tensor(errors).double().log()
    return -float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


class At(dc.TimeLaw):
    """Always one time."""

    def __init__(self, t: float) -> None:
        self.t = t

    def __call__(self, process: dc.Process, draw: dc.Draw) -> Tensor:
        """t for every sample."""
        return torch.full((len(draw.ids),), self.t, dtype=torch.float64)

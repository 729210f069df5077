"""A finite law of tokens with its exact posterior under any process of tokens: the oracle of the discrete state space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import diffcore as dc

from .categorical import one_hot, pick


class Chain:
    """L entries of V values with an explicit joint law [V, ..., V] (L axes), normalised here.

    p(x_0 | x_t) = p(x_0) prod_i q(x_t^i | x_0^i) / Z by summing over all V^L states (Lai et al. 2025, chapter 12).
    """

    def __init__(self, joint: Tensor) -> None:
        self.joint = joint.double() / joint.double().sum()
        self.values, self.shape = joint.shape[0], (joint.ndim,)
        self.states = torch.cartesian_prod(*[torch.arange(self.values)] * joint.ndim).reshape(-1, joint.ndim)

    @property
    def entropy(self) -> float:
        """-sum p log p of the joint law, in nats."""
        return float(-torch.xlogy(self.joint, self.joint).sum())

    def sample(self, n: int, draw: dc.Draw) -> Tensor:
        """n states (n, L), int64."""
        return self.states[pick(draw.uniform(), self.joint.flatten().expand(n, -1))]

    def likelihood(self, x: Tensor, matrix: Tensor) -> Tensor:
        """q(x_t | x_0) for every row of x (B, L) and every state x_0: (B, V^L). matrix: [B or 1, V, states]."""
        table = matrix.expand(len(x), -1, -1)
        rows = torch.arange(len(x))[:, None]
        return torch.stack([table[rows, s, c[:, None]] for s, c in zip(self.states.T, x.T, strict=True)]).prod(0)

    def posterior(self, x: Tensor, matrix: Tensor) -> Tensor:
        """p(x_0^i = a | x_t) of each entry: (B, L, V), float64; uniform where x_t is impossible."""
        weight = self.joint.flatten() * self.likelihood(x, matrix)
        found = torch.einsum("bn,nlv->blv", weight, one_hot(self.states, self.values))
        total = found.sum(-1, keepdim=True)
        return torch.where(total > 0, found / total, 1 / self.values)

    def marginal(self, matrix: Tensor) -> Tensor:
        """The law of x_t over all its states, flat; matrix [V, K]."""
        law = self.joint
        for _ in range(self.joint.ndim):
            law = torch.einsum("a...,ak->...k", law, matrix)
        return law.flatten()

    def net(self, process: Any) -> Any:
        """The perfect network: log p(x_0^i | x_t) in float64."""

        def exact(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return self.posterior(x, process.transition(process.coeffs(t.double()))).clamp_min(1e-300).log()

        return exact

    def field(self, process: Any, prediction: str = "logits", **kwargs: Any) -> dc.Field:
        """The exact field; it always predicts logits. Keyword arguments go to `Field`."""
        return dc.Field(dc.Denoiser(self.net(process), "logits", process), **kwargs)

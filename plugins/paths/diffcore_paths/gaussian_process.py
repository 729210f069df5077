"""Noise that is a function: a Gaussian process on a grid of points."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class GaussianProcess(dc.NoiseLaw):
    """Functions on n equally spaced points of [0, 1], the last axis of a sample; other axes are independent functions.

    C_ij = exp(-(u_i - u_j)^2 / (2 length^2)) + jitter delta_ij. Under it noised functions stay functions: smooth, and the same
    law on every grid. The jitter keeps C invertible.
    """

    source: ClassVar[str] = "Biloš et al. 2023, arXiv 2211.02590, section 3; Rasmussen and Williams 2006, equation 4.9"

    length: float = dc.param(default=0.2, gt=0, le=1e3, doc="distance over which values are alike")
    jitter: float = dc.param(default=1e-4, ge=1e-10, le=1, doc="variance of what is white on top")

    def like(self, x: dc.State, draw: dc.Draw) -> dc.State:
        """White noise times the Cholesky root of C."""
        return dc.tree_map(lambda z: z @ self._root(z).T, draw.normal_like(x))

    def whiten(self, eps: dc.State) -> dc.State:
        """C^-1 eps, by the root."""
        return dc.tree_map(lambda z: torch.cholesky_solve(z.unsqueeze(-1), self._root(z)).squeeze(-1), eps)

    def covariance(self, v: dc.State) -> dc.State:
        """C v."""
        return dc.tree_map(lambda z: (z @ self._root(z)) @ self._root(z).T, v)

    def log_prob(self, eps: dc.State) -> Tensor:
        """That of N(0, C)."""
        solved = dc.tree_map(
            lambda z: torch.linalg.solve_triangular(self._root(z), z.unsqueeze(-1), upper=False).squeeze(-1), eps
        )
        dets = [z[0, ..., 0].numel() * self._root(z).diagonal().log().sum() for z in dc.leaves(eps)]
        return dc.WHITE.log_prob(solved) - torch.stack(dets).sum()

    def _root(self, like: Tensor) -> Tensor:
        return _root(self.length, self.jitter, like.shape[-1]).to(like)


@lru_cache(maxsize=64)
def _root(length: float, jitter: float, n: int) -> Tensor:
    """The lower root of C, float64 [n, n]."""
    with torch.inference_mode(False):
        u = torch.linspace(0, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(1, dtype=torch.float64)
        c = torch.exp(-((u[:, None] - u) ** 2) / (2 * length**2))
        return torch.linalg.cholesky(c + jitter * torch.eye(n, dtype=torch.float64))

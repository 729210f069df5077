"""Noise that the frames of a sample have in part in common."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc

SHARED = 0x5A4ED
"""Salt of what is common, which separates it from the other noises of a step."""


@dc.component
class Mixed(dc.NoiseLaw):
    """eps_f = sqrt(1 - rho) e_f + sqrt(rho) e for the F frames along the first axis of a sample, e_f and e white.

    C = (1 - rho) I + rho 1 1^T between frames, the identity within: rho = 0 is white noise, and what is near 1 moves all frames
    alike.
    """

    source: ClassVar[str] = "Ge et al. 2023, arXiv 2305.10474, section 4.2"

    rho: float = dc.param(default=0.5, ge=0, lt=1, doc="the share of the variance that is common to all frames")

    def like(self, x: dc.State, draw: dc.Draw) -> dc.State:
        """One draw per row; of each leaf its own."""
        common = dc.tree_map(lambda leaf: leaf[:, :1], x)
        shared = dc.WHITE.like(common, draw.fold(SHARED))
        return dc.tree_map(lambda z, e: (1 - self.rho) ** 0.5 * z + self.rho**0.5 * e, dc.WHITE.like(x, draw), shared)

    def whiten(self, eps: dc.State) -> dc.State:
        """C^-1 eps, by the formula of Sherman and Morrison."""
        return dc.tree_map(
            lambda z: (z - self.rho / (1 - self.rho + self.rho * z.shape[1]) * z.sum(1, keepdim=True)) / (1 - self.rho), eps
        )

    def covariance(self, v: dc.State) -> dc.State:
        """(1 - rho) v + rho times the sum over frames."""
        return dc.tree_map(lambda z: (1 - self.rho) * z + self.rho * z.sum(1, keepdim=True), v)

    def log_prob(self, eps: dc.State) -> Tensor:
        """That of N(0, C): log det C = n ((F - 1) log(1 - rho) + log(1 - rho + rho F)), n entries of a frame."""
        change = sum(self._log_det(z) for z in dc.leaves(eps)) / 2
        pairs = zip(dc.leaves(eps), dc.leaves(self.whiten(eps)), strict=True)
        gaps = [(z * (z - w)).flatten(1).sum(1) / 2 for z, w in pairs]
        return dc.WHITE.log_prob(eps) + torch.stack(gaps).sum(0) - change

    def _log_det(self, z: Tensor) -> Tensor:
        frames, (low, high) = z.shape[1], (z.new_tensor(1 - self.rho), z.new_tensor(1 - self.rho + self.rho * z.shape[1]))
        return z[0, 0].numel() * ((frames - 1) * low.log() + high.log())

"""What is known of the data on a path of matrices: E[x_0|x_t] and the velocity, each read from the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

import diffcore as dc

if TYPE_CHECKING:
    from .matrix_path import MatrixPath


@attrs.frozen
class Read:
    """A network's output as E[x_0|x_t] and as the velocity: each is read from the other where it is not the output itself."""

    path: MatrixPath
    x: Tensor
    value: Tensor
    at: dc.Instant
    prediction: str

    @property
    def mean(self) -> Tensor:
        """E[x_0|x_t]: t v = K x_0 + (I - t C) x_t solved for x_0, which is x_t at t = 0; shape of x."""
        if self.prediction == "x0":
            return self.value
        gain, keep, t = self.path.rates(self.at.t)
        known = lifted(t, self.value) * self.value - mixed(keep, self.x)
        return torch.linalg.solve(gain.to(known), known.flatten(1)[..., None])[..., 0].reshape(self.x.shape)

    @property
    def velocity(self) -> Tensor:
        """mu' + S' S^-1 (x_t - mu) with mu = M E[x_0|x_t]; shape of x, infinite at t = 0 where x_0 is predicted."""
        if self.prediction == "velocity":
            return self.value
        gain, keep, t = self.path.rates(self.at.t)
        return (mixed(gain, self.value) + mixed(keep, self.x)) / lifted(t, self.x)

    def detach(self) -> Read:
        """The same values without their history."""
        return attrs.evolve(self, x=self.x.detach(), value=self.value.detach())


def mixed(matrix: Tensor, x: Tensor) -> Tensor:
    """The matrix (D, D), or one per sample (B, D, D), times the flattened samples of x; like x."""
    return (matrix.to(x) @ x.flatten(1)[..., None])[..., 0].reshape(x.shape)


def lifted(values: Tensor, x: Tensor) -> Tensor:
    """One number, or one per sample, that broadcasts against x, in its dtype."""
    return values.to(x).reshape(-1, *[1] * (x.ndim - 1))

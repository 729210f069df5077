"""Small affine processes that the kit and the core's tests use where no plugin may be needed."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from diffcore.declare.component import component
from diffcore.numerics.affine import Coeffs
from diffcore.numerics.draw import Draw
from diffcore.numerics.noise import NoiseLaw, White
from diffcore.numerics.process import AffineProcess
from diffcore.numerics.tree import State, leaves, tree_map


@component
class ReferenceVP(AffineProcess):
    """Variance preserving with a linear rate: alpha = exp(-(b0 t + (b1 - b0) t^2 / 2) / 2), b0 = .1, b1 = 20."""

    source: ClassVar[str] = "Song et al. 2021, arXiv 2011.13456, equation 33"

    def coeffs(self, t: Tensor) -> Coeffs:
        """alpha as above, sigma = sqrt(1 - alpha^2)."""
        rate, integral = 0.1 + 19.9 * t, 0.1 * t + 9.95 * t**2
        alpha, sigma = torch.exp(-integral / 2), torch.sqrt(-torch.expm1(-integral))
        slope = torch.where(sigma > 0, rate * alpha**2 / (2 * sigma), torch.inf)
        return Coeffs(t, alpha, sigma, -rate * alpha / 2, slope)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """The root of b0 t + (b1 - b0) t^2 / 2 = log(1 + exp(-2 lam))."""
        integral = torch.logaddexp(torch.zeros_like(lam, dtype=torch.float64), -2 * lam.double())
        return (2 * integral / (0.1 + torch.sqrt(0.01 + 39.8 * integral))).clamp(max=self.T)


@component
class ReferenceFlow(AffineProcess):
    """The straight path: alpha = 1 - t, sigma = t."""

    source: ClassVar[str] = "Liu et al. 2022, arXiv 2209.03003"

    def coeffs(self, t: Tensor) -> Coeffs:
        """alpha = 1 - t, sigma = t."""
        one = torch.ones_like(t)
        return Coeffs(t, 1 - t, t, -one, one)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """1 / (1 + exp(lam))."""
        return torch.sigmoid(-lam.double())


@component
class ReferenceVE(AffineProcess):
    """Variance exploding: alpha = 1, sigma = t, T = 10."""

    source: ClassVar[str] = "Karras et al. 2022, arXiv 2206.00364"

    @property
    def T(self) -> float:
        """The largest noise level."""
        return 10.0

    def coeffs(self, t: Tensor) -> Coeffs:
        """alpha = 1, sigma = t."""
        return Coeffs(t, torch.ones_like(t), t, torch.zeros_like(t), torch.ones_like(t))

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """exp(-lam)."""
        return torch.exp(-lam.double()).clamp(max=self.T)


@component
class Shared(NoiseLaw):
    """One number for all entries of a sample, the furthest that noise can be from white: C is all ones, C^+ = C / n^2."""

    def like(self, x: State, draw: Draw) -> State:
        """The first entry of white noise, in every entry."""
        return tree_map(lambda z: z.flatten(1)[:, :1].reshape(-1, *[1] * (z.ndim - 1)).expand_as(z), draw.normal_like(x))

    def whiten(self, eps: State) -> State:
        """The mean of the entries over their number, in every entry."""
        return tree_map(lambda z: _summed(z) / z[0].numel() ** 2, eps)

    def covariance(self, v: State) -> State:
        """The sum of the entries, in every entry."""
        return tree_map(_summed, v)


def _summed(x: Tensor) -> Tensor:
    return x.sum(tuple(range(1, x.ndim)), keepdim=True).expand_as(x)


@component
class Correlated(NoiseLaw):
    """A random walk over the entries of a sample, in their order: C_ij = min(i, j), neither white nor stationary, invertible."""

    def like(self, x: State, draw: Draw) -> State:
        """Sums of white noise."""
        return tree_map(lambda z: z.flatten(1).cumsum(1).view_as(z), draw.normal_like(x))

    def whiten(self, eps: State) -> State:
        """Second differences."""
        return tree_map(lambda z: _back(_steps(z.flatten(1))).view_as(z), eps)

    def covariance(self, v: State) -> State:
        """Sums of sums from the end."""
        return tree_map(lambda z: z.flatten(1).flip(1).cumsum(1).flip(1).cumsum(1).view_as(z), v)

    def log_prob(self, eps: State) -> Tensor:
        """That of the steps: the map from steps to sums has determinant 1."""
        return sum(White().log_prob(_steps(leaf.flatten(1))) for leaf in leaves(eps))  # pyright: ignore[reportReturnType]


def _steps(x: Tensor) -> Tensor:
    """x_i - x_{i-1}, x_0 = 0."""
    return torch.diff(x, dim=1, prepend=torch.zeros_like(x[:, :1]))


def _back(d: Tensor) -> Tensor:
    """d_i - d_{i+1}, 0 beyond the end."""
    return -torch.diff(d, dim=1, append=torch.zeros_like(d[:, :1]))


REFERENCES: tuple[AffineProcess, ...] = (ReferenceVP(), ReferenceFlow(), ReferenceVE())

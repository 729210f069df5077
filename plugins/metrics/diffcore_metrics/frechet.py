"""Frechet distance between Gaussians fitted to two sets of features."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_metrics.two_samples import TwoSamples


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and unbiased covariance (d, d), float64, of features (n, d)."""
    f = features.double()
    return f.mean(0), torch.cov(f.T).reshape(f.shape[1], f.shape[1])


def sqrt_psd(matrix: Tensor) -> Tensor:
    """Symmetric square root of a symmetric positive semi-definite matrix; negative round-off eigenvalues count as zero."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Squared Frechet (Wasserstein-2) distance of two Gaussians, given as (mean, covariance):

        |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr (S1^{1/2} S2 S1^{1/2})^{1/2}

    The product under the root is symmetric, so eigh serves and no complex root appears, also for singular covariances.
    Source: Dowson and Landau 1982.
    """
    (m1, s1), (m2, s2) = first, second
    root = sqrt_psd(s1)
    cross = torch.linalg.eigvalsh(root @ s2 @ root).clamp(min=0).sqrt().sum()
    return float((m1 - m2).square().sum() + s1.trace() + s2.trace() - 2 * cross)


@dc.component
class Frechet(TwoSamples):
    """Squared Frechet distance `FD` of the Gaussians fitted to the features of samples and of real data.

    Named after its features: `digit-FD`, `fashion-FD`, or `FD` on the values themselves. It is not the FID, which is this
    formula on the features of one particular Inception network. Its bias falls as 1/n: compare equal n, and with the floor.
    """

    source: ClassVar[str] = "Heusel et al. 2017, arXiv 1706.08500, equation 6"
    within: ClassVar[tuple[float | None, float | None]] = (0.0, None)

    def compare(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """FD of the fitted Gaussians."""
        return {"FD": frechet_distance(moments(fake), moments(real))}

"""Noise of symmetric matrices: one number for each pair."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

import diffcore as dc


@dc.component
class Symmetric(dc.NoiseLaw):
    """eps_ij = eps_ji for i != j, standard normal, over the last two axes of a sample; the diagonal is standard normal too.

    For undirected graphs: noised adjacencies stay symmetric. C has no inverse on matrices that are not symmetric; `whiten` is its
    inverse on those that are, (eps + eps^T) / 4 off the diagonal and eps on it.
    """

    source: ClassVar[str] = "Jo, Lee and Hwang 2022, arXiv 2202.02514, section 3.1"

    def like(self, x: dc.State, draw: dc.Draw) -> dc.State:
        """The upper triangle, mirrored."""
        return dc.tree_map(lambda z: z.triu() + z.triu(1).mT, draw.normal_like(x))

    def whiten(self, eps: dc.State) -> dc.State:
        """C^+ eps."""
        return dc.tree_map(lambda z: _weighted(z, 0.25), eps)

    def covariance(self, v: dc.State) -> dc.State:
        """V + v^T off the diagonal, v on it."""
        return dc.tree_map(lambda z: _weighted(z, 1.0), v)


def _weighted(z: Tensor, off: float) -> Tensor:
    """off (z + z^T) off the diagonal, z on it."""
    both = off * (z + z.mT)
    return both + ((1 - 2 * off) * z.diagonal(dim1=-2, dim2=-1)).diag_embed()

"""Importance sampling of times for the likelihood weight."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class LikelihoodImportance(dc.TimeLaw):
    """Density proportional to g^2 / sigma^2 = -2 lam' while |lam| <= bound, and constant in t beyond, at its value there.

    So lam is uniform within the bound, and the plain squared error of the noise under this law is, up to a constant factor,
    the likelihood-weighted one under uniform times; of less variance where that error varies less with lam than the weight
    does with t (not at all if it is equal at all noise levels). Without the constant ends the law would not exist for
    processes whose lam is infinite at 0 or T. The bound does not matter for processes that stay within it. Needs "affine".
    """

    source: ClassVar[str] = "Song et al. 2021, arXiv 2101.09258, section 4.4 and appendix A.3"
    items: ClassVar[tuple[str, ...]] = ("4.06",)

    bound: float = dc.param(default=7.0, gt=0, le=50, doc="largest |log(alpha / sigma)| of the importance density")

    def __call__(self, process: Any, draw: dc.Draw) -> Tensor:
        """Independent times, float64 [B]."""
        if "affine" not in process.provides:
            raise dc.IncompatibleError(f"time law likelihood-importance needs 'affine'; {type(process).__name__} has not")
        return self.quantile(process, draw.uniform())

    def quantile(self, process: dc.AffineProcess, u: Tensor) -> Tensor:
        """The time below which a fraction u of the training times lies; u in [0, 1), float64 [B], and so the result."""
        with torch.no_grad():
            first, last = process.min_time, process.T
            ends = process.coeffs(torch.tensor([first, last], dtype=torch.float64)).lam.clamp(-self.bound, self.bound)
            joints = process.t_of_lam(ends).clamp(first, last)
            slope = -process.coeffs(joints).dlam
            low, high = (float(v) for v in joints)
            before = (low - first) * float(slope[0])
            after = (last - high) * float(slope[1])
            inside = float(ends[0] - ends[1])
            mass = u.double() * (before + inside + after)
            middle = process.t_of_lam((ends[0] - (mass - before)).clamp(ends[1], ends[0])).clamp(low, high)
            start = first + mass / float(slope[0]) if before else middle
            finish = high + (mass - before - inside) / float(slope[1]) if after else middle
            t = torch.where(mass < before, start, torch.where(mass > before + inside, finish, middle))
            return t.clamp(first, last)

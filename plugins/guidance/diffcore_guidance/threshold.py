"""Dynamic thresholding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_guidance.posteriors import per_sample


@dc.component
class DynamicThreshold(dc.Guidance):
    """Keep x* = E[x_0 | x_t] in the range of the data: with s = max(limit, the `fraction` quantile of |x*| of the sample),

        x* <- limit clip(x*, -s, s) / s,

    and eps, velocity and score follow from the new x*. Leaves x* untouched where |x*| <= limit. Put it after `cfg` in the list,
    so that it sees the guided x*.
    """

    source: ClassVar[str] = "Saharia et al. 2022, arXiv 2205.11487, section 2.3"
    items: ClassVar[tuple[str, ...]] = ("9.17",)
    neutral: ClassVar[Mapping[str, float]] = {"limit": 1e3}
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    fraction: float = dc.param(default=0.995, gt=0, le=1, doc="quantile of |x*| that becomes the largest value")
    limit: float = dc.param(default=1.0, gt=0, le=1e6, doc="the largest absolute value of the data")

    def guide(self, denoiser: Any, x: dc.State, t: Any, **cond: Any) -> dc.Posterior:
        """The posterior with x* thresholded, sample by sample and leaf by leaf."""
        posterior = denoiser(x, t, **cond)
        return posterior.replace("x0", dc.tree_map(self._threshold, posterior.mean))

    def _threshold(self, x: Tensor) -> Tensor:
        reach = torch.quantile(per_sample(x).abs(), self.fraction, dim=1).clamp_min(self.limit)
        scale = dc.expand(reach, x)
        return x.clamp(-scale, scale) * (self.limit / scale)

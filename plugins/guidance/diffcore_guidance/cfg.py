"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_guidance.posteriors import merge, per_sample


@dc.component
class CFG(dc.Guidance):
    """x* = w x*_c + (1 - w) x*_u, of the network with its condition and without it (in whichever target it predicts).

    w = 0 is the unconditional model, w = 1 the plain conditional one (each one evaluation, bit-equal to that branch); w > 1
    strengthens the condition. The weight s of papers that write (1 + s) x*_c - s x*_u is w = 1 + s. Both branches are
    evaluated in one call of the network on twice the batch.

    rescale = phi moves the standard deviation of each sample's x* back to that of x*_c:
    x* <- phi x* std(x*_c) / std(x*) + (1 - phi) x*. The paper does this on the network's output; on x* the result does not
    depend on what the network predicts.

    For w > 1 the guided field is not that of the tilted density p(x) p(c|x)^w: its samples are known to be biased.
    Raises `IncompatibleError` where a condition is given and the network has no value for its absence.
    """

    source: ClassVar[str] = "Ho and Salimans 2022, arXiv 2207.12598; rescale: Lin et al. 2023, arXiv 2305.08891, equation 16"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    neutral: ClassVar[Mapping[str, float]] = {"weight": 1.0}
    variants: ClassVar[tuple[Mapping[str, float], ...]] = ({"rescale": 0.7},)

    weight: float = dc.param(
        default=2.0, ge=-1000, le=1000, doc="w: 0 unconditional, 1 conditional, above 1 stronger than conditional"
    )
    rescale: float = dc.param(default=0.0, ge=0, le=1, doc="phi: how far to restore the conditional standard deviation")

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A condition, and, unless w = 1, a network that was also trained without it."""
        return frozenset({"cond"} if self.weight == 1 else {"cond", "null"})

    def guide(self, denoiser: Any, x: dc.State, t: Any, **cond: Any) -> dc.Posterior:
        """The guided posterior: one branch where one suffices, else both in one call."""
        if self.weight == 1 or not cond:
            return denoiser(x, t, **cond)
        without = _dropped(cond, denoiser.null, x)
        if self.weight == 0:
            return denoiser(x, t, **without)
        given, free = denoiser.many(x, t, [cond, without])
        guided = merge(lambda c, u: dc.lincomb((self.weight, c), (1 - self.weight, u)), given, free)
        return guided if self.rescale == 0 else self._rescaled(guided, given)

    def _rescaled(self, guided: dc.Posterior, given: dc.Posterior) -> dc.Posterior:
        def restore(x: Tensor, target: Tensor) -> Tensor:
            have, want = _std(x), _std(target)
            factor = torch.where(have > 0, want / have, 1.0)
            return x * (self.rescale * factor + (1 - self.rescale))

        return guided.replace("x0", dc.tree_map(restore, guided.mean, given.mean))


def _dropped(cond: Mapping[str, Any], null: Mapping[str, Any], x: dc.State) -> dict[str, Any]:
    """The conditions with each one that can be absent replaced by its null value, one row per sample."""
    if not cond.keys() & null.keys():
        raise dc.IncompatibleError(
            f"cfg needs a network trained with dropped conditions, but it has no null value for {', '.join(sorted(cond))}; "
            f"give Denoiser(..., null={{'{min(cond)}': ...}}), or use weight 1"
        )
    first = dc.leaves(x)[0]

    def rows(value: Any) -> Tensor:
        value = torch.as_tensor(value, device=first.device)
        return value.expand(len(first), *value.shape)

    return {name: rows(null[name]) if name in null else value for name, value in cond.items()}


def _std(x: Tensor) -> Tensor:
    return dc.expand(per_sample(x).std(1, correction=0), x)

"""Classifier-free guidance of categorical posteriors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .categorical import Categorical


@dc.component
class LogitCFG(dc.Guidance):
    """log p* = w log p(x_0 | x_t, c) + (1 - w) log p(x_0 | x_t) + const, token by token.

    w = 0 is the unconditional model, w = 1 the plain conditional one (one evaluation each); w > 1 strengthens the condition.
    Both branches are evaluated in one call on twice the batch. Like guidance of means it is biased for w > 1: the tilt
    p(x) p(c|x)^w of the joint law is not the product of the tilts of its tokens.
    Raises `IncompatibleError` where the network has no value for the absence of the condition.
    """

    source: ClassVar[str] = "Schiff et al. 2025, arXiv 2412.10193; Ho and Salimans 2022, arXiv 2207.12598"
    requires: ClassVar[frozenset[str]] = frozenset({"tokens"})
    neutral: ClassVar[Mapping[str, float]] = {"weight": 1.0}

    weight: float = dc.param(
        default=2.0, ge=0, le=1000, doc="w: 0 unconditional, 1 conditional, above 1 stronger than conditional"
    )

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A condition, and, unless w = 1, a network that was also trained without it."""
        return frozenset({"cond"} if self.weight == 1 else {"cond", "null"})

    def guide(self, denoiser: Any, x: Tensor, t: Any, **cond: Any) -> Categorical:
        """The guided posterior."""
        if self.weight == 1 or not cond:
            return denoiser(x, t, **cond)
        without = _absent(cond, denoiser.null, x)
        if self.weight == 0:
            return denoiser(x, t, **without)
        given, free = denoiser.many(x, t, [cond, without])
        return given.replace(dc.lincomb((self.weight, given.logp), (1 - self.weight, free.logp)))


def _absent(cond: Mapping[str, Any], null: Mapping[str, Any], x: Tensor) -> dict[str, Any]:
    """The conditions with those that can be absent replaced by their null values, one row per sample."""
    if not cond.keys() & null.keys():
        raise dc.IncompatibleError(
            f"logit-cfg needs a network trained with dropped conditions, but it has no null value for {', '.join(sorted(cond))}; "
            f"give Denoiser(..., null={{'{min(cond)}': ...}}), or use weight 1"
        )
    return {
        name: torch.as_tensor(null[name], device=x.device).expand(len(x)) if name in null else value
        for name, value in cond.items()
    }

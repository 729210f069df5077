"""What the losses of tokens share: a time, noised tokens, and the model's posterior, under conditions that may be dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .categorical import Categorical

TIME, NOISE, DROP = 1, 2, 3
_KIT = "the kit's losses see real numbers; the same is proved on tokens in tests/test_discrete_losses.py"
kit_data: Mapping[str, str] = dict.fromkeys(
    ("per_sample", "reaches_the_network", "noise_is_an_argument", "batch_partition"), _KIT
)


@dc.component
class TokenLoss(dc.Loss):
    """A loss at one random time per sample. `drop`: how often a sample's conditions are replaced by their null values."""

    requires: ClassVar[frozenset[str]] = frozenset({"tokens"})
    oracle: ClassVar[str | None] = None

    time_law: dc.TimeLaw | None = dc.param(default=None, doc="law of the training times; uniform where null")
    drop: float = dc.param(default=0.0, ge=0, le=1, doc="probability of training without the conditions, for guidance")

    def times(self, process: dc.Process, draw: dc.Draw) -> Tensor:
        """One time per sample, float64 [B]."""
        return dc.times_of(self.time_law, process, draw.fold(TIME))

    def noised(self, model: dc.Denoiser, x0: Tensor, draw: dc.Draw, cond: Mapping[str, Any]) -> tuple[dc.Corruption, Categorical]:
        """x_t at a random time, and what the model knows of x_0 then."""
        noised = model.process.corrupt(x0, self.times(model.process, draw).to(x0.device), draw.fold(NOISE))
        return noised, model(noised.xt, noised.at, **dc.dropped(cond, model.null, self.drop, draw.fold(DROP)))


def divergence(true: Tensor, found: Tensor) -> Tensor:
    """KL(true || found) over the last axis, in nats; found is kept above 1e-30."""
    return (torch.xlogy(true, true) - true * found.clamp_min(1e-30).log()).sum(-1)

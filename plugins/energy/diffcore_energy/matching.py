"""What the losses of this family share: data noised to a random time, and the model's expected noise there.

The score s = grad log p_t and the expected noise e = E[eps|x_t] = -sigma s are one thing. In e the score matching loss of
sigma^2 weight has no power of sigma left in front of it:

    sigma^2 (|s|^2 + 2 tr grad s) = |e|^2 - 2 sigma tr grad e.

Its expectation is that of the denoising loss |e - eps|^2 less E|eps|^2 = D, for every model (Stein's identity).
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

import diffcore as dc

TIME, NOISE, PROBE, CHAIN = 1, 2, 3, 4
WEAK_PUSH = {
    "minimised_by_the_oracle": "an offset of 0.4 of a velocity under VP is 0.04 to 0.13 of the noise (t > 0.1): 2048 samples do "
    "not show it"
}


class Noised(NamedTuple):
    """x_t (a leaf that keeps gradients), its coefficients with times (B,), and the weight of a squared error of eps (B,)."""

    xt: Tensor
    at: Any
    weight: Tensor


@dc.component
class NoisedLoss(dc.Loss):
    """A loss of the model's score at noised data. States are tensors."""

    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    time_law: dc.TimeLaw | None = dc.param(default=None, doc="law of the times; uniform on [min_time, T] where null")
    weighting: dc.Weighting | None = dc.param(default=None, doc="weight; 1 on the error of eps (sigma^2 on the score) where null")

    def noised(self, model: dc.Denoiser, x0: dc.State, draw: dc.Draw) -> Noised:
        """x_t at times of the law. Raises `DataError` for states that are not one tensor."""
        if not isinstance(x0, Tensor):
            raise dc.DataError(f"{type(self).__name__} takes states of one tensor; got {type(x0).__name__}")
        return self.at_times(model, x0, self.times(model, draw), draw)

    def at_times(self, model: dc.Denoiser, x0: Tensor, t: Tensor, draw: dc.Draw, eps: Tensor | None = None) -> Noised:
        """x_t at times t (B,), with the noise of `draw`, or `eps` if given."""
        found = model.process.corrupt(x0, t, draw.fold(NOISE), eps)
        weight = torch.ones_like(found.at.t) if self.weighting is None else self.weighting(found.at, dc.row("eps", found.at))
        return Noised(found.xt.detach().requires_grad_(), found.at, weight)

    def times(self, model: dc.Denoiser, draw: dc.Draw) -> Tensor:
        """The times, float64 (B,)."""
        return dc.times_of(self.time_law, model.process, draw.fold(TIME))

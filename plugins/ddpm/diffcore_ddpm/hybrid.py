"""L_hybrid: the noise regression, and the bound for the variance alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

import diffcore as dc

from .bound import step_term, steps_of
from .indices import drawn, length
from .learned import RangePosterior, base_of, is_range
from .purposes import DROP, INDEX, NOISE


@dc.component
class Hybrid(dc.Loss):
    """L_simple + weight N L_i, i uniform on 1 .. N, where no gradient of the second term reaches the mean.

    L_simple is the mean squared error of the first half of the prediction (the noise, for `eps-range`), L_i the term of the
    variational bound (see `vlb`) in bits per dimension with v = exp(f log beta + (1 - f) log beta~). The mean is learnt by
    the first term, the variance by the second; at its minimum v = beta~ + gain^2 Var[x_0|x_i], as a mean over what the
    network cannot tell apart.

    A pipeline needs the prediction eps-range, x0-range or v-range (`IncompatibleError` otherwise). A model without a learned
    variance, called directly, gives the second term at beta~, which has no gradient.
    """

    source: ClassVar[str] = "Nichol and Dhariwal 2021, arXiv 2102.09672, equations 15 and 16"
    items: ClassVar[tuple[str, ...]] = ("2.11",)
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    example: ClassVar[Mapping[str, Any]] = {"chain": 1000}

    weight: float = dc.param(default=1e-3, ge=0, le=1e6, doc="weight of the bound")
    levels: int | None = dc.param(
        default=256, ge=2, le=65_536, doc="even values of [-1, 1] that data takes; null: the decoder is a density"
    )
    chain: int | None = dc.param(default=None, ge=2, le=100_000, doc="number of indices N; that of the process where null")
    drop: float = dc.param(default=0.1, ge=0, le=1, doc="probability of training a sample without its conditions")

    def parts(self, model: dc.Denoiser, event: dc.Event, cond: Mapping[str, int]) -> Mapping[str, nn.Module]:
        """None; refuses a model without a learned variance before training begins."""
        if not is_range(model.prediction):
            raise dc.IncompatibleError(
                f"loss ddpm-hybrid learns a variance and needs prediction eps-range (or x0-range, v-range), not "
                f"'{model.prediction}'; for the mean alone take loss denoising"
            )
        return {}

    def __call__(self, model: dc.Denoiser, x0: dc.State, draw: dc.Draw, **cond: Any) -> Tensor:
        """Losses [B] of data x0 (B, ...)."""
        process, n = model.process, length(model.process, self.chain)
        i = drawn(draw.fold(INDEX), n)
        above, t, s = ((i + j).clamp_max(n) / n * process.T for j in (1, 0, -1))
        noised = process.corrupt(x0, t, draw.fold(NOISE))
        known = model(noised.xt, noised.at, **dc.dropped(cond, model.null, self.drop, draw.fold(DROP)))
        name = base_of(model.prediction)
        simple = dc.mean_square(known.read(name), noised.target(name, model.sigma_data))
        k = steps_of(process, above, t, s)
        variance = "learned" if isinstance(known, RangePosterior) else "small"
        return simple + self.weight * n * step_term(k, x0, _still(known), variance, self.levels)


def _still(known: dc.Posterior) -> dc.Posterior:
    """The posterior without the history of its mean; a learned variance keeps its own."""
    still = known.detach()
    if isinstance(known, RangePosterior):
        return RangePosterior(still, known.fraction)
    return still

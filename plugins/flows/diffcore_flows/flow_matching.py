"""Conditional flow matching."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

import diffcore as dc

TIME, NOISE, DROP, COUPLING = 1, 2, 3, 4


@dc.component
class FlowMatching(dc.Loss):
    """|v(x_t, t) - (alpha' x_0 + sigma' x_1)|^2 / D at x_t = alpha x_0 + sigma x_1 for coupled pairs of data and noise.

    The minimiser is the marginal velocity E[alpha' x_0 + sigma' x_1 | x_t], whose ODE carries p_T to the data for every coupling
    with the right marginals; the loss differs from the regression of that velocity by a constant. Tied to the prediction
    'velocity': read from x_0 or eps it would weigh the times by powers of 1/t (the loss 'denoising' takes any target). With
    pairs (sample, noise) of an earlier flow this is rectification (`reflow`).

    `time_law` null: uniform on [min_time, T]. Conditions that the coupling consumes are not handed on to the network; those
    that it has a null value for are replaced by it, all together, in a fraction `drop` of the samples.
    """

    source: ClassVar[str] = "Lipman et al. 2023, arXiv 2210.02747, theorem 2; Liu et al. 2022, arXiv 2209.03003, eq. 1"
    items: ClassVar[tuple[str, ...]] = ("5.06", "5.07", "5.10")
    requires: ClassVar[frozenset[str]] = frozenset({"velocity", "flat"})
    predictions: ClassVar[tuple[str, ...]] = ("velocity",)

    coupling: dc.Coupling | None = dc.param(default=None, doc="how noise is paired with data; independent where null")
    time_law: dc.TimeLaw | None = dc.param(default=None, doc="law of the training times; uniform where null")
    drop: float = dc.param(default=0.1, ge=0, le=1, doc="probability of training a sample without its conditions")

    def __call__(self, model: dc.Denoiser, x0: dc.State, draw: dc.Draw, **cond: Any) -> Tensor:
        """Losses [B] of data x0 (B, ...); differentiable in the model's parameters."""
        process = model.process
        t = dc.times_of(self.time_law, process, draw.fold(TIME))
        noise = process.noise.like(x0, draw.fold(NOISE))
        if self.coupling is not None:
            noise = self.coupling.pair(x0, noise, draw.fold(COUPLING), **cond)
        mixed = process.corrupt(x0, t, draw.fold(NOISE), noise)
        known = model(mixed.xt, mixed.at, **self._kept(model, cond, draw.fold(DROP)))
        return dc.mean_square(process.velocity(mixed.xt, mixed.at, known), mixed.target("velocity"))

    def _kept(self, model: dc.Denoiser, cond: dict[str, Any], draw: dc.Draw) -> dict[str, Any]:
        """The network's conditions, null in a fraction of the rows."""
        kept = {name: value for name, value in cond.items() if self.coupling is None or name not in self.coupling.consumes}
        return dc.dropped(kept, model.null, self.drop, draw)

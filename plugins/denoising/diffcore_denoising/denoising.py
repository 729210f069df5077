"""The denoising loss: regress any target of noised data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

import diffcore as dc

from .time_laws import Uniform
from .weightings import Constant

TIME, NOISE, DROP, COUPLING = 1, 2, 3, 4


@dc.component
class Denoising(dc.Loss):
    """w(t) |r(x_t, t) - (p x_0 + q eps)|^2 / D with t from the time law and x_t = alpha x_0 + sigma eps.

    r is the model's posterior expectation of the target p x_0 + q eps, D the number of entries of a sample: the mean over
    entries is taken, so learning rates do not depend on the resolution. The minimiser is the posterior expectation
    E[p x_0 + q eps | x_t] for every target, every positive weighting and every time law with full support (Lai et al. 2025,
    chapter 6); they only share the network's capacity out differently.

    Each condition the model has a null value for is replaced by it with probability `drop`, all of a sample's together, so
    that the same network learns the unconditional field too (Ho and Salimans 2022, arXiv 2207.12598).
    """

    source: ClassVar[str] = "Lai et al. 2025, arXiv 2510.21890, chapter 6; Ho et al. 2020, arXiv 2006.11239"
    items: ClassVar[tuple[str, ...]] = ("2.12", "2.13", "3.07", "3.08", "4.06", "6.01", "6.03", "6.07", "D2")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    target: Literal["x0", "eps", "score", "v", "velocity", "edm"] | None = dc.param(
        default=None, doc="target whose squared error is measured; the model's own prediction where null"
    )
    weighting: dc.Weighting = dc.param(factory=Constant, doc="weight of the squared error")
    time_law: dc.TimeLaw = dc.param(factory=Uniform, doc="law of the training times")
    coupling: dc.Coupling | None = dc.param(default=None, doc="how noise is paired with data; independent where null")
    drop: float = dc.param(default=0.1, ge=0, le=1, doc="probability of training a sample without its conditions")

    def __call__(self, model: dc.Denoiser, x0: dc.State, draw: dc.Draw, **cond: Any) -> Tensor:
        """Losses [B] of data x0 (B, ...) under conditions name -> (B, ...); differentiable in the model's parameters."""
        name = self.target or model.prediction
        t = self.time_law(model.process, draw.fold(TIME))
        noised = model.process.corrupt(x0, t, draw.fold(NOISE), *self._paired(model.process, x0, draw, cond))
        cond = {name: value for name, value in cond.items() if self.coupling is None or name not in self.coupling.consumes}
        cond = dc.dropped(cond, model.null, self.drop, draw.fold(DROP))
        found = model(noised.xt, noised.at, **cond).read(name)
        weight = self.weighting(noised.at, dc.row(name, noised.at, model.sigma_data))
        return dc.mean_square(found, noised.target(name, model.sigma_data), weight)

    def _paired(self, process: dc.Process, x0: dc.State, draw: dc.Draw, cond: Mapping[str, Any]) -> tuple[dc.State, ...]:
        """The noise as the coupling pairs it with the data; nothing where there is no coupling."""
        if self.coupling is None:
            return ()
        return (self.coupling.pair(x0, process.noise.like(x0, draw.fold(NOISE)), draw.fold(COUPLING), **cond),)

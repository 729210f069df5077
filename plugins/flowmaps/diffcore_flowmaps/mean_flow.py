"""MeanFlow: the network is the average velocity between two times."""

from __future__ import annotations

from typing import Any, ClassVar

import diffcore as dc


@dc.component
class MeanFlow(dc.FlowMap):
    """Psi_{t->s}(x) = x + (s - t) h(x, t, s), with h the velocity averaged over the trajectory from t to s.

    h is the network's output, told both times. At s = t it is the velocity of the probability-flow ODE, so the same network
    is a denoiser with prediction 'velocity', and Psi is the identity there whatever the network says. Any s, before or after
    t, may be asked for; a network trained by the loss 'mean-flow' has seen s <= t.

    One step from T to 0 is one call of the network.
    """

    source: ClassVar[str] = "Geng et al. 2025, arXiv 2505.13447, equations 3 and 12"
    items: ClassVar[tuple[str, ...]] = ("R16",)
    requires: ClassVar[frozenset[str]] = frozenset({"affine", "velocity", "flat"})
    predictions: ClassVar[tuple[str, ...]] = ("velocity",)

    def map(self, model: dc.Denoiser, x: dc.State, t: Any, s: Any, **cond: Any) -> dc.State:
        """x_s from x = x_t. t, s: coefficients, numbers or (B,); the result is like x."""
        t, s = model.point(t, x), model.point(s, x)
        return dc.lincomb((1, x), (s.t - t.t, model.network(x, t, s, **cond)))

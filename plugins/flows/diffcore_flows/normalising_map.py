"""Normalising flows as flow maps."""

from __future__ import annotations

from typing import Any, ClassVar

import diffcore as dc

from .maximum_likelihood import check_flow, input_scale


@dc.component
class NormalisingFlowMap(dc.FlowMap):
    """Psi_{t->s} = F_s^{-1} o F_t, with F_t the normalising flow to noise at time t, the identity at t = T.

    The identity at s = t and the semigroup property hold by construction. One jump from T to 0 is a sample; one from 0 to T
    encodes data. Other times have a meaning only where the flow was trained at them (`time_law` of 'maximum-likelihood').

    Raises `IncompatibleError` for networks that are no normalising flow.
    """

    source: ClassVar[str] = "Dinh et al. 2017, arXiv 1605.08803; Lai et al. 2025, arXiv 2510.21890, chapter 5"
    items: ClassVar[tuple[str, ...]] = ("5.01",)
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    def map(self, model: dc.Denoiser, x: dc.State, t: Any, s: Any, **cond: Any) -> dc.State:
        """x_s from x = x_t. t, s: coefficients, numbers or (B,)."""
        check_flow(model)
        t, s = model.point(t, x), model.point(s, x)
        return model.network(x, t, s, **cond) / input_scale(model, x, s)

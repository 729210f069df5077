"""Maximum likelihood of a normalising flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import diffcore as dc

TIME, NOISE, PROBE = 1, 2, 3
_WHY = "needs a normalising flow as its network, and the check gives it a plain one"


@dc.component
class MaximumLikelihood(dc.Loss):
    """-log p_t(x_t) / D in nats per entry, p_t the density of a normalising flow (real-nvp, planar-flow, residual-flow, cnf).

    `time_law` null: t = 0, the negative log-likelihood of the data, and the flow's jump from T to 0 samples it. With a law the
    flow learns the marginals at all its times, and its jumps in between are transports of one marginal to the other. The
    minimum is the entropy of p_t per entry, reached by the exact density.

    The density is that of x as the network sees it (`data.encode`). Raises `IncompatibleError` for other networks, and for a
    process whose pure noise is not N(0, I) at time feature 1.
    """

    source: ClassVar[str] = "Dinh et al. 2017, arXiv 1605.08803, eq. 3; Lai et al. 2025, arXiv 2510.21890, chapter 5"
    items: ClassVar[tuple[str, ...]] = ("5.01", "5.04")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    oracle: ClassVar[str | None] = None
    expected_failures: ClassVar[Mapping[str, str]] = {
        "per_sample": _WHY,
        "reaches_the_network": _WHY,
        "noise_is_an_argument": _WHY,
        "batch_partition": _WHY,
    }

    time_law: dc.TimeLaw | None = dc.param(default=None, doc="law of the times whose marginals are learnt; only t = 0 where null")

    def parts(self, model: dc.Denoiser, event: dc.Event, cond: Mapping[str, int]) -> dict[str, nn.Module]:
        """No further modules; refuses what does not fit."""
        check_flow(model)
        return {}

    def __call__(self, model: dc.Denoiser, x0: Tensor, draw: dc.Draw, **cond: Any) -> Tensor:
        """Values [B] of data x0 (B, ...), in nats per entry."""
        check_flow(model)
        t = torch.zeros(len(x0), dtype=torch.float64) if self.time_law is None else self.time_law(model.process, draw.fold(TIME))
        xt = x0 if self.time_law is None else model.process.corrupt(x0, t, draw.fold(NOISE)).xt
        return -log_density(model, xt, t, draw.fold(PROBE), **cond) / x0[0].numel()


def log_density(model: dc.Denoiser, x: Tensor, t: Any, draw: dc.Draw | None = None, **cond: Any) -> Tensor:
    """log p_t(x) in nats, (B,), of the flow in `model`, with the scaling of the network's input accounted for."""
    at, flow = model.point(t, x), model.net
    scale = input_scale(model, x, at)
    known = flow.log_prob(scale * x, model.time(at.t, x), draw, **cond)  # type: ignore[union-attr]
    return known + scale.log().flatten(1).sum(1)


def input_scale(model: dc.Denoiser, x: Tensor, at: Any) -> Tensor:
    """What the state is multiplied with before the network sees it, like x."""
    return model.reading.feed(model.process, torch.ones_like(x), at)


def check_flow(model: dc.Denoiser) -> None:
    """Raise `IncompatibleError` unless the network is a normalising flow and ends in N(0, I) at time feature 1."""
    if not hasattr(model.net, "log_prob"):
        raise dc.IncompatibleError(
            "a likelihood needs a normalising flow as network: real-nvp, planar-flow, residual-flow or cnf; "
            f"got {type(model.net).__name__}"
        )
    end = torch.tensor(model.process.T, dtype=torch.float64)
    feature, last = float(model.process.embed_time(end)), model.process.coeffs(end)
    if abs(feature - 1) > 1e-6 or abs(float(last.sigma) - 1) > 1e-2 or abs(float(last.alpha)) > 1e-2:
        raise dc.IncompatibleError(
            f"a normalising flow ends in N(0, I) at feature 1; {type(model.process).__name__} has "
            f"alpha = {float(last.alpha):.3g}, sigma = {float(last.sigma):.3g} and feature {feature:.3g} at T; take process flow"
        )

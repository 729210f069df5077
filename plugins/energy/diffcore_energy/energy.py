"""A network that is the gradient of an energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

import diffcore as dc
from diffcore_energy.perceptron import Perceptron
from diffcore_energy.trace import inner


class EnergyModule(nn.Module):
    """See `Energy`. `net` is the inner network."""

    def __init__(self, net: Any, form: str, sign: float) -> None:
        super().__init__()
        self.net, self.form, self.sign = net, form, sign
        self.null_cond: dict[str, int] = dict(getattr(net, "null_cond", {}))

    def energy(self, x: Tensor, t: Tensor, s: Tensor | None = None, **cond: Any) -> Tensor:
        """E(x, t), (B,), at x (B, *shape) and times t (B,) as the network receives them."""
        f = self.net(x, t, **cond) if s is None else self.net(x, t, s, **cond)
        if self.form == "scalar":
            return f.flatten(1).sum(1)
        if self.form == "inner":
            return inner(x, f)
        gap = x - f
        return inner(gap, gap) / 2

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, **cond: Any) -> Tensor:
        """grad_x E (eps) or -grad_x E (score), like x. Gradients are on inside; history stays only where they are on outside."""
        graph = torch.is_grad_enabled()
        with torch.inference_mode(False), dc.second_derivatives():
            if not (graph and x.requires_grad):
                x = x.detach().clone().requires_grad_()
            t = t.clone() if t.is_inference() else t
            cond = {key: v.clone() if isinstance(v, Tensor) and v.is_inference() else v for key, v in cond.items()}
            (slope,) = torch.autograd.grad(self.energy(x, t, s, **cond).sum(), x, create_graph=graph)
            return self.sign * slope


@dc.component
class Energy(dc.Network):
    """The gradient of a scalar E(x, t) made of any network f, a conservative field by construction: its Jacobian is symmetric.

        squared   E = |x - f(x, t)|^2 / 2      f has the shape of x; E >= 0, and f = 0 gives grad E = x
        inner     E = <x, f(x, t)>             f has the shape of x
        scalar    E = f(x, t)                  f has one output (its last bias is then without effect)

    gives: `eps`, the output is grad E, or `score`, it is -grad E; set the spec's `prediction` to the same. Or to any other: of a
    conservative field every row p x_0 + q eps is a gradient at each time, and on images 'edm' keeps it of size 1 at all levels.
    The input is scaled by 1 / c_t as for every network, so log p_t = -c_t E(x / c_t, t) / sigma_t + const where read as eps, and
    -c_t E + const where as score; `diffcore_energy.density.log_density` has the others.

    A call costs a forward and a reverse pass, a training step differentiates that again: f must be twice differentiable and
    treat samples apart (no batch normalisation; some fused attention kernels know no second derivative). Works under no_grad and
    inference_mode. Raises `IncompatibleError` where the output is to have another shape than x.
    """

    source: ClassVar[str] = "Salimans and Ho 2021 (Should EBMs model the energy or the score?); Du et al. 2023, arXiv 2302.11552"
    items: ClassVar[tuple[str, ...]] = ("1.05", "3.03")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"form": "inner", "gives": "score"},)

    net: dc.Network = dc.param(factory=Perceptron, doc="inner network")
    form: Literal["squared", "inner", "scalar"] = dc.param(default="squared", doc="how the inner network makes an energy")
    gives: Literal["eps", "score"] = dc.param(default="eps", doc="the prediction that the output is")

    @property
    def takes_second_time(self) -> bool:
        """That of the inner network."""
        return self.net.takes_second_time

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The module for events that the inner network takes."""
        event, outputs = dc.Event.of(event), dc.Event.of(event if outputs is None else outputs)
        if outputs != event:
            raise dc.IncompatibleError(f"a gradient has the shape of the state, {event}, not {outputs}: predict eps or score")
        net = self.net.build(event, cond, (1,) if self.form == "scalar" else None)
        return EnergyModule(net, self.form, 1.0 if self.gives == "eps" else -1.0)

"""Continuous normalising flows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

import diffcore as dc

from .normalising import NormalisingFlow, jacobian, probe_of

State = tuple[Tensor, Tensor]
Slope = Callable[[Any, State], State]


class CNFModule(NormalisingFlow):
    """See `CNF`. `velocity` is dx/dt, a module of diffcore's network signature."""

    def __init__(self, spec: CNF, velocity: nn.Module, cond: Mapping[str, int]) -> None:
        super().__init__(cond)
        self.spec, self.velocity = spec, velocity

    def normalise(self, x: Tensor, t: Tensor, draw: dc.Draw | None = None, **cond: Any) -> tuple[Tensor, Tensor]:
        """From t to 1: z, and the integral of the divergence. Samples have their own t and share u in [0, 1]."""
        probe = probe_of(x, draw) if self.spec.trace == "hutchinson" else None
        left = 1 - t.to(x.dtype)

        def slope(u: Any, state: State) -> State:
            v, spread = self._spread(state[0], t + u * left.to(t.dtype), probe, cond)
            return dc.expand(left, v) * v, left * spread

        return self._integrated(slope, (x, torch.zeros_like(left)))

    def generate(self, z: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """From 1 to t."""
        left = 1 - t.to(z.dtype)

        def slope(u: Any, state: State) -> State:
            return -dc.expand(left, z) * self.velocity(state[0], 1 - u * left.to(t.dtype), **cond), torch.zeros_like(left)

        return self._integrated(slope, (z, torch.zeros_like(left)))[0]

    def _spread(self, x: Tensor, t: Tensor, probe: Tensor | None, cond: Mapping[str, Any]) -> State:
        """v(x, t) and its divergence, or v.J^T v of the probe."""

        def flat(y: Tensor) -> Tensor:
            return self.velocity(y.reshape(x.shape), t, **cond).flatten(1)

        if probe is None:
            v, matrix = jacobian(flat, x.flatten(1))
            return v.reshape(x.shape), matrix.diagonal(dim1=1, dim2=2).sum(1)
        graph, ends = torch.is_grad_enabled(), probe.flatten(1)
        with torch.enable_grad():
            y = x.flatten(1) if graph and x.requires_grad else x.detach().flatten(1).requires_grad_()
            v = flat(y)
            (back,) = torch.autograd.grad(v, y, ends, create_graph=graph)
        v, spread = v.reshape(x.shape), (back * ends).sum(1)
        return (v, spread) if graph else (v.detach(), spread.detach())

    def _integrated(self, slope: Slope, state: State) -> State:
        if self.spec.integrator == "rk4":
            return runge_kutta(slope, state, self.spec.steps)
        weights = tuple(p for p in self.velocity.parameters() if p.requires_grad)
        return adaptive(slope, state, self.spec.tolerance, weights if self.spec.gradient == "adjoint" else None)


def runge_kutta(slope: Slope, state: State, steps: int) -> State:
    """The classical fourth-order method on u in [0, 1]."""
    h = 1 / steps

    def moved(step: float, by: State) -> State:
        return state[0] + step * by[0], state[1] + step * by[1]

    for i in range(steps):
        u = i * h
        k1 = slope(u, state)
        k2 = slope(u + h / 2, moved(h / 2, k1))
        k3 = slope(u + h / 2, moved(h / 2, k2))
        k4 = slope(u + h, moved(h, k3))
        x, change = (a + 2 * b + 2 * c + d for a, b, c, d in zip(k1, k2, k3, k4, strict=True))
        state = moved(h / 6, (x, change))
    return state


def adaptive(slope: Slope, state: State, tolerance: float, weights: tuple[Tensor, ...] | None = None) -> State:
    """torchdiffeq's fifth-order Dormand-Prince method on u in [0, 1], with the gradient of its steps.

    weights: what `slope` depends on besides the state. Where given, the gradient in them and in the state is that of the
    adjoint ODE, and no step is kept. Raises `DataError` where torchdiffeq is not installed.
    """
    try:
        from torchdiffeq import odeint, odeint_adjoint  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise dc.DataError("integrator 'dopri5' needs torchdiffeq; run: pip install 'diffcore-flows[adaptive]'") from None
    method = odeint if weights is None else partial(odeint_adjoint, adjoint_params=weights)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64, device=state[0].device)
    x, change = method(slope, state, times, rtol=tolerance, atol=tolerance, method="dopri5")
    return x[-1], change[-1]


@dc.component
class CNF(dc.Network):
    """dx/dt = v(x, t) from data (t = 0) to noise (t = 1): z = x_1, log |det dz/dx_0| = int_0^1 div v(x_t, t) dt.

    The instantaneous change of variables, exact (D products with the Jacobian per evaluation) or by Hutchinson's estimate with
    one probe per sample, fixed along the path: unbiased. The inverse runs the same ODE backwards. The integrator's error is in
    both: `rk4` with fixed steps, or `dopri5` of the extra diffcore-flows[adaptive].

    gradient: 'steps' is that of the steps taken, exact for the loss as computed, with memory in proportion to their number.
    'adjoint' integrates a' = -d_x (a.v + div v) and int d_theta (a.v + div v) dt back from noise with dopri5: it keeps only the
    end of the path, whatever the number of steps, makes a training step about three times as long, and is off by a multiple of
    the tolerance. It can be differentiated once, and not in t.

    Raises `SpecError` for the adjoint with rk4, whose fixed steps do not control its error.
    """

    source: ClassVar[str] = "Chen et al. 2018, arXiv 1806.07366, theorem 1; Grathwohl et al. 2019, arXiv 1810.01367"
    items: ClassVar[tuple[str, ...]] = ("5.04", "5.05")
    example: ClassVar[Mapping[str, Any]] = {"velocity": {"type": "mlp", "width": 32, "depth": 2}, "steps": 4}

    velocity: dc.Network = dc.param(doc="the network of v")
    steps: int = dc.param(default=8, ge=1, le=10_000, doc="Runge-Kutta steps, four evaluations each")
    trace: Literal["exact", "hutchinson"] = dc.param(default="exact", doc="the divergence: whole, or estimated")
    integrator: Literal["rk4", "dopri5"] = dc.param(default="rk4", doc="fixed steps, or adaptive ones")
    tolerance: float = dc.param(default=1e-5, gt=0, le=1, doc="relative and absolute tolerance of dopri5")
    gradient: Literal["steps", "adjoint"] = dc.param(default="steps", doc="through the steps, or by the adjoint ODE of dopri5")

    def __attrs_post_init__(self) -> None:
        if self.gradient == "adjoint" and self.integrator != "dopri5":
            raise dc.SpecError("gradient 'adjoint' of CNF needs integrator 'dopri5'; set it, or leave gradient at 'steps'")

    @property
    def takes_second_time(self) -> bool:
        """It is a flow map."""
        return True

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The flow of one tensor of any shape that the velocity takes."""
        return CNFModule(self, self.velocity.build(event, cond), cond)

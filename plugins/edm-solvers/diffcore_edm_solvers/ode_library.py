"""The adaptive methods of torchdiffeq."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

import diffcore as dc
from diffcore_edm_solvers.continuous import Continuous
from diffcore_edm_solvers.journey import Journey, weight
from diffcore_edm_solvers.variable import READS, Variable, pace, position, scale, time_at


def library() -> Callable[..., Any]:
    """The integrator of torchdiffeq. Raises `IncompatibleError` where it is not installed."""
    try:
        from torchdiffeq import odeint
    except ImportError:
        raise dc.IncompatibleError(
            "solver torchdiffeq needs the package torchdiffeq; run: pip install 'diffcore-edm-solvers[torchdiffeq]', or use "
            "solver adaptive"
        ) from None
    return odeint


@attrs.define
class Together(Journey):
    """All samples at one time, integrated as one state."""

    method: str
    variable: Variable
    tolerances: tuple[float, float]

    def walk(self, goal: Tensor) -> None:
        """One call of the integrator on y = x / S, over the variable."""
        if bool((self.t == goal).all()):
            return
        process, odeint = self.field.process, library()
        c, end = process.coeffs(self.t[:1]), process.coeffs(goal[:1])
        span = torch.cat([position(self.variable, c), position(self.variable, end)])
        first, last = (weight(scale(self.variable, at), self.x) for at in (c, end))
        y = dc.lincomb((1 / first, self.x))
        leaves = tuple(dc.leaves(y))

        def slope(u: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            u = u.detach().double().reshape(1)
            time = time_at(process, self.variable, torch.minimum(torch.maximum(u, span.min()), span.max()))
            time = torch.where(u == span[0], self.t[0], torch.where(u == span[1], goal[0], time))
            at = process.coeffs(time.expand(len(self.t)))
            size = scale(self.variable, at)
            k = self.posterior(dc.lincomb((weight(size, y), _like(y, parts))), at, None).read(READS[self.variable])
            return tuple(dc.leaves(dc.lincomb((weight(pace(self.variable, at), k), k))))

        rtol, atol = self.tolerances
        options = {"step_t": span[1:]}  # else it steps past the end, where there may be no process
        atol = atol / float(last.detach())
        try:
            found = odeint(slope, leaves, span, rtol=rtol, atol=atol, method=self.method, options=options)
        except AssertionError as error:
            raise dc.NumericsError(f"torchdiffeq gave up between t = {self.t[0]:.4g} and {goal[0]:.4g}: {error}") from None
        self.x, self.t = dc.lincomb((last, _like(y, tuple(leaf[-1] for leaf in found)))), goal


def _like(tree: dc.State, leaves: tuple[Tensor, ...]) -> dc.State:
    """The leaves in the form of a tree."""
    return dc.numbered(lambda i, _: leaves[i], tree)


@dc.component
class TorchDiffEq(Continuous):
    """dy/du = pace k as in runge-kutta, by an adaptive method of torchdiffeq from each time of the grid to the next.

    The step size is one for the whole batch, from the norm of all its samples together: a sample depends, within the tolerance,
    on those beside it, and costs as much as the hardest. `adaptive` has neither fault; this is for dopri8, and for comparison.

    Raises `IncompatibleError` where torchdiffeq is not installed, `SpecError` for a time grid per sample.
    """

    source: ClassVar[str] = "Chen 2018, torchdiffeq; Chen et al. 2018, arXiv 1806.07366"
    items: ClassVar[tuple[str, ...]] = ("4.08", "9.23")
    expected_failures: ClassVar[Mapping[str, str]] = {"batch_partition": "one step size, chosen for the whole batch"}

    method: Literal["dopri5", "dopri8", "bosh3", "adaptive_heun", "fehlberg2"] = dc.param(
        default="dopri5", doc="the method of torchdiffeq"
    )

    def journey(self, field: dc.Field, x: dc.State, t: Tensor) -> Journey:
        """All samples, at one time."""
        library()
        if bool((t != t[0]).any()):
            raise dc.SpecError(
                "torchdiffeq integrates a batch at one time; give one grid for all samples, or use solver adaptive"
            )
        return Together(field, x, t, self.method, self.variable, (self.rtol, self.atol))

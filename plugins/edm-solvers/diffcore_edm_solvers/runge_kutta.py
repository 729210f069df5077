"""Explicit Runge-Kutta methods on the probability-flow ODE, in the variable of choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

import diffcore as dc
from diffcore_edm_solvers.stages import Staged, Weights
from diffcore_edm_solvers.tableau import TABLEAUS, Tableau
from diffcore_edm_solvers.variable import READS, Variable, pace, scale

Method = Literal["euler", "midpoint", "heun", "ralston", "kutta-3", "bogacki-shampine", "rk4", "dormand-prince"]


@dc.component
class RungeKutta(Staged):
    """With the tableau (a, b, c) of `method`, u the variable and y = x / S the state that goes with it, H = u_s - u_t,

        u_i = u_t + c_i H,   y_i = y_t + H sum_j a_ij k_j,   k_i = dy/du at (S_i y_i, u_i),   y_s = y_t + H sum_i b_i k_i:

        variable  u                              S      dy/du
        t         t                              1      v = alpha' x* + sigma' e*
        sigma     rho = sigma / alpha            alpha  e*
        lam       log(alpha / sigma)             1      v / lam'
        angle     phi = arctan(sigma / alpha)    r      cos(phi) e* - sin(phi) x*, r = (alpha^2 + sigma^2)^(1/2)

    Order and evaluations a step: euler 1, 1; midpoint, heun, ralston 2, 2; kutta-3, bogacki-shampine 3, 3; rk4 4, 4;
    dormand-prince 5, 6. Euler in sigma is DDIM; Heun in sigma is EDM's.

    A step without an inside freezes x* (one evaluation, x_s = alpha_s x* at sigma_s = 0): to sigma_s = 0 in t and lam, and
    in sigma and angle for methods that end on s (heun, kutta-3, rk4, dormand-prince); from alpha_t = 0 in sigma and lam.

    Raises `IncompatibleError` for a shifted process, `SpecError` for a rising grid that starts at sigma = 0.
    """

    source: ClassVar[str] = (
        "Kutta 1901; Karras et al. 2022, arXiv 2206.00364, algorithm 1; Lai et al. 2025, arXiv 2510.21890, app. A"
    )
    items: ClassVar[tuple[str, ...]] = ("9.23", "A3")
    variants: ClassVar[tuple[Mapping[str, str], ...]] = (
        {"method": "midpoint", "variable": "lam"},
        {"method": "dormand-prince", "variable": "t"},
    )

    method: Method = dc.param(default="heun", doc="the Butcher tableau")
    variable: Variable = dc.param(default="sigma", doc="what is integrated over: t, sigma (sigma / alpha), lam, or the angle")

    @property
    def order(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the method."""
        return self.tableau.order

    @property
    def tableau(self) -> Tableau:
        """The coefficients of the method."""
        return TABLEAUS[self.method]

    def shares(self) -> tuple[float, ...]:
        """c."""
        return self.tableau.c

    def spaced(self) -> Variable:
        """The variable."""
        return self.variable

    def reads(self) -> str:
        """v, or e* for sigma."""
        return READS[self.variable]

    def weights(self, nodes: list[dc.Coeffs], end: dc.Coeffs, step: Tensor, stage: int) -> Weights:
        """S_end / S_t, and S_end H a_ij pace_j (b_j for the step)."""
        row = (*self.tableau.a, self.tableau.b)[stage]
        size = scale(self.variable, end)
        slopes = [size * step * weight * pace(self.variable, at) for weight, at in zip(row, nodes, strict=False)]
        return Weights(size / scale(self.variable, nodes[0]), slopes)

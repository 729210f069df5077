"""Exponential Runge-Kutta methods in lam: the linear part of the ODE is solved exactly, x* or e* integrated by stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

import diffcore as dc
from diffcore_edm_solvers.stages import Staged, Weights
from diffcore_edm_solvers.variable import Variable

Combination = tuple[float, ...]
"""Weights of phi_1, phi_2, ...: (1, -2) is phi_1 - 2 phi_2."""


class Exponential(NamedTuple):
    """`c` as in a Butcher tableau; `a` and `b` are combinations of phi_k(c_i z), with c_i z of the row (z for b)."""

    c: tuple[float, ...]
    a: tuple[tuple[Combination, ...], ...]
    b: tuple[Combination, ...]
    order: int


def two_stages(c: float) -> Exponential:
    """Hochbruck and Ostermann, equation 5.3: the line through k_1 and k_2 integrated exactly."""
    return Exponential((0, c), ((), ((c,),)), ((1, -1 / c), (0, 1 / c)), 2)


TABLEAUS = {
    "midpoint": two_stages(1 / 2),
    "heun": two_stages(1),
    "third": Exponential(
        (0, 1 / 3, 2 / 3),
        ((), ((1 / 3,),), ((2 / 3, -4 / 3), (0, 4 / 3))),
        ((1, -3 / 2), (), (0, 3 / 2)),
        3,
    ),
    "krogstad": Exponential(
        (0, 1 / 2, 1 / 2, 1),
        ((), ((1 / 2,),), ((1 / 2, -1), (0, 1)), ((1, -2), (), (0, 2))),
        ((1, -3, 4), (0, 2, -4), (0, 2, -4), (0, -1, 4)),
        4,
    ),
}
"""third: Hochbruck and Ostermann, equation 5.8 with c_2 = 1/3. krogstad: Krogstad 2005, Journal of Computational Physics 203."""


@dc.component
class ExpRungeKutta(Staged):
    """With h = lam_s - lam_t, x_t / alpha solves dy/dlam = -y + m, m = E[x_0 | x_t], and (prediction eps) x_t / sigma solves
    dy/dlam = y - e, e = E[eps | x_t]. With z = -h, S = alpha, k = m (or z = h, S = sigma, k = -e) a step is

        x_s / S_s = e^z x_t / S_t + h sum_i b_i(z) k_i,    sum_i b_i = phi_1,

    the same for the stages with c_i h. heun, midpoint: b_2 = phi_2 / c_2, c_2 = 1 and 1/2; third: c = 0, 1/3, 2/3,
    b_3 = 3/2 phi_2; krogstad: four stages. Order 2, 2, 3, 4; evaluations a step 2, 2, 3, 4. `third` with eps is DPM-Solver-3;
    DPM-Solver++ (2S) has the midpoint's b_2 = phi_1 instead, order 2 as well.

    The steps from pure noise and to clean data have no inside and freeze x*.
    """

    source: ClassVar[str] = (
        "Hochbruck and Ostermann 2005, SIAM J. Numer. Anal. 43; Krogstad 2005; Zhang et al. 2023, arXiv 2308.02157"
    )
    items: ClassVar[tuple[str, ...]] = ("9.14", "R7")
    variants: ClassVar[tuple[Mapping[str, str], ...]] = ({"method": "third", "prediction": "eps"},)

    method: Literal["midpoint", "heun", "third", "krogstad"] = dc.param(default="heun", doc="the stages")
    prediction: Literal["x0", "eps"] = dc.param(default="x0", doc="what the stages integrate: E[x_0 | x_t] or E[eps | x_t]")

    @property
    def order(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the method."""
        return TABLEAUS[self.method].order

    def shares(self) -> tuple[float, ...]:
        """c."""
        return TABLEAUS[self.method].c

    def spaced(self) -> Variable:
        """lam."""
        return "lam"

    def reads(self) -> str:
        """The prediction."""
        return self.prediction

    def weights(self, nodes: list[dc.Coeffs], end: dc.Coeffs, step: Tensor, stage: int) -> Weights:
        """e^(c z) S_end / S_t, and +- S_end h times the combinations of phi_k(c z)."""
        tableau, start = TABLEAUS[self.method], nodes[0]
        share = (*tableau.c, 1)[stage]
        sign, size, keep = (
            (-1, end.alpha, end.sigma / start.sigma) if self.prediction == "x0" else (1, end.sigma, end.alpha / start.alpha)
        )
        z = sign * share * step
        row = (*tableau.a, tableau.b)[stage]
        return Weights(keep, [-sign * size * step * _combined(mix, z) for mix in row])


def _combined(mix: Combination, z: Tensor) -> Tensor:
    return sum((weight * dc.phi(k + 1, z) for k, weight in enumerate(mix) if weight), torch.zeros_like(z))

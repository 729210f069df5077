"""What the first values are worth: Adams-Bashforth on the noise from exact ones, and from the lower degrees of its own start."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_dpm.deis import DEIS

import diffcore as dc
from diffcore.testing import ReferenceVP, golden_mixture, instant

VP, GOLDEN = ReferenceVP(), golden_mixture()
X = float(instant(VP, 0.3).alpha) * torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)[:, None]
COUNTS = [80, 160, 320]


def window(steps):
    lam = torch.linspace(*(float(instant(VP, t).lam) for t in (0.3, 0.01)), steps + 1, dtype=torch.float64)
    nodes = VP.t_of_lam(lam)
    nodes[0], nodes[-1] = 0.3, 0.01
    return nodes


def slope(found):
    x, y = (torch.tensor([math.log(v) for v in values], dtype=torch.float64) for values in (COUNTS, found))
    x, y = x - x.mean(), y - y.mean()
    return float(-(x * y).sum() / (x * x).sum())


def from_exact_values(solver, nodes):
    """The run from node `memory` on, the evaluations before it those of the exact path."""
    field, k = GOLDEN.field(VP), solver.memory
    path = [GOLDEN.flow(VP, X, 0.3, float(t)) for t in nodes[: k + 1]]
    carry = [field.posterior(x, float(t)).read("eps") for x, t in zip(path[:k], nodes[:k], strict=True)][::-1]
    x = path[k]
    for row in solver.plan(VP, nodes).rows(field, x)[k:]:
        x, carry = solver.step(field, x, row, carry, None)[:2]
    return x


@pytest.mark.item("9.08")
@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("variable", ["t", "rho"])
def test_exact_first_values_give_degree_plus_one_and_the_own_start_gives_two(degree, variable):
    """Global slopes over 80, 160, 320 steps within .2 of degree + 1, and of 2 where lower degrees start the run."""
    solver = DEIS(degree=degree, variable=variable, limit=100.0)
    want, started, own = GOLDEN.flow(VP, X, 0.3, 0.01), [], []
    for n in COUNTS:
        nodes = window(n)
        started.append(float((from_exact_values(solver, nodes) - want).abs().max()))
        own.append(float((dc.sample(GOLDEN.field(VP), solver, X, grid=nodes).x - want).abs().max()))
    assert abs(slope(started) - degree - 1) < 0.2, started
    assert abs(slope(own) - 2) < 0.2, own

"""Orders of convergence on the mixture of the golden slopes, and against the exact flow map of a Gaussian.

Window t .3 -> .01 of VP (.1 to 20), nodes uniform in lam, error = max over nine start points against the quantile transport of
the mixture (Lai et al. 2025, chapter 9; tolerance .15 on the slope of the last three points).
"""

import math

import pytest
import torch
from diffcore_solvers.ddim import DDIM
from diffcore_solvers.dpmpp import DPMpp2M
from diffcore_solvers.edm import EDMHeun
from diffcore_solvers.euler import Euler
from diffcore_solvers.heun import Heun
from diffcore_solvers.rk4 import RK4

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

VP, VE, FLOW, GOLDEN = ReferenceVP(), ReferenceVE(), ReferenceFlow(), golden_mixture()
STARTS = torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)[:, None]


def window(process, start, end, steps):
    lam = torch.linspace(float(instant(process, start).lam), float(instant(process, end).lam), steps + 1, dtype=torch.float64)
    nodes = process.t_of_lam(lam)
    nodes[0], nodes[-1] = start, end
    return nodes


def errors(solver, process, oracle, start, end, counts, prediction="x0"):
    exact = oracle.flow(process, STARTS, start, end)
    field = oracle.field(process, prediction)
    runs = (dc.sample(field, solver, STARTS, grid=window(process, start, end, n)).x for n in counts)
    return [float((x - exact).abs().max()) for x in runs]


def slope(counts, found):
    """Least-squares slope of -log error over log steps, last three points."""
    x, y = (torch.tensor([math.log(v) for v in values[-3:]], dtype=torch.float64) for values in (counts, found))
    x, y = x - x.mean(), y - y.mean()
    return float(-(x * y).sum() / (x * x).sum())


CASES = [(Euler(), 320), (DDIM(), 320), (Heun(), 320), (EDMHeun(), 320), (DPMpp2M(), 640), (RK4(), 160)]


@pytest.mark.item("9.03", "9.15", "9.16", "9.23")
@pytest.mark.parametrize(("solver", "most"), CASES, ids=lambda v: type(v).__name__)
def test_golden_slope(solver, most):
    counts = [most // 4, most // 2, most]
    found = errors(solver, VP, GOLDEN, 0.3, 0.01, counts)
    assert found[-1] > 1e-11
    assert found[-3] < 1e-2
    assert abs(slope(counts, found) - solver.order) < 0.15, found


@pytest.mark.parametrize("prediction", ["eps", "velocity"])
def test_the_order_does_not_depend_on_the_prediction(prediction):
    counts = [40, 80, 160]
    found = errors(DPMpp2M(), VP, Gaussian(0.5, 0.4, shape=(1,)), 0.3, 0.01, counts, prediction)
    assert abs(slope(counts, found) - 2) < 0.15, found


@pytest.mark.item("9.15")
def test_edm_heun_is_second_order_in_sigma():
    """On the published spacing sigma^(1/7), where sigma is the time."""
    counts, found = [40, 80, 160], []
    exact = GOLDEN.flow(VE, STARTS, 2.0, 0.1)
    for n in counts:
        nodes = torch.linspace(2 ** (1 / 7), 0.1 ** (1 / 7), n + 1, dtype=torch.float64) ** 7
        nodes[0], nodes[-1] = 2.0, 0.1
        found.append(float((dc.sample(GOLDEN.field(VE), EDMHeun(), STARTS, grid=nodes).x - exact).abs().max()))
    assert abs(slope(counts, found) - 2) < 0.1, found


def test_2m_keeps_its_order_on_uneven_steps():
    """Nodes with h growing smoothly by a factor of nine: r differs from 1 in every step."""
    counts, found = [80, 160, 320], []
    exact = GOLDEN.flow(VP, STARTS, 0.3, 0.01)
    low, high = (float(instant(VP, t).lam) for t in (0.3, 0.01))
    for n in counts:
        u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        nodes = VP.t_of_lam(low + (high - low) * (u + 4 * u**2) / 5)
        nodes[0], nodes[-1] = 0.3, 0.01
        found.append(float((dc.sample(GOLDEN.field(VP), DPMpp2M(), STARTS, grid=nodes).x - exact).abs().max()))
    assert abs(slope(counts, found) - 2) < 0.15, found


FULL = [
    (Euler(), 0.9, 1.1),
    (DDIM(), 0.9, 1.1),
    (Heun(), 1.9, 2.1),
    (RK4(), 3.9, 4.1),
    (EDMHeun(), 1.4, 2.1),
    (DPMpp2M(), 1.6, 2.1),
]


@pytest.mark.parametrize(("solver", "least", "most"), FULL, ids=lambda v: type(v).__name__)
def test_nothing_is_lost_at_pure_noise_and_at_clean_data(solver, least, most):
    """The straight path from alpha = 0 to sigma = 0 in equal steps of t; lam is infinite at both ends."""
    gauss, counts = Gaussian(0.5, 0.4, shape=(1,)), [100, 200, 400]
    exact, field = gauss.flow(FLOW, STARTS, 1.0, 0.0), gauss.field(FLOW, "velocity")
    grids = (torch.linspace(1, 0, n + 1, dtype=torch.float64) for n in counts)
    found = [float((dc.sample(field, solver, STARTS, grid=grid).x - exact).abs().max()) for grid in grids]
    assert least < slope(counts, found) < most, found

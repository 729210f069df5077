"""Orders of convergence on the mixture of the golden slopes (Lai et al. 2025, chapter 9), by regression.

Window .3 T -> .01 T, nodes uniform in lam, error = max over nine starts against the quantile transport; last three points,
tolerance .15. The declared `order` of every solver is what is asserted.
"""

import math

import attrs
import pytest
import torch
from diffcore_dpm.deis import DEIS
from diffcore_dpm.dpm_solver_2 import DPMSolver2
from diffcore_dpm.dpm_solver_3 import DPMSolver3
from diffcore_dpm.dpmpp_2s import DPMpp2S
from diffcore_dpm.dpmpp_3m import DPMpp3M
from diffcore_dpm.exp_adams import ExpAdams
from diffcore_dpm.unipc import UniPC

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant
from diffcore.testing.oracles import Gaussian

VP, FLOW, VE, GOLDEN = ReferenceVP(), ReferenceFlow(), ReferenceVE(), golden_mixture()


def window(process, steps, bend=0.0):
    """Nodes at lam(u) = low + (high - low) (u + bend u^2) / (1 + bend)."""
    ends = [0.3 * process.T, 0.01 * process.T]
    low, high = (float(instant(process, t).lam) for t in ends)
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    nodes = process.t_of_lam(low + (high - low) * (u + bend * u**2) / (1 + bend))
    nodes[0], nodes[-1] = ends
    return nodes


def starts(process):
    return float(instant(process, 0.3 * process.T).alpha) * torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)[:, None]


EXACT = {process: GOLDEN.flow(process, starts(process), 0.3 * process.T, 0.01 * process.T) for process in (VP, FLOW, VE)}


def errors(solver, process, counts, prediction="x0", bend=0.0):
    field, x = GOLDEN.field(process, prediction), starts(process)
    runs = (dc.sample(field, solver, x, grid=window(process, n, bend)).x for n in counts)
    return [float((y - EXACT[process]).abs().max()) for y in runs]


def slope(counts, found):
    x, y = (torch.tensor([math.log(v) for v in values[-3:]], dtype=torch.float64) for values in (counts, found))
    x, y = x - x.mean(), y - y.mean()
    return float(-(x * y).sum() / (x * x).sum())


def assert_order(order, counts, found):
    assert found[-1] > 1e-11
    assert found[-3] < 3e-2
    assert abs(slope(counts, found) - order) < 0.15, found


STARTED = {"start": "singlestep"}
TABLE = [
    (DPMSolver2(), 2),
    (DPMSolver2(r=0.3), 2),
    (DPMSolver3(), 3),
    (DPMpp2S(), 2),
    (DPMpp3M(), 2),
    (DEIS(degree=0), 1),
    (DEIS(degree=1), 2),
    (DEIS(degree=2), 2),
    (DEIS(degree=3), 2),
    (DEIS(degree=2, variable="rho"), 2),
    (UniPC(points=1), 2),
    (UniPC(points=2), 3),
    (UniPC(points=2, variant="bh1"), 3),
    (UniPC(points=3, prediction="eps"), 3),
    (UniPC(points=2, corrector=False), 2),
    (ExpAdams(points=1), 1),
    (ExpAdams(points=2), 2),
    (ExpAdams(points=3), 2),
    (ExpAdams(points=1, prediction="eps", corrector=True), 2),
    (ExpAdams(points=2, corrector=True), 3),
    (ExpAdams(points=3, **STARTED), 3),
    (ExpAdams(points=3, prediction="eps", **STARTED), 3),
    (ExpAdams(points=4, **STARTED), 4),
    (ExpAdams(points=3, corrector=True, **STARTED), 4),
    (ExpAdams(points=3, corrector=True, prediction="eps", **STARTED), 4),
    (ExpAdams(points=1, prediction="v"), 1),
    (ExpAdams(points=2, prediction="v"), 2),
    (ExpAdams(points=2, prediction="v", corrector=True), 3),
    (ExpAdams(points=3, prediction="v", **STARTED), 3),
    (ExpAdams(points=4, prediction="v", **STARTED), 4),
    (ExpAdams(points=2, prediction="flow"), 2),
    (ExpAdams(points=2, prediction="flow", corrector=True), 3),
    (ExpAdams(points=4, prediction="flow", **STARTED), 4),
]


@pytest.mark.item("9.08", "9.11", "9.16", "9.18", "9.22", "R3", "R4", "R9")
@pytest.mark.parametrize(("solver", "order"), TABLE, ids=repr)
def test_golden_slope(solver, order):
    assert solver.order == order
    counts = [160, 320, 640]
    assert_order(order, counts, errors(solver, VP, counts))


CORE = [
    *(DPMSolver2(), DPMSolver3(), DPMpp2S(), UniPC(), ExpAdams(points=3, **STARTED), ExpAdams(points=4, **STARTED)),
    *(ExpAdams(points=3, prediction="v", **STARTED), ExpAdams(points=2, prediction="flow", corrector=True)),
]


@pytest.mark.parametrize("process", [FLOW, VE], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("solver", CORE, ids=repr)
def test_the_order_holds_for_other_processes_and_predictions(solver, process):
    counts = [160, 320, 640]
    assert_order(solver.order, counts, errors(solver, process, counts, "velocity"))


WHOLE = [
    (ExpAdams(points=2, prediction="v"), 2),
    (ExpAdams(points=2, prediction="flow", corrector=True), 3),
    (ExpAdams(points=3, prediction="flow", **STARTED), 3),
    (ExpAdams(points=3, prediction="v", corrector=True, **STARTED), 4),
]


@pytest.mark.parametrize(("solver", "order"), WHOLE, ids=repr)
@pytest.mark.parametrize("process", [FLOW, VP], ids=lambda p: type(p).__name__)
def test_v_and_flow_keep_their_order_from_noise_to_clean_data(solver, order, process):
    """Equal steps of sigma / (alpha + sigma) over the whole of a run, T (pure noise for the straight path) to t = 0 included."""
    data, top = Gaussian([0.4], [0.7]), instant(process, process.T)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None] * (top.alpha**2 + top.sigma**2) ** 0.5
    exact = 0.4 + 0.7 * (x - 0.4 * top.alpha) / (0.49 * top.alpha**2 + top.sigma**2) ** 0.5
    counts, found = [80, 160, 320], []
    for n in counts:
        u = torch.linspace(float(top.sigma / (top.alpha + top.sigma)), 0, n + 1, dtype=torch.float64)
        nodes = torch.cat([u.new_tensor([process.T]), process.t_of_lam(-torch.logit(u[1:-1])), u.new_tensor([0.0])])
        found.append(float((dc.sample(data.field(process), solver, x, grid=nodes).x - exact).abs().max()))
    assert_order(order, counts, found)


@pytest.mark.parametrize("solver", [*CORE, ExpAdams(points=3, corrector=True, **STARTED)], ids=repr)
def test_the_order_holds_on_uneven_steps(solver):
    """Steps growing smoothly ninefold over the window: the ratio of neighbours differs from 1 everywhere."""
    counts = [160, 320, 640]
    assert_order(solver.order, counts, errors(solver, VP, counts, bend=4.0))


@pytest.mark.item("9.16", "R6")
def test_the_factor_two_of_the_second_difference_decides_the_order():
    """From exact first values: order 3 with it, 2 without."""
    found = {}
    for compat in (False, True):
        solver, rows = DPMpp3M(compat=compat), []
        for n in (80, 160, 320):
            nodes, field = window(VP, n), GOLDEN.field(VP)
            x, carry = GOLDEN.flow(VP, starts(VP), 0.3, float(nodes[2])), []
            for k in (1, 0):
                y = GOLDEN.flow(VP, starts(VP), 0.3, float(nodes[k]))
                carry.append(GOLDEN.mean(y, instant(VP, float(nodes[k]))))
            for row in solver.plan(VP, nodes).rows(field, x)[2:]:
                x, carry = solver.step(field, x, row, carry, None)[:2]
            rows.append(float((x - EXACT[VP]).abs().max()))
        found[compat] = slope([80, 160, 320], rows)
    assert abs(found[False] - 3) < 0.15, found
    assert abs(found[True] - 2) < 0.15, found


@pytest.mark.item("9.22")
@pytest.mark.parametrize("solver", [UniPC(points=1), UniPC(points=2)], ids=repr)
def test_the_corrector_lifts_the_order_at_no_cost(solver):
    counts, plain = [160, 320, 640], attrs.evolve(solver, corrector=False)
    lifted, without = errors(solver, VP, counts), errors(plain, VP, counts)
    assert abs(slope(counts, lifted) - slope(counts, without) - 1) < 0.2
    field = GOLDEN.field(VP)
    assert dc.sample(field, solver, starts(VP), steps=7).nfe == dc.sample(field, plain, starts(VP), steps=7).nfe == 7

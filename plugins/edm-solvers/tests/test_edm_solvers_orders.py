"""Orders of convergence on the mixture of the golden slopes (Lai et al. 2025, chapter 9), by regression.

Window .3 T -> .01 T, nodes uniform in lam, error = max over nine starts against the quantile transport; tolerance .2 on the
slope of three points. The declared `order` is what is asserted.
"""

import math
from functools import cache

import pytest
import torch
from diffcore_edm_solvers.exp_runge_kutta import TABLEAUS as EXPONENTIAL
from diffcore_edm_solvers.exp_runge_kutta import ExpRungeKutta
from diffcore_edm_solvers.runge_kutta import RungeKutta
from diffcore_edm_solvers.tableau import TABLEAUS, Tableau

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

VP, FLOW, VE, GOLDEN = ReferenceVP(), ReferenceFlow(), ReferenceVE(), golden_mixture()
PROCESSES = [VP, FLOW, VE]
ORDERS = {
    "euler": 1,
    "midpoint": 2,
    "heun": 2,
    "ralston": 2,
    "kutta-3": 3,
    "bogacki-shampine": 3,
    "rk4": 4,
    "dormand-prince": 5,
    "third": 3,
    "krogstad": 4,
}


def name(value):
    return type(value).__name__ if isinstance(value, dc.Process) else str(value)


@cache
def window(process, steps):
    ends = [0.3 * process.T, 0.01 * process.T]
    low, high = (float(instant(process, t).lam) for t in ends)
    nodes = process.t_of_lam(torch.linspace(low, high, steps + 1, dtype=torch.float64))
    nodes[0], nodes[-1] = ends
    return nodes


def starts(process):
    return float(instant(process, 0.3 * process.T).alpha) * torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)[:, None]


EXACT = {process: GOLDEN.flow(process, starts(process), 0.3 * process.T, 0.01 * process.T) for process in PROCESSES}


def errors(solver, process, counts, prediction="x0"):
    field, x = GOLDEN.field(process, prediction), starts(process)
    return [float((dc.sample(field, solver, x, grid=window(process, n)).x - EXACT[process]).abs().max()) for n in counts]


def slope(counts, found):
    x, y = (torch.tensor([math.log(v) for v in values], dtype=torch.float64) for values in (counts, found))
    x, y = x - x.mean(), y - y.mean()
    return float(-(x * y).sum() / (x * x).sum())


def counts_for(order):
    return {1: [160, 320, 640], 2: [80, 160, 320], 3: [80, 160, 320], 4: [40, 80, 160]}[order]


@pytest.mark.item("9.23", "A3")
@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("variable", ["t", "sigma", "lam", "angle"])
@pytest.mark.parametrize("method", [m for m in TABLEAUS if m != "dormand-prince"])
def test_the_order_in_every_variable_on_every_process(method, variable, process):
    solver = RungeKutta(method=method, variable=variable)
    assert solver.order == ORDERS[method]
    counts = counts_for(solver.order)
    found = errors(solver, process, counts)
    assert found[-1] > 1e-11
    assert found[0] < 7e-2
    assert abs(slope(counts, found) - solver.order) < 0.2, found


def decay(tableau, steps):
    """The error at u = 2 of dy/du = y cos u with `steps` steps, in plain floats."""
    h, y = 2 / steps, 1.0
    for n in range(steps):
        k = []
        for c, row in zip(tableau.c, tableau.a, strict=True):
            k.append((y + h * sum(a * v for a, v in zip(row, k, strict=True))) * math.cos((n + c) * h))
        y += h * sum(b * v for b, v in zip(tableau.b, k, strict=True))
    return abs(y - math.exp(math.sin(2)))


@pytest.mark.item("9.23", "A3")
@pytest.mark.parametrize("method", TABLEAUS)
def test_every_tableau_has_its_order(method):
    """On a scalar equation, and rows that sum to c; here also that of dormand-prince."""
    tableau = TABLEAUS[method]
    counts = [20, 40, 80]
    assert abs(slope(counts, [decay(tableau, n) for n in counts]) - ORDERS[method]) < 0.15
    assert all(abs(sum(row) - c) < 1e-14 for row, c in zip(tableau.a, tableau.c, strict=True))
    assert abs(sum(tableau.b) - 1) < 1e-14


@pytest.mark.item("9.23", "A3")
@pytest.mark.parametrize("method", ["bogacki-shampine", "dormand-prince"])
def test_the_embedded_method_has_its_order(method):
    """The weights b - error over the stages and the slope at the end are a method of order q, one less than b's."""
    t = TABLEAUS[method]
    b = (*t.b, 0)
    low = tuple(x - e for x, e in zip(b, t.error, strict=True))
    embedded = Tableau((*t.c, 1), (*t.a, t.b), low, t.embedded)
    counts = [40, 80, 160]
    assert abs(sum(t.error)) < 1e-15
    assert abs(slope(counts, [decay(embedded, n) for n in counts]) - (t.order - 1)) < 0.2


def test_dormand_prince_is_of_fifth_order_on_the_mixture():
    """Few steps, before rounding: 4.5 or more between 10 and 40 steps, and far below rk4 at equal evaluations."""
    for variable in ("t", "lam"):
        counts = [20, 40, 80]
        found = errors(RungeKutta(method="dormand-prince", variable=variable), FLOW, counts)
        assert slope(counts, found) > 4.5, found
        assert found[1] < 0.1 * errors(RungeKutta(method="rk4", variable=variable), FLOW, [60])[0]


@pytest.mark.item("9.14")
@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize("method", EXPONENTIAL)
def test_the_order_of_the_exponential_methods(method, prediction, process):
    solver = ExpRungeKutta(method=method, prediction=prediction)
    assert solver.order == ORDERS[method]
    counts = counts_for(solver.order)
    found = errors(solver, process, counts)
    assert found[-1] > 1e-11
    assert abs(slope(counts, found) - solver.order) < 0.2, found


EACH = [
    RungeKutta(variable="t"),
    RungeKutta(method="rk4"),
    RungeKutta(method="bogacki-shampine", variable="lam"),
    ExpRungeKutta(),
]


@pytest.mark.parametrize("prediction", ["eps", "score", "v", "velocity", "edm"])
@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("solver", EACH, ids=repr)
def test_the_prediction_does_not_matter(solver, process, prediction):
    """The exact field read from any prediction gives the samples of x_0 prediction (at alpha_T = 0 eps and score say nothing)."""
    if process is FLOW and prediction in ("eps", "score"):
        with pytest.raises(dc.IncompatibleError, match="says nothing about x_0"):
            GOLDEN.field(process, prediction)
        return
    x, grid = starts(process), window(process, 7)
    want = dc.sample(GOLDEN.field(process, "x0"), solver, x, grid=grid).x
    assert float((dc.sample(GOLDEN.field(process, prediction), solver, x, grid=grid).x - want).abs().max()) < 1e-10

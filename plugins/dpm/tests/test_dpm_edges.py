"""Orders and costs of every choice of points, corrector and start; pure noise is no node of a history."""

import itertools

import pytest
import torch
from diffcore_dpm.curves import _continued
from diffcore_dpm.deis import DEIS
from diffcore_dpm.exp_adams import ExpAdams
from diffcore_dpm.unipc import UniPC

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVP, golden_mixture

VP, FLOW, GOLDEN = ReferenceVP(), ReferenceFlow(), golden_mixture()
X = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
GRID = [0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.0]


@pytest.mark.parametrize(
    ("points", "corrector", "start"), list(itertools.product((1, 2, 3, 4), (False, True), ("ramp", "singlestep")))
)
def test_the_cost_of_a_start_is_what_it_says(points, corrector, start):
    """One evaluation a step; a singlestep start of points > 2 adds points + corrector - 2 <= 2 in each of points - 2 steps."""
    solver = ExpAdams(points=points, corrector=corrector, start=start)
    extra = (points - 2) * min(points + corrector - 2, 2) if start == "singlestep" and points > 2 else 0
    result = dc.sample(GOLDEN.field(VP, "v"), solver, X, grid=GRID)
    assert result.nfe == sum(map(len, solver.plan(VP, result.grid).asks)) == len(GRID) - 1 + extra
    assert solver.order == min(points + corrector, 4 if extra else 2 + corrector)


@pytest.mark.parametrize("variable", ["t", "rho"])
def test_pure_noise_is_no_node_of_the_history(variable):
    """From alpha = 0 on: the first evaluation is in no polynomial, the second step is DDIM's; later ones have their history."""
    plan = DEIS(degree=2, variable=variable).plan(FLOW, torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2], dtype=torch.float64))
    w1, w2 = plan.entries["w1"], plan.entries["w2"]
    assert w1[:2].tolist() == [0.0, 0.0]
    assert bool((w1[2:] != 0).all())
    assert w2[:3].tolist() == [0.0, 0.0, 0.0]
    assert float(w2[3]) != 0


@pytest.mark.parametrize("corrector", [False, True])
def test_the_order_of_unipc_is_that_of_its_first_steps(corrector):
    """They are of order 1 and 2 whatever comes after, and the corrector lifts them by one."""
    assert [UniPC(points=n, corrector=corrector).order for n in (1, 2, 3)] == [1 + corrector, 2 + corrector, 2 + corrector]


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_a_rise_to_pure_noise_ends_at_the_noise_that_the_polynomial_says(degree):
    """x_T = sigma_T e(T), e the polynomial through the predictions before: exact for one of that degree in t."""

    def velocity(x, t):
        eps = 0.3 - 2 * t**degree
        return eps - (x - t * eps) / (1 - t)  # x_0 = (x - t eps) / (1 - t)

    field = dc.Field(dc.Denoiser(lambda x, t: velocity(x, t[:, None]), "velocity", FLOW))
    grid = torch.tensor([0.3, 0.45, 0.6, 0.7, 0.85, 1.0], dtype=torch.float64)
    found = dc.sample(field, DEIS(degree=degree, variable="t"), X, grid=grid).x
    torch.testing.assert_close(found, torch.full_like(X, 0.3 - 2.0), rtol=1e-10, atol=0)


def test_statistics_of_all_signal_and_of_none_stay_so_beyond_the_table():
    """1 - l = 0 and 1 have odds 0 and infinity, and keep them however far lam is; 1/2 follows the logistic curve."""
    rest, beyond = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), torch.tensor([-800.0, 0.5, 800.0], dtype=torch.float64)
    found = _continued(rest[:, None], beyond)
    assert found[0].tolist() == [0.0] * 3
    assert found[2].tolist() == [1.0] * 3
    assert float(found[1, 1]) == pytest.approx(1 / (1 + 2.718281828459045**-1))

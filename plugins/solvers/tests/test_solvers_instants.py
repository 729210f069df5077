"""Processes whose times carry no coefficients: slopes are taken as far down as the network is asked, and no further."""

import pytest
import torch
from diffcore_solvers.heun import Heun
from diffcore_solvers.rk4 import RK4

import diffcore as dc


class Known:
    """What a network said."""

    def __init__(self, value):
        self.value = value

    def detach(self):
        return self


@dc.component
class Pulled(dc.Process):
    """dx/dt = what the network says, for t of 0.1 to 1."""

    provides = frozenset({"velocity", "flat"})
    predictions = ("velocity",)
    min_time = 0.1

    def posterior(self, x, out, at, reading):
        return Known(out)

    def velocity(self, x, at, posterior):
        return posterior.value


FIELD = dc.Field(dc.Denoiser(lambda x, t: x, "velocity", Pulled()))
X = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(("solver", "stages", "order"), [(Heun(), 2, 2), (RK4(), 4, 4)], ids=["heun", "rk4"])
def test_the_last_step_to_the_least_time_is_a_whole_one(solver, stages, order):
    """All stages also where a step ends at min_time, so the order holds: x exp(s - t) for dx/dt = x."""
    exact, errors = X * torch.exp(torch.tensor(0.1 - 1, dtype=torch.float64)), []
    for steps in (3, 6):
        result = dc.sample(FIELD, solver, X, grid=torch.linspace(1.0, 0.1, steps + 1, dtype=torch.float64))
        assert result.nfe == stages * steps
        errors.append(float((result.x - exact).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.2)


@pytest.mark.parametrize(("solver", "whole", "last"), [(Heun(), 2, 1), (RK4(), 4, 2)], ids=["heun", "rk4"])
def test_a_step_below_the_least_time_asks_nothing_there(solver, whole, last):
    grid = torch.tensor([1.0, 0.5, 0.1, 0.0], dtype=torch.float64)
    assert [len(times) for times in solver.plan(Pulled(), grid).asks] == [whole, whole, last]

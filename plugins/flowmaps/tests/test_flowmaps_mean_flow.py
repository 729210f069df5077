"""The MeanFlow map: identities of an exact flow map, and the way from a solver to a flow map and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffcore_flowmaps.mean_flow import MeanFlow

import diffcore as dc


def noise(n=50, shape=(3,)):
    return dc.Draw(4, range(n)).normal(shape, torch.float64)


@pytest.fixture
def model(process, exact, gauss):
    return dc.Denoiser(exact(gauss, process), "velocity", process)


def times(process, n=50):
    """s < u < t, (n,) each."""
    u = dc.Draw(6, range(n)).uniform((3,)).sort(1).values
    return (process.min_time + u * (process.T - process.min_time)).unbind(1)


def close(a, b, tol):
    assert float((a - b).abs().max()) < tol * max(1.0, float(b.abs().max()))


@pytest.mark.item("R16")
def test_is_the_flow_of_gaussian_data(process, model, gauss):
    s, _, t = times(process)
    x = noise()
    close(MeanFlow().map(model, x, t, s), gauss.flow(process, x, t, s), 1e-12)
    one = MeanFlow().map(model, x, process.T, process.min_time)
    close(one, gauss.flow(process, x, process.T, process.min_time), 1e-12)


def test_standing_still_is_the_identity_whatever_the_network(process):
    model = dc.Denoiser(lambda x, t, s=None: 1e6 + x**2, "velocity", process)
    x, t = noise(), times(process)[0]
    assert torch.equal(MeanFlow().map(model, x, t, t), x)
    assert torch.equal(MeanFlow().map(model, x, 0.5, 0.5), x)


def test_semigroup(process, model):
    """11.01: Psi_{u->s} Psi_{t->u} = Psi_{t->s}, and back again."""
    s, u, t = times(process)
    x, psi = noise(), MeanFlow().map
    close(psi(model, psi(model, x, t, u), u, s), psi(model, x, t, s), 1e-12)
    close(psi(model, psi(model, x, t, s), s, t), x, 1e-11)


def test_lagrangian_and_eulerian_equations(process, model, gauss):
    """11.23: d_s Psi = v(Psi, s) and d_t Psi + (d_x Psi) v(x, t) = 0."""
    s, _, t = times(process)
    x, one = noise(), torch.ones_like(t)

    def psi(x, t, s):
        return MeanFlow().map(model, x, t, s)

    there, along = torch.func.jvp(lambda s: psi(x, t, s), (s,), (one,))
    close(along, gauss.velocity(there, process.coeffs(s)), 1e-9)
    v = gauss.velocity(x, process.coeffs(t))
    residual = torch.func.jvp(lambda x, t: psi(x, t, s), (x, t), (v, one))[1]
    close(residual, torch.zeros_like(x), 1e-9 * float(v.abs().max()))


def test_agrees_with_the_consistency_trajectory_form(process, model):
    """11.15 and 11.22: g = x - t h gives the same map as (s/t) x + (1 - s/t) g, and g(x, t, t) = x - t v."""
    s, _, t = times(process)
    x, at = noise(), process.coeffs(t)
    g = x - t[:, None] * model.network(x, at, dc.Instant(s))
    ratio = (s / t)[:, None]
    close(ratio * x + (1 - ratio) * g, MeanFlow().map(model, x, t, s), 1e-14)
    still = x - t[:, None] * model.network(x, at, at)
    close(still, x - t[:, None] * model(x, t).velocity, 1e-14)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_any_number_of_jumps_is_one(process, model, gauss, steps):
    """11.21 through the solver `flow-map`: n steps cost n calls and end where one ends."""
    field, x = dc.Field(model, flow_map=MeanFlow()), noise()
    grid = torch.linspace(process.T, process.min_time, steps + 1, dtype=torch.float64)
    result = dc.sample(field, dc.FlowMapSolver(), x, grid=grid)
    close(result.x, gauss.flow(process, x, process.T, process.min_time), 1e-12)
    assert (result.nfe, result.calls) == (steps, steps)


@dc.component
class Euler(dc.Stepper):
    """x + (s - t) v."""

    requires = frozenset({"velocity", "flat"})

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, h=s.t - t.t)

    def step(self, field, x, row, carry, z):
        return dc.Moved(dc.lincomb((1, x), (row.h, field.velocity(x, row.t))))


class Wrapped(dc.FlowMap):
    """A function (x, t, s) as a flow map."""

    def __init__(self, psi: Any) -> None:
        self.psi = psi

    def map(self, model, x, t, s, **cond):
        return self.psi(x, t.t, s.t)


def test_solver_to_flow_map_to_solver(process, model):
    """Three jumps of 'four Euler steps' are twelve Euler steps."""
    field, x = dc.Field(model), noise()
    grid = torch.linspace(process.T, process.min_time, 13, dtype=torch.float64)
    psi = dc.flow_map_of(field, Euler(), steps=4)
    jumps = dc.Field(model, flow_map=Wrapped(psi))
    found = dc.sample(jumps, dc.FlowMapSolver(), x, grid=grid[::4]).x
    close(found, dc.sample(field, Euler(), x, grid=grid).x, 1e-12)
    assert psi(x, 0.5, 0.5) is x


def test_flow_map_to_solver_to_flow_map(process, model):
    field, x = dc.Field(model, flow_map=MeanFlow()), noise()
    psi = dc.flow_map_of(field, dc.FlowMapSolver(), steps=3)
    t, s = 0.9 * process.T, 0.3 * process.T
    close(psi(x, t, s), MeanFlow().map(model, x, t, s), 1e-12)


def test_the_solver_needs_a_flow_map(process, model):
    with pytest.raises(dc.IncompatibleError, match="needs 'flow_map'"):
        dc.sample(dc.Field(model), dc.FlowMapSolver(), noise())


def test_preconditioned_networks_are_read_the_same(process, exact, gauss):
    plain = dc.Denoiser(exact(gauss, process), "velocity", process)
    scaled = dc.Denoiser(exact(gauss, process, 0.7), dc.Reading("velocity", "feature", "unit", sigma_data=0.7), process)
    s, _, t = times(process)
    close(MeanFlow().map(scaled, noise(), t, s), MeanFlow().map(plain, noise(), t, s), 1e-12)


def test_conditions_reach_the_network(process, points):
    at = torch.tensor([[0.7, -1.2], [-0.4, 0.3], [0.0, 0.0]], dtype=torch.float64)
    model = dc.Denoiser(points(process, at), "velocity", process)
    x, label = noise(50, (2,)), torch.arange(50) % 3
    t, s = process.coeffs(torch.tensor([process.T, 0.4 * process.T], dtype=torch.float64)).at(0), 0.4 * process.T
    end = process.coeffs(torch.tensor(s, dtype=torch.float64))
    expected = end.alpha * at[label] + end.sigma / t.sigma * (x - t.alpha * at[label])
    close(MeanFlow().map(model, x, process.T, s, label=label), expected, 1e-12)

"""Conditional affine maps, the constant of flow matching on Gaussian data, and the adjoint of a neural ODE."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_flows.cnf import CNF, CNFModule, runge_kutta
from diffcore_flows.flow_matching import FlowMatching
from torch import nn

import diffcore as dc
from diffcore.testing import Gaussian, Oracle, ReferenceFlow, golden_mixture

F64 = torch.float64
FLOW = ReferenceFlow()
T1 = torch.tensor(1.0, dtype=F64)


# --- conditional affine maps: x_t = mu_t + A_t x_1 ----------------------------------------------------------------------

TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=F64)
SHAPE = torch.tensor([[0.3, 0.1], [-0.2, 0.5]], dtype=F64)
EYE = torch.eye(2, dtype=F64)


def matrix(t):
    """A_t: a rotation times a path of matrices; the identity at t = 1, not diagonal and not symmetric between."""
    return torch.linalg.matrix_exp((1 - t) * TURN) @ (t * EYE + (1 - t) * SHAPE)


def slope(t):
    """A'_t by hand."""
    return -TURN @ matrix(t) + torch.linalg.matrix_exp((1 - t) * TURN) @ (EYE - SHAPE)


def centre(t, x0):
    """mu_t: x_0 at t = 0, 0 at t = 1."""
    return (1 - t) ** 2 * x0


def velocity(x, t, x0):
    """mu' + A' A^-1 (x - mu), rows."""
    return -2 * (1 - t) * x0 + (x - centre(t, x0)) @ (slope(t) @ torch.linalg.inv(matrix(t))).T


@pytest.mark.item("5.14")
def test_the_velocity_of_an_affine_map_is_the_derivative_of_its_paths():
    """d/dt (mu_t + A_t x_1) at fixed x_1, for a matrix A_t that commutes with nothing: 1e-12."""
    x0, x1 = torch.tensor([0.7, -0.4], dtype=F64), dc.Draw(1, range(5)).normal((2,), F64)
    for t in (0.1, 0.5, 0.9):
        at = torch.tensor(t, dtype=F64)
        x = centre(at, x0) + x1 @ matrix(at).T
        want = torch.autograd.functional.jacobian(lambda u: centre(u, x0) + x1 @ matrix(u).T, at)
        assert float((velocity(x, at, x0) - want).abs().max()) < 1e-12


def carried(x, x0, start, end, steps=100):
    """The ODE of the conditional velocity by Runge-Kutta."""
    h = (end - start) / steps
    for i in range(steps):
        t = start + i * h
        k1 = velocity(x, t, x0)
        k2 = velocity(x + h / 2 * k1, t + h / 2, x0)
        k3 = velocity(x + h / 2 * k2, t + h / 2, x0)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(x + h * k3, t + h, x0))
    return x


@pytest.mark.item("5.14", "5.09")
def test_the_ode_carries_any_source_along_the_map():
    """From samples of a uniform, not Gaussian, source to mu_t + A_t x_1: 1e-8, to .05, as A_t may be singular at the data."""
    x0, x1 = torch.tensor([0.7, -0.4], dtype=F64), dc.Draw(2, range(6)).uniform((2,)).double()
    at = torch.tensor(0.05, dtype=F64)
    want = centre(at, x0) + x1 @ matrix(at).T
    assert float((carried(x1, x0, T1, at) - want).abs().max()) < 1e-8


@pytest.mark.item("5.09")
def test_the_velocity_of_a_gaussian_path():
    """(s'/s) (x - mu) + mu' for N(mu_t, s_t^2): its ODE is x -> mu_s + (s_s / s_t) (x - mu_t)."""
    x0, x = 0.6, torch.linspace(-2, 2, 5, dtype=F64)[:, None]

    class Curved(dc.AffineProcess):
        def coeffs(self, t):
            return dc.Coeffs(t, (1 - t) * (1 + t), t * (2 - t), -2 * t, 2 - 2 * t)

    process = dc.component(Curved)()
    for t in (0.2, 0.7):
        at = process.coeffs(torch.tensor(t, dtype=F64))
        point = Gaussian(x0, 1e-9, shape=(1,))
        want = at.dsigma / at.sigma * (x - at.alpha * x0) + at.dalpha * x0
        assert float((point.velocity(x, at) - want).abs().max()) < 1e-8
    end = process.coeffs(torch.tensor(0.1, dtype=F64))
    start = process.coeffs(T1 * 0.9)
    found = Oracle.flow(point, process, x, 0.9, 0.1, steps=200)
    want = end.alpha * x0 + end.sigma / start.sigma * (x - start.alpha * x0)
    assert float((found - want).abs().max()) < 1e-8


# --- the constant of flow matching --------------------------------------------------------------------------------------


@dc.component
class At(dc.TimeLaw):
    """One time for all samples."""

    t: float

    def __call__(self, process, draw):
        return torch.full((len(draw.ids),), self.t, dtype=F64)


@pytest.mark.item("5.06")
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_constant_of_flow_matching_on_gaussian_data(t):
    """E|eps - x_0|^2 - E|v*|^2 = 1 + d^2 + m^2 - E|v*|^2 is what the loss of the exact velocity is, at every time (4.5 s.e.)."""
    m, d, n = 0.4, 0.6, 20_000
    data, draw = Gaussian(m, d, shape=(1,)), dc.Draw(5, range(n), block=n)
    x0, loss = data.sample(n, dc.Draw(6, range(n), block=n)), FlowMatching(time_law=At(t=t))
    spread = (1 - t) ** 2 * d**2 + t**2
    energy = m**2 + (t - (1 - t) * d**2) ** 2 / spread  # v* = -m + (t - (1 - t) d^2) (x - (1 - t) m) / V
    for field, want in ((data.denoiser(FLOW, "velocity"), 1 + d**2 + m**2 - energy), (nothing(), 1 + d**2 + m**2)):
        found = loss(field, x0, draw)
        assert abs(float(found.mean()) - want) < 4.5 * float(found.std()) / n**0.5


def nothing():
    return dc.Denoiser(lambda x, t: 0 * x, "velocity", FLOW)


# --- the adjoint --------------------------------------------------------------------------------------------------------


class Bent(nn.Module):
    """v(x, t) = tanh(x W + t c)."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[0.6, -0.8], [0.5, 0.3]], dtype=F64))
        self.c = nn.Parameter(torch.tensor([0.4, -0.7], dtype=F64))

    def forward(self, x, t, **cond):
        return torch.tanh(x @ self.w + t[:, None] * self.c)


def slope_with_divergence(net, x, t):
    """v and div v, written out: d tanh / dx = 1 - tanh^2."""
    v = net(x, t)
    return v, ((1 - v**2) * net.w.diagonal()).sum(1)


@pytest.mark.item("5.04")
def test_the_gradient_of_the_likelihood_solves_the_adjoint_ode():
    """a = dl/dx_t obeys a' = -d_x (a.v + div v) and dl/dtheta = int d_theta (a.v + div v) dt: integrated from noise to data.

    Equal to automatic differentiation through the Runge-Kutta steps of `cnf`, 1e-6, for a field that is not linear.
    """
    net = Bent()
    mlp = dc.Registry.load().make("network", "mlp", width=8, depth=1)
    flow, x = CNFModule(CNF(velocity=mlp, steps=40), net, {}), dc.Draw(3, range(4)).normal((2,), F64)
    zero = torch.zeros(4, dtype=F64)
    want = torch.autograd.grad(flow.log_prob(x, zero).sum(), [net.w, net.c])

    with torch.no_grad():
        end = flow.normalise(x, zero)[0]
    size = [p.numel() for p in net.parameters()]

    def backwards(u, state):
        """From t = 1: the state (x_t, a), flattened, and dl/dtheta."""
        y, a = (v.detach() for v in state[0].chunk(2))
        y.requires_grad_()
        with torch.enable_grad():
            v, spread = slope_with_divergence(net, y, torch.full((4,), 1 - u, dtype=F64))
            pull = torch.autograd.grad((a * v).sum() + spread.sum(), [y, *net.parameters()])
        return torch.cat([-v.detach(), pull[0]]), torch.cat([p.flatten() for p in pull[1:]])

    first = torch.cat([end, -end])  # d/dz log N(z; 0, I) = -z
    back, found = runge_kutta(backwards, (first, torch.zeros(sum(size), dtype=F64)), 40)
    assert float((back[:4] - x).abs().max()) < 1e-7
    for mine, theirs in zip(found.split(size), want, strict=True):
        assert float((mine - theirs.flatten()).abs().max()) < 1e-6
        assert float(theirs.abs().max()) > 0.1


@pytest.mark.item("5.05")
def test_the_density_changes_along_a_path_by_the_divergence():
    """d log p(x_t) / dt = -div v on the mixture, by central differences along the exact flow: 1e-5."""
    data, x, h = golden_mixture(), torch.linspace(-1.5, 1.5, 7, dtype=F64)[:, None], 1e-4
    logs = []
    for t in (0.4 - h, 0.4 + h):
        y = data.flow(FLOW, x, 0.4, t)
        logs.append(data.log_prob(y, FLOW.coeffs(torch.tensor(t, dtype=F64))))
    y = x.clone().requires_grad_()
    v = data.velocity(y, FLOW.coeffs(torch.tensor(0.4, dtype=F64)))
    (spread,) = torch.autograd.grad(v.sum(), y)
    assert float(((logs[1] - logs[0]) / (2 * h) + spread[:, 0]).abs().max()) < 1e-5
    assert float(spread.abs().max()) > math.exp(-1)

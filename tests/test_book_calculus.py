"""Facts of the book's appendices that no component computes, as small numerical proofs (Lai et al. 2025, appendices A-D)."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import diffcore as dc
from diffcore.testing import REFERENCES, Gaussian, Oracle, golden_mixture, instant

DOUBLE = torch.float64
PROCESSES = pytest.mark.parametrize("process", REFERENCES, ids=lambda p: type(p).__name__)
LINE = torch.linspace(-9, 9, 6001, dtype=DOUBLE)


def integral(values):
    return float(torch.trapezoid(values, LINE))


def slope_of(f, x=LINE):
    """f' on the nodes, by automatic differentiation."""
    y = x.clone().requires_grad_()
    return torch.autograd.grad(f(y).sum(), y)[0]


def steps_of(n, paths=4000, seed=3):
    """Increments of n steps of Brownian motion on [0, 1], (paths, n)."""
    return dc.Draw(seed, range(paths), block=paths).normal((n,), DOUBLE) / n**0.5


def near(values, want, sigmas=4.0):
    """The mean is `want` within this many standard errors."""
    error = float(values.std()) / len(values) ** 0.5
    assert error > 0
    assert abs(float(values.mean()) - want) < sigmas * error, (float(values.mean()), want, error)


@pytest.mark.item("A1")
@PROCESSES
def test_paths_of_an_ode_do_not_cross(process):
    """Sixty-one paths of the mixture's flow, by Runge-Kutta: their order at the start is their order at every later time."""
    data, x = golden_mixture(), torch.linspace(-3, 3, 61, dtype=DOUBLE)[:, None]
    for t, s in pairwise([0.9, 0.5, 0.1, 0.01]):
        x = Oracle.flow(data, process, x, t * process.T, s * process.T, steps=100)
        assert float(x.diff(dim=0).min()) > 0


@pytest.mark.item("A1")
def test_without_a_lipschitz_constant_paths_meet():
    """x' = x^(2/3) has both x = 0 and x = (t / 3)^3 from the same start."""
    t = torch.linspace(0, 3, 31, dtype=DOUBLE)
    for x, rate in ((0 * t, 0 * t), ((t / 3) ** 3, (t / 3) ** 2)):
        assert float((rate - x ** (2 / 3)).abs().max()) < 1e-14
        assert float(x[0]) == 0


@pytest.mark.item("A4")
def test_the_ito_isometry():
    """E (int psi dW)^2 = int psi^2 dt: psi = sin(3 t), and psi = W_t itself, where E int W^2 dt = 1/2 (1 - 1/n)."""
    n = 256
    dw, t = steps_of(n), torch.arange(n, dtype=DOUBLE) / n
    near(((torch.sin(3 * t) * dw).sum(1)) ** 2, float((torch.sin(3 * t) ** 2).mean()))
    before = dw.cumsum(1) - dw
    near((before * dw).sum(1) ** 2, 0.5 * (1 - 1 / n))


@pytest.mark.item("A4")
def test_strong_order_of_euler_maruyama():
    """dX = X dW: root mean square error at 1 against exp(W - 1/2) of slope 1/2; additive noise (dX = -X dt + dW): slope 1."""
    fine, drift, spread = steps_of(1024), [], []
    counts = (16, 32, 64)
    for n in counts:
        dw = fine.reshape(len(fine), n, -1).sum(2)
        spread.append(float(((1 + dw).prod(1) - (fine.sum(1) - 0.5).exp()).square().mean().sqrt()))
        exact = (fine * torch.exp((torch.arange(1024, dtype=DOUBLE) + 0.5) / 1024 - 1)).sum(1)
        factor = (1 - 1 / n) ** torch.arange(n - 1, -1, -1, dtype=DOUBLE)
        drift.append(float((factor * dw).sum(1).sub(exact).square().mean().sqrt()))
    for found, order in ((spread, 0.5), (drift, 1.0)):
        assert abs(math.log2(found[0] / found[-1]) / 2 - order) < 0.15, found


@pytest.mark.item("B1")
def test_the_determinant_of_a_short_step_is_its_divergence():
    """det(I + dt A) = 1 + dt tr A + O(dt^2): the remainder over dt^2 tends to (tr(A)^2 - tr(A^2)) / 2."""
    a = dc.Draw(1, range(4)).normal((4,), DOUBLE)
    want = float((a.trace() ** 2 - (a @ a).trace()) / 2)
    for dt, tolerance in ((1e-2, 0.1), (1e-3, 0.01)):
        rest = float(torch.linalg.det(torch.eye(4, dtype=DOUBLE) + dt * a) - 1 - dt * a.trace()) / dt**2
        assert abs(rest - want) < tolerance * (1 + abs(want))


DATA, START = golden_mixture(), Gaussian(0.4, 0.8, shape=(1,))


def moved(velocity, h):
    """The density of START after x -> x + h v(x), on the nodes."""
    y = LINE.clone()
    for _ in range(60):
        y = LINE - h * velocity(y)
    return (START.log_prob(y[:, None]) - (1 + h * slope_of(velocity, y)).log()).exp()


@pytest.mark.item("B3")
@pytest.mark.parametrize("which", ["reverse", "forward"])
def test_steepest_descent_of_a_divergence_in_the_wasserstein_metric(which):
    """v = -grad(dF/dp): grad log(p_data / p) for KL(p || p_data), grad(p_data / p) for KL(p_data || p).

    Along it dF/dt = -E_p |v|^2, the rate of a gradient flow, by central differences of the moved density.
    """

    def ratio(x):
        log = DATA.log_prob(x[:, None]) - START.log_prob(x[:, None])
        return (log if which == "reverse" else log.exp()) * (x.abs() < 8)

    def velocity(x):
        return (
            slope_of(ratio, x.detach()) if not x.requires_grad else torch.autograd.grad(ratio(x).sum(), x, create_graph=True)[0]
        )

    def value(p):
        data = DATA.log_prob(LINE[:, None])
        return integral(p * (p.log() - data)) if which == "reverse" else integral(data.exp() * (data - p.log()))

    h = 1e-4
    rate = (value(moved(velocity, h)) - value(moved(velocity, -h))) / (2 * h)
    energy = integral(START.log_prob(LINE[:, None]).exp() * velocity(LINE) ** 2)
    assert energy > 0.01
    assert abs(rate / energy + 1) < 1e-4


@pytest.mark.item("C1")
def test_itos_formula():
    """d(X^2) = 2 X dX + s^2 dt: the sum of squared steps is s^2 t, so E X_t^2 = s^2 t, and X^2 is not 2 int X dX."""
    n, s = 512, 0.7
    dx = s * steps_of(n)
    before = dx.cumsum(1) - dx
    end, chain = dx.sum(1) ** 2, 2 * (before * dx).sum(1)
    assert float((end - chain - (dx**2).sum(1)).abs().max()) < 1e-12
    near(end, s**2)
    near(chain, 0.0)
    near(end - chain, s**2)
    assert float((end - chain).std()) < 2 * s**2 * (2 / n) ** 0.5


@pytest.mark.item("C1")
def test_itos_product_rule():
    """E d(X Y) = a b dt for dX = a dW, dY = b dW on one motion; 0 on two."""
    one, other = steps_of(64), steps_of(64, seed=4)
    near(0.7 * one.sum(1) * 1.3 * one.sum(1), 0.7 * 1.3)
    near(0.7 * one.sum(1) * 1.3 * other.sum(1), 0.0)


@pytest.mark.item("D3")
@pytest.mark.parametrize("h", [lambda z: z**3 - z, torch.sin, lambda z: torch.exp(0.5 * z)], ids=["cubic", "sine", "exponential"])
def test_steins_identity(h):
    """E[z h(z)] = E h'(z) for z ~ N(0, 1), by Gauss-Hermite quadrature, 1e-12."""
    nodes, weights = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(40))
    assert abs(float((weights * (nodes * h(nodes) - slope_of(h, nodes))).sum())) < 1e-12


@pytest.mark.item("D3")
@PROCESSES
def test_the_noise_has_the_score_of_its_kernel(process):
    """E[phi(x_t) eps] = sigma E phi'(x_t) (Stein), so E[eps | x_t] = -sigma score: phi = sin, by quadrature."""
    at = instant(process, 0.3 * process.T)
    x = LINE * (1 + float(at.sigma))
    p = DATA.log_prob(x[:, None], at).exp()
    noise, slope = DATA.eps(x[:, None], at)[:, 0], torch.cos(x)
    left, right = (float(torch.trapezoid(p * v, x)) for v in (torch.sin(x) * noise, at.sigma * slope))
    assert abs(right) > 1e-3
    assert abs(left - right) < 1e-9

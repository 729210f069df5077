"""Strong and weak orders on Gaussian data, exactly: a run is an affine map of its start and its noises, so nothing is sampled.

Weak: mean and variance of the samples. Strong: E |x_N - x|^2 against the solution of the SDE on the same Brownian path. With
data N(m, c^2) the SDE of noise rate eta has, for y = (x / sigma) e^(eta lam) on the clock q = e^(2 eta lam), the solution

    y_s - mean = K(t) (y_t - mean) + int K(r) dB(q_r),    K(r) = ((1 + c^2 e^(2 lam_s)) / (1 + c^2 e^(2 lam_r)))^((1 + eta) / 2)

and a step answers to dB with (w_1 + w_2 sqrt 12 ((q_end - q) / l - 1/2)) / sqrt l for its two noises z_1, z_2 (length l): the
difference of the two kernels is integrated by Gauss's rule.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffcore_sde_solvers.brownian import Brownian
from diffcore_sde_solvers.euler_maruyama_lam import EulerMaruyamaLam
from diffcore_sde_solvers.ode_ancestral import ODEAncestral
from diffcore_sde_solvers.seeds import NODES, SEEDS
from diffcore_sde_solvers.sra1 import SRA1
from diffcore_sde_solvers.stochastic_heun import StochasticHeun

import diffcore as dc
from diffcore.testing import Gaussian, Mixture, ReferenceFlow, ReferenceVE, ReferenceVP, instant
from diffcore.testing.driving import drive, exact_moments, lam_grid, slope

PROCESSES = [ReferenceVP(), ReferenceFlow(), ReferenceVE()]
MEAN, STD = 0.5, 0.4
GAUSS = Gaussian(MEAN, STD, shape=(1,))
POINTS, WEIGHTS = (v.tolist() for v in np.polynomial.legendre.leggauss(8))
process_ids = [type(p).__name__ for p in PROCESSES]


def levels(process, nodes):
    return process.coeffs(nodes).lam.tolist()


def impulse_response(solver, process, nodes):
    """The weights of x_N on the start and on the noises [N, k], and its constant."""
    z = solver.draws(process, torch.zeros(1, 1), dc.Draw(0, range(1)))
    count, steps = len(z) if isinstance(z, tuple) else 1, len(nodes) - 1
    inputs = torch.cat([torch.zeros(1, 1 + count * steps), torch.eye(1 + count * steps)]).double()

    def noise(i, x):
        parts = tuple(inputs[:, 1 + count * i + k][None].clone() for k in range(count))
        return parts if isinstance(z, tuple) else parts[0]

    field, x = Gaussian(MEAN, STD, shape=(2 + count * steps,)).field(process), inputs[:, 0][None].clone()
    for moment in drive(solver, field, x, nodes, noise):
        x = moment.after
    return float(x[0, 1] - x[0, 0]), (x[0, 2:] - x[0, 0]).reshape(steps, count).tolist(), float(x[0, 0])


def kernel(lam, end, eta):
    return ((1 + STD**2 * math.exp(2 * end)) / (1 + STD**2 * math.exp(2 * lam))) ** ((1 + eta) / 2)


def strong_error(solver, process, nodes):
    """sqrt(E |x_N - x|^2) / (standard deviation of x), exactly. The solver's clock is e^(2 power lam)."""
    start, noises, rest = impulse_response(solver, process, nodes)
    lam, eta, power = levels(process, nodes), solver.eta, getattr(solver, "clock", solver.eta)
    a, b = instant(process, float(nodes[0])), instant(process, float(nodes[-1]))
    end = lam[-1]
    flow = float(b.sigma / a.sigma) * math.exp(eta * (lam[0] - end)) * kernel(lam[0], end, eta)
    spread = float(a.alpha**2 * STD**2 + a.sigma**2)
    total = (start - flow) ** 2 * spread + (rest + start * float(a.alpha) * MEAN - float(b.alpha) * MEAN) ** 2
    for (low, high), weights in zip(pairwise(lam), noises, strict=True):
        cuts = [low + r * (high - low) for r in (0.0, *NODES[solver.stages], 1.0)] if power < 0 else [low, high]
        for k, (here, there) in enumerate(pairwise(cuts)):
            q0, q1 = math.exp(2 * power * here), math.exp(2 * power * there)
            length = abs(q1 - q0)
            for point, w in zip(POINTS, WEIGHTS, strict=True):
                q = q0 + (q1 - q0) * (1 + point) / 2
                at = math.log(q) / (2 * power)
                own = weights[k] if power < 0 else weights[0]
                if power > 0 and len(weights) == 2:
                    own += weights[1] * 12**0.5 * ((q1 - q) / (q1 - q0) - 0.5)
                scale = float(b.sigma) * kernel(at, end, eta)
                want = scale * (math.exp(-eta * end) if power > 0 else eta**0.5 * math.exp((1 + eta) * at - eta * end))
                total += w / 2 * length * (own / length**0.5 - want) ** 2
    return (total / float(b.alpha**2 * STD**2 + b.sigma**2)) ** 0.5


def weak_error(solver, process, nodes):
    found, b = exact_moments(solver, process, GAUSS, nodes), instant(process, float(nodes[-1]))
    variance = float(b.alpha**2 * STD**2 + b.sigma**2)
    return max(abs(found.variance / variance - 1), abs(found.mean - float(b.alpha) * MEAN) / variance**0.5)


def ids(solver):
    return f"{type(solver).__name__}{getattr(solver, 'stages', '')}-{solver.eta}"


WEAK = [
    (EulerMaruyamaLam(), 1),
    (EulerMaruyamaLam(eta=0.0), 1),
    (StochasticHeun(), 2),
    (StochasticHeun(eta=0.5), 2),
    (SRA1(), 2),
    (SRA1(eta=0.5), 2),
    (SRA1(eta=2.0), 2),
    (SEEDS(stages=1), 1),
    (SEEDS(), 2),
    (SEEDS(eta=0.5), 2),
    (SEEDS(stages=3), 2),
    (ODEAncestral(), 2),
    (ODEAncestral(eta=0.5), 2),
    (ODEAncestral(of=SEEDS(stages=1, eta=0.0)), 1),
]
STRONG = [
    (EulerMaruyamaLam(), 1),
    (EulerMaruyamaLam(eta=0.5), 1),
    (StochasticHeun(), 1),
    (StochasticHeun(eta=0.5), 1),
    (SEEDS(stages=1), 1),
    (SEEDS(), 1),
    (SEEDS(eta=0.5), 1),
    (SEEDS(stages=3), 1),
    (SRA1(), 2),
    (SRA1(eta=0.5), 2),
    (SRA1(eta=2.0), 2),
]


@pytest.mark.parametrize(("solver", "order"), WEAK, ids=lambda v: ids(v) if isinstance(v, dc.Solver) else "")
@pytest.mark.parametrize("process", PROCESSES, ids=process_ids)
def test_weak_order(process, solver, order):
    """Relative errors of mean and variance over 80, 160, 320 steps from .6 T to .05 T: the slope within .15 (SEEDS-1: .25)."""
    counts = [80, 160, 320]
    errors = [weak_error(solver, process, lam_grid(process, 0.6, 0.05, n)) for n in counts]
    tolerance = 0.25 if getattr(solver, "stages", 0) == 1 else 0.15
    assert abs(slope(counts, errors) - order) < tolerance, errors
    assert errors[-1] < 0.02


@pytest.mark.item("A4")
@pytest.mark.parametrize(("solver", "order"), STRONG, ids=lambda v: ids(v) if isinstance(v, dc.Solver) else "")
@pytest.mark.parametrize("process", PROCESSES, ids=process_ids)
def test_strong_order(process, solver, order):
    """The exact root mean square error over 40, 80, 160 steps: the slope within .1. (SRA1 gains 1/2 on linear drifts.)"""
    counts = [40, 80, 160]
    errors = [strong_error(solver, process, lam_grid(process, 0.6, 0.05, n)) for n in counts]
    assert abs(slope(counts, errors) - order) < 0.1, errors
    assert errors[-1] < 0.03


def test_the_strong_error_of_a_path_is_the_computed_one():
    """2048 coordinates on one path each: their root mean square distance to the solution by 512 steps, within 8% (4 s.e.)."""
    solver, grid = StochasticHeun(), lam_grid(PROCESSES[0], 0.6, 0.05, 10)
    wide, at = Gaussian(MEAN, STD, shape=(512,)), instant(PROCESSES[0], 0.6)
    x = at.alpha * wide.sample(4) + at.sigma * dc.Draw(1, range(4)).normal((512,), torch.float64)
    field = wide.field(PROCESSES[0])
    coarse = dc.sample(field, Brownian(of=solver), x, grid=grid, seed=3).x
    fine = dc.sample(field, Brownian(of=SRA1()), x, grid=lam_grid(PROCESSES[0], 0.6, 0.05, 160), seed=3).x
    b = instant(PROCESSES[0], 0.05)
    spread = float(b.alpha**2 * STD**2 + b.sigma**2) ** 0.5
    assert float(((coarse - fine) ** 2).mean().sqrt()) / spread == pytest.approx(
        strong_error(solver, PROCESSES[0], grid), rel=0.08
    )


SOFT = Mixture([0.4, 0.6], [[-0.7], [0.6]], [0.5, 0.35])
REACH, DEGREE = 5.0, 80
NODES_X = REACH * torch.cos(math.pi * torch.arange(DEGREE + 1, dtype=torch.float64) / DEGREE)
SIGNS = torch.tensor([(-1.0) ** k * (0.5 if k in (0, DEGREE) else 1.0) for k in range(DEGREE + 1)], dtype=torch.float64)


def interpolated(values, x):
    """The polynomial of these values at the Chebyshev nodes, by the barycentric formula."""
    gap = x.clamp(-REACH, REACH)[:, None] - NODES_X
    weight = SIGNS / torch.where(gap.abs() < 1e-13, 1e-13, gap)
    return (weight @ values) / weight.sum(1)


def expectation(solver, process, nodes, points):
    """E cos(1.5 x_N) for x_0 from the exact marginal: u_n(x) = E u_(n+1)(step(x, z)) backwards, by Gauss's rules."""
    z, w = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(points))
    kind = solver.draws(process, torch.zeros(1, 1), dc.Draw(0, range(1)))
    count = len(kind) if isinstance(kind, tuple) else 1
    grid = torch.cartesian_prod(*[z] * count).reshape(-1, count)
    weights = torch.cartesian_prod(*[w / w.sum()] * count).reshape(-1, count).prod(1)
    field, x = SOFT.field(process), NODES_X.repeat(len(grid))[:, None]
    noises = tuple(grid[:, k].repeat_interleave(DEGREE + 1)[:, None] for k in range(count))
    value = torch.cos(1.5 * NODES_X)
    for row in reversed(solver.plan(process, nodes).rows(field, x)):
        ahead = solver.step(field, x, row, solver.init(x), noises if isinstance(kind, tuple) else noises[0]).x
        value = weights @ interpolated(value, ahead[:, 0]).reshape(len(grid), -1)
    return average(interpolated, value, process, nodes[0])


def average(rule, value, process, t):
    """The integral of a function over the exact marginal at t."""
    at, y = instant(process, float(t)), torch.linspace(-REACH, REACH, 2001, dtype=torch.float64)
    density = SOFT.log_prob(y[:, None], at).exp()
    return float((density * rule(value, y)).sum() * (y[1] - y[0]))


@pytest.mark.parametrize(
    ("solver", "order", "points"),
    [
        (EulerMaruyamaLam(), 1, 9),
        (StochasticHeun(), 2, 9),
        (SRA1(), 2, 7),
        (SEEDS(stages=1), 1, 9),
        (SEEDS(), 2, 7),
        (SEEDS(stages=3), 2, 5),
        (ODEAncestral(), 2, 9),
    ],
    ids=lambda v: ids(v) if isinstance(v, dc.Solver) else "",
)
def test_weak_order_on_a_mixture(solver, order, points):
    """The error of E cos(1.5 x) under VP over 40, 80, 160 steps, by quadrature in place of samples: the slope within .25."""
    process, counts = PROCESSES[0], [40, 80, 160]
    want = average(lambda _, y: torch.cos(1.5 * y), None, process, 0.05)
    errors = [abs(expectation(solver, process, lam_grid(process, 0.6, 0.05, n), points) - want) for n in counts]
    assert abs(slope(counts, errors) - order) < 0.25, errors

"""Ancestral steps and restarts: the jumps keep the marginals exactly, and what is left is the ODE solver's error."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_sde_solvers.euler_maruyama_lam import EulerMaruyamaLam
from diffcore_sde_solvers.ode_ancestral import ODEAncestral
from diffcore_sde_solvers.restart import Interval, Restart
from diffcore_sde_solvers.seeds import SEEDS
from diffcore_sde_solvers.stochastic_heun import StochasticHeun

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant
from diffcore.testing.driving import lam_grid, slope

VP, FLOW, VE = ReferenceVP(), ReferenceFlow(), ReferenceVE()
PROCESSES = [VP, FLOW, VE]
MEAN, STD = 0.5, 0.4
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
DDIM = SEEDS(stages=1, eta=0.0)


@dc.component
class Exact(dc.Stepper):
    """The flow of Gaussian data itself."""

    requires = frozenset({"affine"})

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, end=s)

    def step(self, field, x, row, carry, z):
        field.posterior(x, row.t)
        return dc.Moved(Gaussian(MEAN, STD, shape=(x.shape[1],)).moved(x, row.t, row.end))


@dc.component
class Remembers(Exact):
    def init(self, x):
        return (x,)


class Impulses:
    """Noise whose draw number j is the j-th unit vector: a run then reads off its own linear map."""

    def __init__(self, width):
        self.width, self.count = width, 0

    def at(self, index):
        return self

    def fold(self, *keys):
        return self

    def normal_like(self, x):
        self.count += 1
        unit = torch.zeros(1, self.width, dtype=torch.float64)
        unit[0, 1 + self.count] = 1
        return unit


def moments(process, solver, nodes, draws, start=(0.0, 1.0)):
    """Mean and variance of the samples of a run from x_T whose mean is off by start[0], its variance by the factor start[1]."""
    width, a = draws + 2, instant(process, float(nodes[0]))
    x, noise = torch.zeros(1, width, dtype=torch.float64), Impulses(width)
    x[0, 1] = 1
    *_, last = solver.frames(Gaussian(MEAN, STD, shape=(width,)).field(process), x, nodes, noise)
    assert noise.count == draws
    weights = last.x[0, 1:] - last.x[0, 0]
    mean = last.x[0, 0] + weights[0] * (a.alpha * MEAN + start[0])
    return float(mean), float(weights[0] ** 2 * (a.alpha**2 * STD**2 + a.sigma**2) * start[1] + (weights[1:] ** 2).sum())


def exact(process, t):
    b = instant(process, t)
    return float(b.alpha) * MEAN, float(b.alpha) ** 2 * STD**2 + float(b.sigma) ** 2


@every_process
@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_ancestral_steps_of_the_exact_flow_keep_the_marginals(process, eta):
    """From T to 0 in four steps: mean and variance of the data, to rounding."""
    nodes = torch.tensor([0.95, 0.6, 0.3, 0.05, 0.0], dtype=torch.float64) * process.T
    got = moments(process, ODEAncestral(of=Exact(), eta=eta), nodes, 3)
    assert got == pytest.approx(exact(process, 0.0), rel=1e-9)


@every_process
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ancestral_steps_of_ddim_are_the_ddim_family(process, eta):
    """x_s = alpha_s x* + sqrt(sigma_s^2 - c^2) e + c z, c = eta sigma_s sqrt(1 - rho_s^2 / rho_t^2); eta = 1 is `reverse`."""
    data, x = golden_mixture(), torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    t, s = 0.6 * process.T, 0.3 * process.T
    a, b = instant(process, t), instant(process, s)
    field = data.field(process)
    got = dc.sample(field, ODEAncestral(of=DDIM, eta=eta), x, grid=[t, s], seed=4).x
    z = process.noise.like(x, dc.Draw(4, range(5)).at(1))
    c = eta * b.sigma * (1 - (b.sigma * a.alpha / (b.alpha * a.sigma)) ** 2) ** 0.5
    want = b.alpha * data.mean(x, a) + (b.sigma**2 - c**2) ** 0.5 * data.eps(x, a) + c * z
    assert float((got - want).abs().max()) < 1e-12
    if eta == 1:
        assert float((got - process.reverse(x, a, b, field.posterior(x, a), z)).abs().max()) < 1e-12


def test_levels_down_and_up_under_ve():
    """k-diffusion: sigma_up^2 = sigma_s^2 (sigma_t^2 - sigma_s^2) / sigma_t^2, sigma_down^2 = sigma_s^2 - sigma_up^2."""
    t, s = 4.0, 2.5
    plan = ODEAncestral().plan(VE, torch.tensor([t, s], dtype=torch.float64))
    up = s**2 * (t**2 - s**2) / t**2
    assert float(plan.noise) == pytest.approx(math.sqrt(up), rel=1e-12)
    assert float(plan.flat["inner.u"].t) == pytest.approx(math.sqrt(s**2 - up), rel=1e-12)


def test_levels_under_flow_matching():
    """alpha_s / alpha_d rescales: (1 - s) / (1 - d) with d / (1 - d) = (s / (1 - s))^2 (1 - t) / t at eta = 1."""
    t, s = 0.7, 0.4
    plan = ODEAncestral().plan(FLOW, torch.tensor([t, s], dtype=torch.float64))
    ratio = (s / (1 - s)) ** 2 * (1 - t) / t
    d = ratio / (1 + ratio)
    assert float(plan.entries["rise"]) == pytest.approx((1 - s) / (1 - d), rel=1e-12)
    assert float(plan.noise) == pytest.approx(math.sqrt(s**2 - ((1 - s) / (1 - d) * d) ** 2), rel=1e-12)


def test_the_network_is_not_asked_below_its_smallest_time():
    class Floor(ReferenceVP):
        @property
        def min_time(self):
            return 0.01

    process, data = Floor(), golden_mixture()
    field = data.field(process)
    nodes = torch.tensor([1.0, 0.3, 0.02, 0.01, 0.0], dtype=torch.float64)
    dc.sample(field, ODEAncestral(), torch.ones(2, 1).double(), grid=nodes)
    assert min(field.base.net.seen) == pytest.approx(0.01, abs=1e-15)


@every_process
def test_restarts_of_the_exact_flow_keep_the_marginals(process):
    """Two intervals, three jumps in all, one of them to pure noise: mean and variance of the data, to rounding."""
    rho = [float(c.sigma / c.alpha) for c in (instant(process, f * process.T) for f in (0.2, 0.6))]
    intervals = (Interval(low=rho[0], high=rho[1], repeats=2, steps=2), Interval(low=rho[0] / 3, high=1e9, repeats=1, steps=3))
    if process is FLOW:
        intervals = (intervals[0], Interval(low=rho[0] / 3, high=50.0, steps=3))
    nodes = torch.linspace(0.9, 0.0, 12, dtype=torch.float64) * process.T
    assert moments(process, Restart(of=Exact(), intervals=intervals), nodes, 3) == pytest.approx(exact(process, 0.0), rel=1e-9)


def interval(process, repeats, steps=8):
    low, high = (float(c.sigma / c.alpha) for c in (instant(process, f * process.T) for f in (0.15, 0.45)))
    return Interval(low=low, high=high, repeats=repeats, steps=steps)


@every_process
def test_restarts_contract_the_error_of_the_start(process):
    """An error of the mean shrinks by (alpha_h / alpha_l) sqrt(V_l / V_h) at every repeat, one of the variance by its square."""
    nodes = torch.tensor([0.7, 0.3, 0.15, 0.05], dtype=torch.float64) * process.T
    low, high = (instant(process, f * process.T) for f in (0.15, 0.45))
    spreads = [float(c.alpha**2 * STD**2 + c.sigma**2) for c in (low, high)]
    factor = float(high.alpha / low.alpha) * (spreads[0] / spreads[1]) ** 0.5
    off = []
    for repeats in (0, 1, 3):
        mean, variance = moments(
            process, Restart(of=Exact(), intervals=(interval(process, repeats),)), nodes, repeats, (0.3, 1.5)
        )
        truth = exact(process, 0.05 * process.T)
        off.append((mean - truth[0], variance - truth[1]))
    assert 0 < factor < 1
    for got, repeats in zip(off[1:], (1, 3), strict=True):
        assert got[0] / off[0][0] == pytest.approx(factor**repeats, rel=1e-8)
        assert got[1] / off[0][1] == pytest.approx(factor ** (2 * repeats), rel=1e-8)


@every_process
@pytest.mark.parametrize(
    ("of", "order"), [(StochasticHeun(eta=0.0), 2), (SEEDS(stages=3, eta=0.0), 3), (DDIM, 1)], ids=["heun", "seeds-3", "ddim"]
)
def test_samples_of_a_restart_have_the_order_of_its_solver(process, of, order):
    """Error of the variance with N and N / 2 steps per way down, N = 40, 80, 160: the slope within .15."""
    counts, errors = [40, 80, 160], []
    for n in counts:
        solver = Restart(of=of, intervals=(interval(process, 2, n // 2),))
        mean, variance = moments(process, solver, lam_grid(process, 0.6, 0.05, n), 2)
        truth = exact(process, 0.05 * process.T)
        errors.append(abs(variance / truth[1] - 1) + abs(mean - truth[0]) / truth[1] ** 0.5)
    assert abs(slope(counts, errors) - order) < 0.15, errors


def test_frames_and_cost_of_a_restart():
    """6 steps of Heun and 2 repeats of 4: one frame a node, the jumps counted where they happen, 2 x 14 evaluations."""
    field, nodes = golden_mixture().field(VP), lam_grid(VP, 0.8, 0.05, 6)
    rho = (-VP.coeffs(nodes).lam).exp()
    solver = Restart(intervals=(Interval(low=float(rho[4]) * 1.01, high=float(rho[2]), repeats=2, steps=4),))
    run = list(dc.frames(field, solver, torch.ones(3, 1).double(), grid=nodes, seed=1))
    assert [f.t for f in run] == nodes.tolist()
    assert [f.nfe for f in run] == [0, 2, 4, 6, 24, 26, 28]
    whole = dc.sample(field, solver, torch.ones(3, 1).double(), grid=nodes, seed=1)
    assert torch.equal(whole.x, run[-1].x)
    assert whole.nfe == 28


def test_no_interval_is_the_plain_solver():
    """Also one whose top is below every node, or with no repeats."""
    field, x, nodes = golden_mixture().field(VP), torch.ones(3, 1).double(), lam_grid(VP, 0.8, 0.2, 5)
    plain = dc.sample(field, StochasticHeun(eta=0.0), x, grid=nodes).x
    for intervals in ((), (Interval(low=1e-4, high=1e-3),), (Interval(low=0.5, high=2.0, repeats=0),)):
        assert torch.equal(dc.sample(field, Restart(intervals=intervals), x, grid=nodes).x, plain)


def test_an_interval_whose_top_is_its_only_node_does_nothing():
    """There is no way up from `high` to `high`: a restart is at a node below it."""
    field, x = golden_mixture().field(VE), torch.ones(3, 1).double()
    nodes = torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)
    plain = dc.sample(field, StochasticHeun(eta=0.0), x, grid=nodes)
    found = dc.sample(field, Restart(intervals=(Interval(low=0.5, high=1.0),)), x, grid=nodes)
    assert found.nfe == plain.nfe
    assert torch.equal(found.x, plain.x)


def test_refusals():
    uniform = dc.Registry.load().make("grid", "uniform")
    field, x = golden_mixture().field(VP), torch.ones(2, 1).double()
    for cls in (ODEAncestral, Restart):
        with pytest.raises(dc.SpecError, match="grid of its own"):
            cls(of=DDIM.__class__(grid=uniform))
        with pytest.raises(dc.SpecError, match="owns its loop"):
            cls(of=Restart())
        with pytest.raises(dc.SpecError, match="draws noise"):
            dc.sample(field, cls(of=EulerMaruyamaLam()), x, steps=3)
    with pytest.raises(dc.SpecError, match="remembers"):
        dc.sample(field, ODEAncestral(of=Remembers()), x, steps=3)
    with pytest.raises(dc.SpecError, match="low < high"):
        Interval(low=0.5, high=0.5)
    with pytest.raises(dc.SpecError, match="one time per step"):
        dc.sample(field, Restart(), x, grid=torch.tensor([[0.9, 0.8], [0.5, 0.4]]))
    with pytest.raises(dc.IncompatibleError, match="eager mode only"):
        dc.sample(field, Restart(), x, steps=3, mode="compile")

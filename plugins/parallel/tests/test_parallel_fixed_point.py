"""The fixed point is the sequential run, node j is reached after j sweeps, and the iterates are those of Picard."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_parallel.drift import Drift
from diffcore_parallel.paradigms import Paradigms
from diffcore_parallel.ranks import Ranks
from diffcore_parallel.window import Window

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture
from diffcore.testing.driving import lam_grid, slope

VP, FLOW, VE, GOLDEN = ReferenceVP(), ReferenceFlow(), ReferenceVE(), golden_mixture()
PROCESSES = [VP, FLOW, VE]
MAKE = dc.Registry.load().make
SEQUENTIAL = [
    ("euler", {}),
    ("ddim", {}),
    ("ddim", {"eta": 0.7}),
    ("heun", {}),
    ("rk4", {}),
    ("edm-heun", {"s_churn": 5.0}),
    ("ancestral", {}),
    ("euler-maruyama", {}),
]


def name(value):
    return type(value).__name__ if isinstance(value, dc.Process) else None


def starts(process, n=9):
    return float(process.coeffs(torch.tensor(process.T).double()).sigma) * torch.linspace(-2, 2, n, dtype=torch.float64)[:, None]


def gap(a, b):
    return float((a - b).abs().max())


@pytest.mark.item("9.21", "R25")
@pytest.mark.parametrize("window", [1, 3, 8, 100])
@pytest.mark.parametrize(("solver", "fields"), SEQUENTIAL)
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_without_tolerance_the_samples_are_the_sequential_ones(process, solver, fields, window):
    """To 1e-12, in at most N sweeps; the noise of a stochastic solver is that of its own run."""
    of, field, x = MAKE("solver", solver, **fields), GOLDEN.field(process, "v"), starts(process)
    alone = dc.sample(field, of, x, steps=12, seed=5)
    found = dc.sample(field, Paradigms(of=of, window=window, tolerance=0), x, steps=12, seed=5, keep_frames=True)
    assert gap(found.x, alone.x) < 1e-12
    assert int(found.frames[-1].own.max()) <= 12
    assert found.nfe >= alone.nfe


@pytest.mark.item("9.21", "R25")
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_the_left_rule_is_eulers_method_and_one_step_at_a_time_is_the_sequential_run(process):
    field, x, euler = GOLDEN.field(process, "v"), starts(process), MAKE("solver", "euler")
    alone = dc.sample(field, euler, x, steps=15)
    found = dc.sample(field, Paradigms(window=15, tolerance=0), x, steps=15)
    assert gap(found.x, alone.x) < 1e-12
    assert found.calls <= 15
    single = dc.sample(field, Paradigms(window=1, tolerance=0), x, steps=15)
    assert (single.calls, single.nfe) == (15, 15.0)
    assert gap(single.x, alone.x) < 1e-12


@pytest.mark.item("9.21", "R25")
@pytest.mark.parametrize("solver", ["ddim", "ancestral"])
def test_node_j_is_exact_after_j_sweeps(solver):
    of, field, x = MAKE("solver", solver), GOLDEN.field(VP, "v"), starts(VP)
    alone = list(dc.frames(field, of, x, steps=16, seed=2))
    found = list(dc.frames(field, Paradigms(of=of, window=16, tolerance=0), x, steps=16, seed=2))
    assert [f.t for f in found] == [f.t for f in alone]
    for j, (a, b) in enumerate(zip(alone, found, strict=True)):
        assert gap(a.x, b.x) < 1e-12
        assert int(b.own.max()) <= j or j == 0


@pytest.mark.item("9.21", "A3")
@pytest.mark.parametrize("rule", ["left", "trapezoid"])
def test_the_iterates_on_a_linear_field(rule):
    """x' = a x, step h, all nodes at x_0 at first. With z the shift from i to i + 1, x_j of sweep k is x_0 times

    sum_(m <= k) of (a h)^m times the m-fold sums of the rule: sum C(j, m) for the left rule. Here by the same sums in floats.
    """
    a, steps, x = -1.7, 10, torch.ones(1, 1).double()
    field = dc.Field(dc.Denoiser(lambda x, t: a * x, "velocity", FLOW))
    grid = torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64)
    window = Window.opened(field, Drift(rule, FLOW, grid, x), x, steps, torch.full((steps + 1,), -1.0).double(), Ranks())
    window.moves.explicit = torch.zeros(steps, dtype=torch.bool)  # no node is ever final: the window stays
    h = float(grid[1] - grid[0])
    expected = [1.0] * (steps + 1)
    for k in range(1, 7):
        window.sweep()
        ends = [(expected[i] + expected[i + 1]) / 2 if rule == "trapezoid" else expected[i] for i in range(steps)]
        expected = [1.0 + a * h * math.fsum(ends[:j]) for j in range(steps + 1)]
        for j in range(steps + 1):
            assert float(window.state(j)) == pytest.approx(expected[j], abs=1e-13)
            if rule == "left":
                closed = math.fsum(math.comb(j, m) * (a * h) ** m for m in range(k + 1))
                assert float(window.state(j)) == pytest.approx(closed, abs=1e-13)


def test_the_trapezoid_on_a_linear_field_is_the_cayley_map():
    """x_(i+1) = (1 + a h / 2) / (1 - a h / 2) x_i."""
    a, grid = 1.3, torch.linspace(0.9, 0.1, 9, dtype=torch.float64)
    field, x = dc.Field(dc.Denoiser(lambda x, t: a * x, "velocity", FLOW)), starts(FLOW, 3)
    h = float(grid[1] - grid[0])
    for window in (1, 3, 8):
        found = dc.sample(field, Paradigms(rule="trapezoid", window=window, tolerance=1e-13), x, grid=grid).x
        assert gap(found, x * ((1 + a * h / 2) / (1 - a * h / 2)) ** 8) < 1e-12


@pytest.mark.item("9.21")
@pytest.mark.parametrize(("rule", "order"), [("left", 1), ("trapezoid", 2)])
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_orders(process, rule, order):
    """Slope within .15 on the mixture, uniform in lam from .3 T to .01 T, iterated to 1e-10; the trapezoid on 40 to 160 steps."""
    counts, x = (40, 80, 160), process.coeffs(torch.tensor(0.3 * process.T).double()).alpha * starts(FLOW)
    want, errors = GOLDEN.flow(process, x, 0.3 * process.T, 0.01 * process.T), []
    for steps in counts:
        solver = Paradigms(rule=rule, window=40, tolerance=1e-10)
        errors.append(gap(dc.sample(GOLDEN.field(process), solver, x, grid=lam_grid(process, 0.3, 0.01, steps)).x, want))
    assert abs(slope(list(counts), errors) - order) < 0.15, errors


@pytest.mark.parametrize("process", [VP, FLOW], ids=name)
@pytest.mark.parametrize("rule", ["left", "trapezoid"])
def test_from_noise_to_clean_data_and_back(rule, process):
    """T to 0 lands within the step error of the exact flow; a rising grid retraces the way."""
    x, solver = starts(process, 5), Paradigms(rule=rule, window=60, tolerance=1e-8)
    found = dc.sample(GOLDEN.field(process, "v"), solver, x, steps=400).x
    assert float((found - GOLDEN.flow(process, x, process.T, 0.0)).abs().max()) < (0.05 if rule == "left" else 0.02)
    down = torch.linspace(0.8, 0.1, 201, dtype=torch.float64)
    data = dc.sample(GOLDEN.field(process, "v"), solver, x, grid=down).x
    again = dc.sample(GOLDEN.field(process, "v"), solver, data, grid=down.flip(0)).x
    assert gap(again, x) < (0.3 if rule == "left" else 1e-3)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_a_rising_grid_from_clean_data(process):
    """From t = 0, where the velocity of VP is singular, as Euler's method, which reads it next to 0."""
    grid = torch.linspace(0.0, 0.7, 9, dtype=torch.float64) * process.T
    field, x = GOLDEN.field(process, "v"), torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    alone = dc.sample(field, MAKE("solver", "euler"), x, grid=grid).x
    assert gap(dc.sample(field, Paradigms(window=4, tolerance=0), x, grid=grid).x, alone) < 1e-9 * float(alone.abs().max())


@pytest.mark.item("9.21")
@pytest.mark.parametrize("process", [VP, FLOW], ids=name)
@pytest.mark.parametrize("solver", ["ddim", "ancestral"])
def test_the_error_follows_the_tolerance(process, solver):
    """Root mean square error below the tolerance, and a tenth of the tolerance costs at most 2.5 times the sweeps at N = 200."""
    of, field, x = MAKE("solver", solver), GOLDEN.field(process, "v"), starts(process, 33)
    alone, errors, sweeps = dc.sample(field, of, x, steps=200, seed=3), [], []
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
        found = dc.sample(field, Paradigms(of=of, window=60, tolerance=tolerance), x, steps=200, seed=3, keep_frames=True)
        errors.append(float((found.x - alone.x).square().mean() ** 0.5))
        sweeps.append(int(found.frames[-1].own.max()))
        assert errors[-1] < tolerance
    assert errors[0] > 20 * errors[-1]
    assert sweeps[0] < sweeps[-1] < 100
    assert sweeps[0] < 40


def test_the_least_time_of_a_process_without_coefficients_is_a_whole_step():
    class Timed(dc.Process):
        """Times, and no coefficients."""

        min_time = 0.1

        def coeffs(self, t):
            return dc.Instant(t)

    grid = torch.tensor([0.9, 0.5, 0.1, 0.0], dtype=torch.float64)
    assert Drift("trapezoid", Timed(), grid, torch.zeros(1, 2)).explicit.tolist() == [False, False, True]

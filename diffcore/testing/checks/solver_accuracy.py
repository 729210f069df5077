"""Checks of solvers against the mathematics: order of convergence, moments of the samples, end points."""

from __future__ import annotations

from typing import Any

import torch

from diffcore.numerics.process import Process
from diffcore.numerics.sampling import sample
from diffcore.numerics.solver import Solver, Stepper
from diffcore.testing.base import SkipError, Subject, check, same, worst
from diffcore.testing.bench import DATA, affine, deterministic_on, grid_of, has_order, plans, start_at, stochastic
from diffcore.testing.driving import exact_field, exact_moments, lam_grid, slope
from diffcore.testing.oracles import Gaussian, golden_mixture, instant

TINY = 1e-11


@check("solver", applies=has_order)
def order(subject: Subject) -> None:
    """Global order by regression on a mixture, uniform in lam from .3 T to .01 T, tolerance .15.

    N = 20 to 160; from order 3 on 80 to 640, where the leading term of the error stands alone.
    """
    solver, data = subject.component, golden_mixture()
    counts = (20, 40, 80, 160) if (solver.order or 0) < 3 else (80, 160, 320, 640)
    for process in deterministic_on(subject)[:2]:
        x = process.coeffs(torch.tensor(0.3 * process.T).double()).alpha * torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
        want = data.flow(process, x, 0.3 * process.T, 0.01 * process.T)
        errors: dict[int, float] = {}
        for steps in counts:
            grid = lam_grid(process, 0.3, 0.01, steps)
            errors[steps] = worst(sample(exact_field(solver, process, data), solver, x, grid=grid).x, want)
        _judge_order(solver, process, errors)


def _judge_order(solver: Solver, process: Process, errors: dict[int, float]) -> None:
    said, who = solver.order, f"{type(solver).__name__} on {type(process).__name__}"
    clear = [n for n, e in errors.items() if e > TINY]
    if not clear or max(errors.values()) < 100 * TINY:
        return
    assert len(clear) >= 3, f"{who}: errors {_shown(errors)} leave no slope to measure"
    last = clear[-3:]
    measured = slope(last, [errors[n] for n in last])
    assert errors[last[-1]] < 0.5, f"{who} does not converge to the exact flow; errors by steps: {_shown(errors)}"
    assert abs(measured - (said or 0)) <= 0.15, (
        f"{who} has order {measured:.2f}, declared is {said}; errors by steps: {_shown(errors)}"
    )


def _shown(errors: dict[int, float]) -> str:
    return ", ".join(f"{n}: {e:.2e}" for n, e in errors.items())


@check("solver")
def marginals(subject: Subject) -> None:
    """Mean and variance of samples of Gaussian data converge to the exact ones with the number of steps.

    Exactly, from the linear map that a run is, where the steps are linear: weak order at least `weak_order` less .2, or .8 where
    none is declared. Else from samples.
    """
    solver, data = subject.component, Gaussian(0.5, 0.8, shape=(1,))
    for process in affine(subject):
        if not plans(type(solver)) or exact_moments(solver, process, data, lam_grid(process, 0.7, 0.02, 8)) is None:
            _sampled_marginals(solver, process)
            continue
        errors = {n: _moment_error(solver, process, data, n) for n in (32, 64, 128)}
        who = f"{type(solver).__name__} on {type(process).__name__}"
        if max(errors.values()) < 1e-4:  # too small for a slope: errors of this size change sign
            continue
        rate = slope(list(errors), list(errors.values()))
        shown = f"{who}: relative errors of mean and variance by steps: {_shown(errors)}"
        least = (solver.weak_order or 1.0) - 0.2
        assert rate > least, f"{shown}; they fall with order {rate:.2f}, must be {least:.1f} or more"
        assert errors[128] < 0.1, f"{shown}; too large"


def _moment_error(solver: Stepper, process: Any, data: Gaussian, steps: int) -> float:
    found = exact_moments(solver, process, data, lam_grid(process, 0.7, 0.02, steps))
    at = instant(process, 0.02 * process.T)
    variance = float(at.alpha**2 * 0.64 + at.sigma**2)
    assert found is not None
    return max(abs(found.variance / variance - 1), abs(found.mean - float(at.alpha * 0.5)) / variance**0.5, 1e-16)


def _sampled_marginals(solver: Solver, process: Any) -> None:
    """65536 samples at 24 and 96 steps: the error at 96 is within 4.5 standard errors of half that at 24, and below .05."""
    data, errors = Gaussian(0.5, 0.8, shape=(16384,)), dict[int, float]()
    x, noise = start_at(process, data, 4, 0.7), 4.5 * (2 / 65536) ** 0.5
    at = instant(process, 0.02 * process.T)
    mean, variance = float(at.alpha * 0.5), float(at.alpha**2 * 0.64 + at.sigma**2)
    for steps in (24, 96):
        y = sample(exact_field(solver, process, data), solver, x, grid=lam_grid(process, 0.7, 0.02, steps), seed=5).x
        errors[steps] = max(abs(float(y.var()) / variance - 1), abs(float(y.mean()) - mean) / variance**0.5)
    assert errors[96] <= noise + min(errors[24] / 2, 0.05), (
        f"{type(solver).__name__} on {type(process).__name__}: moments of the samples are off by {_shown(errors)}, "
        f"which does not shrink to the {noise:.3f} that 65536 samples allow"
    )


@check("solver")
def lands_on_data(subject: Subject) -> None:
    """From T to the end of its own grid, with one data point: the samples are that point (100 steps, .1)."""
    solver, data = subject.component, Gaussian([0.6, -0.3], 1e-6)
    for process in affine(subject):
        nodes = solver.nodes(process, 100)
        at = instant(process, float(nodes[-1]))
        x = sample(exact_field(solver, process, data), solver, start_at(process, data, 4, 1.0), grid=nodes, seed=3).x
        off = float((x - at.alpha * data.m).abs().max())
        allowed = 0.1 + 5 * float(at.sigma)
        assert off < allowed, (
            f"{type(process).__name__}: {off:.3g} away from the only data point after 100 steps, must be < {allowed:.2g}"
        )


@check("solver")
def from_the_middle(subject: Subject) -> None:
    """Started at .6 T, the error against the exact flow falls with the number of steps (5, 20, 80)."""
    solver = subject.component
    for process in deterministic_on(subject):
        errors = dict[int, float]()
        x = start_at(process, DATA, 4, 0.6)
        want = DATA.flow(process, x, 0.6 * process.T, 0.02 * process.T)
        for steps in (5, 20, 80):
            errors[steps] = worst(
                sample(exact_field(solver, process, DATA), solver, x, grid=lam_grid(process, 0.6, 0.02, steps)).x, want
            )
        assert errors[80] < max(errors[5] / 4, 1e-9), f"{type(process).__name__}: errors by steps from .6 T: {_shown(errors)}"


@check("solver")
def both_ways(subject: Subject) -> None:
    """One that goes both ways carries data to pure noise: .05 T to T in 8 steps, at most .7 sigma_T off the exact flow."""
    solver = subject.component
    if not solver.both_ways:
        raise SkipError("goes from noise to data only")
    for process in deterministic_on(subject):
        x, grid = start_at(process, DATA, 4, 0.05), grid_of(process, 8, 0.05, 1.0)
        want = DATA.flow(process, x, 0.05 * process.T, process.T)
        off = worst(sample(exact_field(solver, process, DATA), solver, x, grid=grid).x, want)
        assert off < 0.7 * float(instant(process, process.T).sigma), (
            f"{type(process).__name__}: {off:.3g} off the exact flow from .05 T up to T, where sigma is "
            f"{float(instant(process, process.T).sigma):.3g}"
        )


@check("solver")
def precision(subject: Subject) -> None:
    """The state keeps its dtype, and float32 agrees with float64 to 2e-3."""
    solver = subject.component
    for process in affine(subject):
        x, grid = start_at(process, DATA, 4).float(), grid_of(process, 20)
        low = sample(exact_field(solver, process, DATA), solver, x, grid=grid, seed=1).x
        assert low.dtype == torch.float32, f"a float32 state came back as {low.dtype}"
        if stochastic(solver, process):
            continue
        high = sample(exact_field(solver, process, DATA), solver, x.double(), grid=grid, seed=1).x
        assert same(low.double(), high, 2e-3), f"{type(process).__name__}: float32 is {worst(low, high):.3g} off float64"

"""Checks of time grids."""

from __future__ import annotations

import torch

from diffcore.numerics.process import AffineProcess
from diffcore.numerics.solver import check_grid
from diffcore.testing.base import SkipError, Subject, check, poisoned_noise, refused


@check("grid")
def nodes(subject: Subject) -> None:
    """steps + 1 strictly falling float64 times from `start`, within [0, T], for several processes, steps and starts."""
    grid, ran, why = subject.component, 0, ""
    for process in subject.processes(grid.requires):
        why = refused(lambda p=process: grid.nodes(p, 10, p.T))
        if why:
            continue
        for steps in (1, 2, 3, 10, 50):
            for start in (process.T, 0.7 * process.T, 0.5 * process.T):
                times = grid.nodes(process, steps, start)
                who = f"{steps} steps from {start:g} of {type(process).__name__}"
                assert times.dtype == torch.float64, f"{who}: {times.dtype}, must be float64"
                assert len(times) == steps + 1, f"{who}: {len(times)} nodes, must be {steps + 1}"
                assert abs(float(times[0]) - start) <= 1e-9 * start, f"{who}: the first node is {float(times[0])!r}"
                assert bool((times[:-1] > times[1:]).all()), f"{who}: not strictly falling: {times.tolist()}"
                check_grid(times, process)
        ran += 1
    if not ran:
        raise SkipError(f"refused by every reference process: {why}")


@check("grid")
def every_process(subject: Subject) -> None:
    """On every installed affine process: steps + 1 strictly falling times, to one end below `min_time` or near it."""
    grid = subject.component
    for process in [p for p in subject.every("process") if isinstance(p, AffineProcess) and grid.requires <= p.provides]:
        if refused(lambda p=process: grid.nodes(p, 10, p.T)):
            continue
        ends: set[float] = set()
        for steps in (1, 2, 10):
            times, who = grid.nodes(process, steps, process.T), f"{steps} steps on {type(process).__name__}"
            assert len(times) == steps + 1, f"{who}: {len(times)} nodes, must be {steps + 1}"
            check_grid(times, process)
            ends.add(round(float(times[-1]) / process.T, 12))
        assert len(ends) == 1, f"{type(process).__name__}: the last node is {sorted(ends)} T, by the number of steps"
        assert max(ends) <= 0.05, f"{type(process).__name__}: the last node is {max(ends):.3g} T, far from the data"


@check("grid")
def same_end(subject: Subject) -> None:
    """The time the samples are for does not depend on the number of steps or the start."""
    grid = subject.component
    for process in subject.processes(grid.requires):
        if refused(lambda p=process: grid.nodes(p, 10, p.T)):
            continue
        ends = {round(float(grid.nodes(process, n, f * process.T)[-1]), 12) for n in (1, 5, 20) for f in (1.0, 0.6)}
        assert len(ends) == 1, f"{type(process).__name__}: the last node is one of {sorted(ends)}"


@check("grid")
def pure(subject: Subject) -> None:
    """The same nodes every time, from no random generator."""
    grid, process = subject.component, subject.processes(subject.component.requires)[0]
    with poisoned_noise():
        assert torch.equal(grid.nodes(process, 9, process.T), grid.nodes(process, 9, process.T)), "two calls gave different nodes"

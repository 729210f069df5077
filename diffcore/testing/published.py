"""A solver against the program its paper published: the same start, times, model and noise must give the same states."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from diffcore.numerics.affine import Coeffs
from diffcore.numerics.process import AffineProcess
from diffcore.numerics.solver import Stepper
from diffcore.numerics.tree import State
from diffcore.testing.base import worst
from diffcore.testing.bench import start_at, z_of
from diffcore.testing.driving import drive, exact_field, lam_grid
from diffcore.testing.oracles import golden_mixture, instant


class Setting(NamedTuple):
    """What a published program is given.

    x: the start, float64 (4, 3). times: the grid, N + 1 numbers. denoise(x, t): E[x_0 | x_t = x] of a mixture. coeffs(t): alpha,
    sigma, lam = log(alpha / sigma) and their slopes, as tensors. noise(i): the fresh noise of step i, as the solver asks for it.
    """

    x: Tensor
    times: list[float]
    denoise: Callable[[Tensor, float], Tensor]
    coeffs: Callable[[float], Coeffs]
    noise: Callable[[int], State]


def equals_published(
    solver: Stepper,
    program: Callable[[Setting], Iterable[Tensor]],
    process: AffineProcess,
    *,
    steps: int = 8,
    ends: tuple[float, float] = (0.8, 0.02),
    tolerance: float = 1e-6,
) -> None:
    """Assert that a solver is a published program: `program(setting)` yields the state after every step of the same run.

    ends: start and end of the run as fractions of T; the steps between are even in lam. Names the first step that is off by more
    than the tolerance. Convergence and moments cannot tell two members of one family of methods apart; this can.
    """
    data, grid = golden_mixture((3,)), lam_grid(process, *ends, steps)
    x, noise = start_at(process, data, 4, ends[0]), partial(z_of, solver, process)
    setting = Setting(
        x,
        grid.tolist(),
        lambda x, t: data.mean(x, instant(process, t)),
        lambda t: process.coeffs(torch.tensor(t, dtype=torch.float64)),
        lambda i: noise(i, x),
    )
    ours = [moment.after for moment in drive(solver, exact_field(solver, process, data), x, grid, noise)]
    theirs, who = list(program(setting)), f"{type(solver).__name__} on {type(process).__name__}"
    assert len(theirs) == steps, f"the program yields {len(theirs)} states for {steps} steps; yield one after every step"
    for i, (mine, wanted) in enumerate(zip(ours, theirs, strict=True)):
        off = worst(mine, wanted)
        assert off <= tolerance, f"{who}: step {i} ends {off:.3g} off the published program, from t = {grid[i]:.4g}"

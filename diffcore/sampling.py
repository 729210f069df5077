"""Sampling: frames (the generator) and sample (its last frame), eager, compiled or as one CUDA graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from diffcore.errors import DataError, IncompatibleError, NumericsError
from diffcore.fields import Field
from diffcore.noise import Draw
from diffcore.runtime import run
from diffcore.solver import Frame, Grid, Solver, check_grid
from diffcore.tree import State, batch_size, leaves

Mode = Literal["eager", "compile", "graph"]
REUSE_FROM = 2**15
"""State size, in numbers, from which two buffers are reused; below, allocating is cheaper than writing to a given buffer."""


@attrs.frozen
class Result:
    """Samples x, the network evaluations each cost (`nfe`), the calls of the network, and the frames if asked for."""

    x: State
    nfe: float
    calls: int
    grid: Tensor
    frames: tuple[Frame, ...] = ()


def frames(
    field: Field,
    solver: Solver,
    x: State,
    *,
    grid: Grid | Tensor | Sequence[float] | None = None,
    steps: int | None = None,
    start: float | None = None,
    seed: int = 0,
    ids: Sequence[int] | None = None,
) -> Iterator[Frame]:
    """Sample step by step: yields a `Frame` for the start and after every step; stop iterating whenever you like.

    x: the state at `start` (default T), batch first. grid: a `Grid`, or the times themselves; steps: its number of steps.
    seed, ids: the noise of row i is that of global sample `ids[i]` (default i), whatever the batch.
    Gradients are off unless a guidance or the solver needs them or x requires them.

    Raises `IncompatibleError` (solver and process do not fit), `SpecError` (bad grid).
    """
    nodes = resolve_grid(field, solver, grid, steps, start)
    _check_conditions(field, x)
    draw = Draw(seed, range(batch_size(x)) if ids is None else ids, device=leaves(x)[0].device)
    running = solver.loop(field, x, nodes, draw)
    grad = _wants_grad(field, solver, x)
    while True:
        with torch.set_grad_enabled(grad):
            frame = next(running, None)
        if frame is None:
            return
        yield frame


def sample(
    field: Field,
    solver: Solver,
    x: State,
    *,
    grid: Grid | Tensor | Sequence[float] | None = None,
    steps: int | None = None,
    start: float | None = None,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    mode: Mode = "eager",
    keep_frames: bool = False,
) -> Result:
    """Run a solver from x at `start` (default T) to the end of its grid.

    The arguments are those of `frames`. mode: "compile" runs one compiled graph per kind of step, "graph" replays the whole
    trajectory as one CUDA graph (CUDA only); both equal "eager" to rounding. Frames are kept in eager mode only.

    Raises `NumericsError` naming step and time where the samples are not finite, and what `frames` raises.
    """
    nodes = resolve_grid(field, solver, grid, steps, start)
    _check_conditions(field, x)
    draw = Draw(seed, range(batch_size(x)) if ids is None else ids, device=leaves(x)[0].device)
    grad = _wants_grad(field, solver, x)
    if mode != "eager":
        last, nfe, calls = run(field, solver, x, nodes, draw, mode, grad)
        return Result(last, nfe, calls, nodes)
    trace, size = field.trace, batch_size(x)
    calls, evaluated = trace.calls, trace.rows
    kept: tuple[Frame, ...] = ()
    last = x
    with torch.set_grad_enabled(grad):
        if keep_frames:
            kept = tuple(solver.loop(field, x, nodes, draw))
            last = kept[-1].x
        else:
            last = _finish(field, solver, x, nodes, draw, reuse=not grad)
    if not _finite(last):
        _blame(field, solver, x, nodes, draw)
    return Result(last, (trace.rows - evaluated) / size, trace.calls - calls, nodes, kept)


def _finish(field: Field, solver: Solver, x: State, nodes: Tensor, draw: Draw, *, reuse: bool) -> State:
    """The last state, without a record of the way."""
    if type(solver).loop is not Solver.loop:
        for frame in solver.loop(field, x, nodes, draw):
            x = frame.x
        return x
    field.trace.watched = False
    try:
        large = sum(leaf.numel() for leaf in leaves(x)) >= REUSE_FROM
        return deque(solver.states(field, x, nodes, draw, reuse=reuse and large), maxlen=1)[0]
    finally:
        field.trace.watched = True


def resolve_grid(field: Field, solver: Solver, grid: Any = None, steps: int | None = None, start: float | None = None) -> Tensor:
    """The checked time grid of a run; also checks that solver and field fit together."""
    field.check(solver)
    if grid is None and solver.grid is not None:
        field.check(solver.grid)
    if isinstance(grid, Grid):
        field.check(grid)
        grid = grid.nodes(field.process, solver.steps if steps is None else steps, field.process.T if start is None else start)
    if grid is None:
        return solver.nodes(field.process, steps, start)
    return check_grid(torch.as_tensor(grid, dtype=torch.float64), field.process)


def kernel(field: Field, solver: Solver, x: State, row: Any, carry: Any) -> torch.distributions.Normal:
    """The distribution of x_s in one stochastic step, for solvers whose noise is additive: N(step(z = 0), row.noise^2).

    `log_prob` of a stored next state under it re-scores a trajectory (reinforcement learning, likelihood ratios).
    Raises `IncompatibleError` for a solver whose step is not such a kernel.
    """
    if not solver.additive_noise:
        raise IncompatibleError(f"solver {type(solver).__name__} has no Gaussian step kernel (additive_noise is False)")
    if not isinstance(row.noise, Tensor) and row.noise == 0:
        raise IncompatibleError(f"this step of solver {type(solver).__name__} draws no noise: it has no density")
    mean, _ = solver.step(field, x, row, carry, torch.zeros_like(x))
    return torch.distributions.Normal(mean, torch.as_tensor(row.noise, dtype=mean.dtype, device=mean.device))


def _check_conditions(field: Field, x: State) -> None:
    for name, value in field.cond.items():
        if isinstance(value, Tensor) and value.ndim and value.shape[0] != batch_size(x):
            raise DataError(f"condition '{name}' has {value.shape[0]} rows for {batch_size(x)} samples; give one row per sample")


def _wants_grad(field: Field, solver: Solver, x: State) -> bool:
    return field.needs_grad or "grad" in solver.needs or any(leaf.requires_grad for leaf in leaves(x))


def _finite(x: State) -> bool:
    floating = [leaf for leaf in leaves(x) if leaf.is_floating_point()]
    return all(bool(leaf.sum().isfinite()) or bool(leaf.isfinite().all()) for leaf in floating)


def _time(t: Any) -> str:
    return f"{t:.6g}" if isinstance(t, float) else f"{float(t.min()):.6g} to {float(t.max()):.6g}"


def _blame(field: Field, solver: Solver, x: State, nodes: Tensor, draw: Draw) -> None:
    """Run again, looking at every frame, to name the first step that is not finite."""
    if not _finite(x):
        raise NumericsError("the start state holds NaN or Inf")
    name = type(solver).__name__
    with torch.no_grad():
        for frame in solver.loop(field, x, nodes, draw):
            if not _finite(frame.x):
                raise NumericsError(
                    f"NaN or Inf in the samples after step {frame.step} (to t = {_time(frame.t)}) of solver {name}"
                )
    raise NumericsError(f"NaN or Inf in the samples of solver {name}")

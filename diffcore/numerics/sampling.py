"""Sampling: frames (the generator) and sample (its last frame), eager, compiled or as one CUDA graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import attrs
import torch
from torch import Tensor, nn

from diffcore.declare.errors import DataError, IncompatibleError, NumericsError, SpecError, note
from diffcore.numerics.arguments import real, shown, whole
from diffcore.numerics.calling import ordinary
from diffcore.numerics.draw import Draw
from diffcore.numerics.fields import Field
from diffcore.numerics.kept import PLANS
from diffcore.numerics.meter import Meter
from diffcore.numerics.process import AffineProcess, Process
from diffcore.numerics.runtime import run
from diffcore.numerics.solver import Frame, Grid, Solver, Stepper, check_grid, constant, ended
from diffcore.numerics.tree import State, batch_size, describe, leaves

Mode = Literal["eager", "compile", "graph"]
MOST_STEPS = 10**6
FAR = 4.0
"""From this factor on, a start is not of the size of the noise at its time."""
MANY = 64
"""Numbers of a state from which their root mean square is that of their law, well within `FAR`."""
REUSE_FROM = 2**15
"""State size, in numbers, from which two buffers are reused; below, allocating is cheaper than writing to a given buffer."""
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Modules that are another function in training."""


@attrs.frozen(repr=False)
class Result:
    """Samples x, the network evaluations each cost (`nfe`), the calls of networks, and the frames if asked for.

    steps: those taken, which a solver with a loop of its own decides. logw: log-weights of the samples, logp: log-probability of
    their steps, summed; None where the solver has none.
    """

    x: State
    nfe: float
    calls: int
    grid: Tensor
    frames: tuple[Frame, ...] = ()
    steps: int = 0
    logw: Tensor | None = None
    logp: Tensor | None = None

    def __repr__(self) -> str:
        """In one line, without the numbers of the samples."""
        return f"Result({describe(self.x)}, {self.steps} steps, {self.calls} calls, {self.nfe:g} evaluations per sample)"


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
    grad: bool | None = None,
) -> Iterator[Frame]:
    """Sample step by step: yields a `Frame` for the start and after every step; stop iterating whenever you like.

    x: the state at `start` (default T), batch first. grid: a `Grid`, or the times themselves (rising ones carry data to noise,
    with solvers that go both ways); steps: its number of steps.
    seed, ids: the noise of row i is that of global sample `ids[i]` (default i), whatever the batch. Where rows belong together
    (`Solver.group`), ids hold whole groups, and one stream serves a group.
    grad: whether gradients flow through the run (to x, the network, a learned schedule); default: where x requires them or
    the solver needs them. Guidance that differentiates through the network does so in either case.

    Raises `IncompatibleError` (solver and process do not fit), `SpecError` (bad grid), `DataError` (ids or conditions that
    are not one per sample).
    """
    solver, draw, nodes, grad = _begun(field, solver, x, grid, steps, start, seed, ids, grad)
    yield from _counted(solver.frames(field, x, nodes, draw), batch_size(x), grad)


def _begun(
    field: Field, solver: Solver, x: State, grid: Any, steps: Any, start: Any, seed: int, ids: Any, grad: Any
) -> tuple[Solver, Draw, Tensor, bool]:
    """The solver as guidance wraps it, its noise, its times and whether gradients flow; what is wrong is refused, or said."""
    solver, draw = checked(field, solver, x, seed, ids)
    nodes = resolve_grid(field, solver, grid, steps, start)
    grad = _wants_grad(solver, x, grad)
    if start is None and (grid is None or isinstance(grid, Grid)):
        _note_scale(field.process, x, nodes)
    if not grad:
        _note_training(getattr(field.base, "net", None))
    return solver, draw, nodes, grad


def _counted(running: Iterator[Frame], size: int, grad: bool) -> Iterator[Frame]:
    """The frames of a run with what they cost and what was last known of x_0."""
    meter = Meter(watching=True)
    while True:
        meter.posterior = None
        with torch.set_grad_enabled(grad), meter:
            frame = next(running, None)
        if frame is None:
            return
        known = meter.posterior if frame.x0 is None else frame.x0
        yield frame._replace(nfe=meter.rows / size, calls=meter.calls, x0=known)


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
    grad: bool | None = None,
    mode: Mode = "eager",
    keep_frames: bool = False,
) -> Result:
    """Run a solver from x at `start` (default T) to the end of its grid.

    The arguments are those of `frames`. mode: "compile" runs one compiled graph per kind of step, "graph" replays the whole
    trajectory as one CUDA graph (CUDA only); both equal "eager" to rounding. Frames are kept in eager mode only.

    Raises `NumericsError` naming step and time where the samples are not finite, and what `frames` raises.
    """
    if mode not in get_args(Mode):
        raise SpecError(f"mode must be one of {', '.join(get_args(Mode))}; got {mode!r}")
    solver, draw, nodes, grad = _begun(field, solver, x, grid, steps, start, seed, ids, grad)
    if mode != "eager":
        last, nfe, calls, taken = run(field, solver, x, nodes, draw, mode, grad)
        return Result(last.x, nfe, calls, nodes, (), taken, last.logw, last.logp)
    if keep_frames:
        result = _result(tuple(_counted(solver.frames(field, x, nodes, draw), batch_size(x), grad)), nodes)
    else:
        result = _finish(field, solver, x, nodes, draw, grad)
    if not _finite(result.x):
        _blame(field, solver, x, nodes, draw, grad)
    return result


def _result(frames: Iterable[Frame], nodes: Tensor) -> Result:
    """What a run ends with; its frames are kept where they are a tuple."""
    last, kept = ended(frames), frames if isinstance(frames, tuple) else ()
    return Result(last.x, last.nfe, last.calls, nodes, kept, last.step, last.logw, last.logp)


def _finish(field: Field, solver: Solver, x: State, nodes: Tensor, draw: Draw, grad: bool) -> Result:
    """The end of a run, without a record of the way."""
    with torch.set_grad_enabled(grad), Meter() as meter:
        if isinstance(solver, Stepper):
            large = sum(leaf.numel() for leaf in leaves(x)) >= REUSE_FROM
            plan, rows = solver.prepared(field, x, nodes, reuse=large and not grad)
            moved = ended(solver.stepped(plan, rows, field, x, nodes, draw))
            result = Result(moved.x, 0.0, 0, nodes, (), plan.steps, moved.logw, moved.logp)
        else:
            result = _result(solver.frames(field, x, nodes, draw), nodes)
    return attrs.evolve(result, nfe=meter.rows / batch_size(x), calls=meter.calls)


def resolve_grid(field: Field, solver: Solver, grid: Any = None, steps: int | None = None, start: float | None = None) -> Tensor:
    """The checked time grid of a run; also checks that solver and field fit together.

    grid: a `Grid`, or the times themselves, which then stand for themselves: no `steps` or `start` beside them.
    """
    if grid is not None and not isinstance(grid, Grid) and (steps is not None or start is not None):
        raise SpecError("the times of the grid are given, so 'steps' and 'start' have nothing to say; leave them out")
    steps = None if steps is None else whole("steps", steps, 1, MOST_STEPS)
    start = None if start is None else _start(start, field.process.T)
    field.check(solver)
    if grid is None and solver.grid is not None:
        field.check(solver.grid)
    if isinstance(grid, Grid):
        field.check(grid)
        grid = grid.nodes(field.process, solver.steps if steps is None else steps, field.process.T if start is None else start)
    if grid is None:
        return solver.nodes(field.process, steps, start)
    return check_grid(_times(grid), field.process, rising=solver.both_ways)


def _note_scale(process: Process, x: State, nodes: Tensor) -> None:
    """Say that a start at T is of another size than the noise there; one from a time that was named is the caller's own."""
    own = type(process)
    if not isinstance(process, AffineProcess) or (own.prior, own.noise) != (AffineProcess.prior, AffineProcess.noise):
        return
    if x.__class__ is not Tensor or x.numel() < MANY or nodes.ndim > 1 or nodes[0] < process.T or not ordinary(x):
        return
    found, wanted = float(torch.linalg.vector_norm(x.detach())) / x.numel() ** 0.5, _end(process)
    if math.isfinite(found) and not wanted / FAR <= found <= wanted * FAR:
        note(
            f"the start has root mean square {found:.3g} and the noise of {own.__name__} at T = {process.T:g} has {wanted:.3g}, "
            f"so the samples will be of the wrong size: start from process.prior(event, draw), or name the time of the start"
        )


def _note_training(net: Any) -> None:
    """Say that a network samples as it is trained, where that is another function."""
    if isinstance(net, nn.Module) and net.training and (other := next(filter(_is_other_in_training, net.modules()), None)):
        note(f"the network {type(net).__name__} is in training mode, and its {type(other).__name__} acts in it: call net.eval()")


def _is_other_in_training(module: nn.Module) -> bool:
    return module.training and (isinstance(module, BATCH_NORMS) or (isinstance(module, DROPOUTS) and module.p > 0))


def _end(process: AffineProcess) -> float:
    """The root mean square of the noise at T, shift included."""

    def made() -> float:
        with torch.no_grad():
            at = process.coeffs(torch.tensor(process.T, dtype=torch.float64))
        return sum(float(torch.as_tensor(v).double().square().mean()) for v in (at.sigma, at.shift)) ** 0.5

    return PLANS.get(("end", process), made) if constant(process) else made()


def _start(value: Any, last: float) -> float:
    start = real("start", value)
    if not 0 < start <= last * (1 + 1e-12):
        raise SpecError(f"start must be a time above 0 and up to T = {last:g}; got {shown(value)}")
    return start


def _times(grid: Any) -> Tensor:
    """The times of a grid given as numbers. Raises `SpecError` for what is none."""
    if isinstance(grid, str):
        raise SpecError(f"grid must be a grid, such as registry.make('grid', '{grid}'), or the times themselves")
    try:
        return torch.as_tensor(grid, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise SpecError(
            f"grid must be a grid, or its times from noise to data, such as [1.0, 0.5, 0.0]; got {shown(grid)}"
        ) from None


def checked(field: Field, solver: Solver, x: State, seed: int, ids: Sequence[int] | None) -> tuple[Solver, Draw]:
    """The solver as guidance wraps it, and the noise of the samples."""
    if not isinstance(field, Field):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise IncompatibleError(f"sample needs a field, Field(denoiser), such as pipeline.field(); got {shown(field)}")
    if not isinstance(solver, Solver):  # pyright: ignore[reportUnnecessaryIsInstance]
        name = solver if isinstance(solver, str) else "heun"
        raise IncompatibleError(
            f"sample needs a solver, such as registry.make('solver', '{name}', steps=20); got {shown(solver)}"
        )
    if type(solver).frames is Solver.frames:
        raise IncompatibleError(
            f"solver {type(solver).__name__} derives from dc.Solver alone: derive it from dc.Stepper, with plan and step, or "
            f"from dc.Program, with frames"
        )
    found = leaves(x)
    if not found or not all(isinstance(leaf, Tensor) for leaf in found):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError(f"the start state must be a tensor or a tree of tensors; got {shown(x)}")
    if any(leaf.ndim == 0 or leaf.is_complex() or leaf.dtype == torch.bool for leaf in found) or not len(found[0]):
        got = ", ".join(f"{tuple(leaf.shape)} of {leaf.dtype}" for leaf in found)
        raise DataError(
            f"the start state must be real numbers or tokens (B, ...), one row per sample and at least one; got {got}"
        )
    rows = range(len(found[0])) if ids is None else _numbers(ids, len(found[0]))
    for name, value in field.cond.items():
        if isinstance(value, Tensor) and value.ndim and value.shape[0] != len(found[0]):
            raise DataError(f"condition '{name}' has {value.shape[0]} rows for {len(found[0])} samples; give one row per sample")
    solver = field.steps(solver)
    return solver, Draw(seed, rows, device=found[0].device).groups(solver.group)


def _numbers(ids: Any, n: int) -> Sequence[int]:
    """The global numbers of the samples. Raises `DataError` where they are not one per sample."""
    if not hasattr(ids, "__len__") or isinstance(ids, (str, Mapping)) or (isinstance(ids, Tensor) and ids.ndim != 1):
        raise DataError(f"ids are the global numbers of the samples, one each; got {shown(ids)}")
    if len(ids) != n:
        raise DataError(f"{len(ids)} ids for {n} samples; give one global number per sample")
    return ids  # pyright: ignore[reportReturnType]


def _wants_grad(solver: Solver, x: State, grad: Any) -> bool:
    """What was asked for; where nothing was, whether the solver or the start needs gradients."""
    if grad is not None and not isinstance(grad, bool):
        raise SpecError(f"grad must be True, False or None (where the start requires it); got {shown(grad)}")
    return grad if grad is not None else "grad" in solver.needs or any(leaf.requires_grad for leaf in leaves(x))


def _finite(x: State) -> bool:
    floating = [leaf for leaf in leaves(x) if leaf.is_floating_point()]
    return all(bool(leaf.sum().isfinite()) or bool(leaf.isfinite().all()) for leaf in floating)


def _time(t: Any) -> str:
    return f"{t:.6g}" if isinstance(t, float) else f"{float(t.min()):.6g} to {float(t.max()):.6g}"


def _culprit(frame: Frame) -> str:
    """Whether it was the network that gave what is not finite."""
    value = getattr(frame.x0, "value", None)
    return "" if value is None or _finite(value) else f"; the network returned it, in one of its first {frame.calls} calls"


def _blame(field: Field, solver: Solver, x: State, nodes: Tensor, draw: Draw, grad: bool) -> None:
    """Run again, looking at every frame, to name the first step that is not finite."""
    if not _finite(x):
        raise NumericsError("the start state holds NaN or Inf")
    name = type(solver).__name__
    for frame in _counted(solver.frames(field, x, nodes, draw), batch_size(x), grad):
        if not _finite(frame.x):
            where = f"after step {frame.step} (to t = {_time(frame.t)}) of solver {name}"
            raise NumericsError(f"NaN or Inf in the samples {where}{_culprit(frame)}")
    raise NumericsError(f"NaN or Inf in the samples of solver {name}")

"""The fast ways to run a plan/init/step solver: compiled steps, and the whole trajectory as one CUDA graph.

Both hand the rows to the step as tensors, so one graph serves every step of the same kind (the static entries of a row,
Python integers, tell kinds apart), and both equal eager mode to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from diffcore.declare.errors import IncompatibleError, NumericsError
from diffcore.numerics.draw import Draw
from diffcore.numerics.fields import Field
from diffcore.numerics.kept import Kept, hashable
from diffcore.numerics.meter import Meter
from diffcore.numerics.plan import Plan
from diffcore.numerics.solver import Moved, Solver, Stepper, ended
from diffcore.numerics.tree import State, batch_size, leaves, pytree, tree_map

Step = Callable[[State, Any, Any, State], Moved]


def run(field: Field, solver: Solver, x: State, grid: Tensor, draw: Draw, mode: str, grad: bool) -> tuple[Moved, float, int, int]:
    """What the run ends with, evaluations per sample, calls and steps, compiled (`"compile"`) or as a CUDA graph (`"graph"`)."""
    if not isinstance(solver, Stepper):
        raise IncompatibleError(f"solver {type(solver).__name__} owns its loop and runs in eager mode only")
    if grid.ndim > 1:
        raise IncompatibleError(f"mode '{mode}' runs grids of one time per step; run a grid of per-entry times in eager mode")
    for part in (solver, field.process, *field.guidance, field.flow_map):
        if not hashable(part):
            raise IncompatibleError(
                f"mode '{mode}' keeps its graphs by the fields of their components, and a field of {type(part).__name__} has no "
                f"hash (a dict or a list); run it in eager mode"
            )
    plan, rows = solver.prepared(field, x, grid, tensors=mode == "compile")
    with torch.set_grad_enabled(grad):
        if mode == "graph":
            last, calls, nfe = _graph(field, solver, plan, x, draw)
        else:
            noise = _noise(field, solver, plan, x, draw)
            calls, nfe = _cost(field, plan, x, rows[0])
            last = _loop(compiled(field, solver), solver, rows, x, noise)
    if not all(bool(torch.isfinite(leaf).all()) for leaf in leaves(last.x) if leaf.is_floating_point()):
        raise NumericsError(f"NaN or Inf in the samples of solver {type(solver).__name__}; run in eager mode to see the step")
    return last, nfe, calls, plan.steps


def compiled(field: Field, solver: Stepper) -> Step:
    """The solver's step as one compiled graph per kind of step, kept with the field's denoiser."""
    key = (solver, field.process, field.guidance, field.flow_map, tuple(sorted(field.cond)))
    own = field.bound(field.cond)

    def step(x: State, row: Any, carry: Any, z: State, cond: Any) -> Moved:
        own.cond = cond
        return solver.step(own, x, row, carry, z)

    def made() -> Any:
        # dynamo counts recompilations per code object: without one of its own, the ninth kind of step in a process fails
        own_code = FunctionType(step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__)
        return torch.compile(own_code, fullgraph=True, dynamic=False)

    found = _kept(field).get(("step", key), made)
    return lambda x, row, carry, z: found(x, row, carry, z, field.cond)


def _kept(field: Field) -> Kept:
    """What was made before for a field's denoiser; nothing for what stands for one and keeps nothing."""
    return getattr(field.base, "kept", Kept(1))


def _loop(step: Step, solver: Stepper, rows: list[Any], x: State, noise: list[State]) -> Moved:
    def moves() -> Iterator[Moved]:
        moved = Moved(x, solver.init(x))
        for row, z in zip(rows, noise, strict=True):
            moved = step(moved.x, row, moved.carry, z)
            yield moved

    return ended(moves())


def _noise(field: Field, solver: Stepper, plan: Plan, x: State, draw: Draw) -> list[State]:
    """The noise of every step, of one shape: zeros where none is drawn; None in a run that draws none at all."""
    if not plan.stochastic:
        return [None] * plan.steps
    drawn = [solver.draws(field.process, x, draw.at(i + 1)) if drawn else None for i, drawn in enumerate(plan.draws)]
    made = [z for z in drawn if z is not None]
    zeros = tree_map(torch.zeros_like, made[0]) if made else None
    return [zeros if z is None else z for z in drawn]


def _graph(field: Field, solver: Stepper, plan: Plan, x: State, draw: Draw) -> tuple[Moved, int, float]:
    """Capture the trajectory once per shape, then replay it on new start states, conditions and noise."""
    device = leaves(x)[0].device
    if device.type != "cuda":
        raise IncompatibleError("mode 'graph' replays a CUDA graph and needs the state on a CUDA device; use mode 'compile'")
    noise = _noise(field, solver, plan, x, draw)
    leaves_, structure = pytree.tree_flatten((x, field.cond))
    shapes = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves_)
    key = (solver, field.process, field.guidance, field.flow_map, plan.steps, tuple(_flat(plan)), shapes, repr(structure))
    graph, inputs, output, cost, _ = _kept(field).get(("graph", key), lambda: _capture(field, solver, plan, x, noise))
    for static, new in zip(_tensors(inputs), _tensors((x, noise, field.cond)), strict=True):
        static.copy_(new)
    graph.replay()
    return tree_map(torch.clone, output), *cost


def _flat(plan: Plan) -> list[Any]:
    return [tuple(v.flatten().tolist()) for v in _tensors(plan.flat)]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _capture(field: Field, solver: Stepper, plan: Plan, x: State, noise: list[State]) -> tuple[Any, ...]:
    """The graph, its input buffers, its output, its (calls, evaluations), and the rows, whose time tensors the graph reads."""
    inputs = pytree.tree_map_only(Tensor, torch.clone, (x, noise, field.cond))
    rows = plan.rows(field, x)

    def trajectory() -> Moved:
        start, fresh, cond = inputs
        bound = field.bound(cond)
        return _loop(lambda x, row, carry, z: solver.step(bound, x, row, carry, z), solver, rows, start, fresh)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        with Meter() as meter:
            trajectory()
        trajectory()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = trajectory()
    return graph, inputs, output, (meter.calls, meter.rows / batch_size(x)), rows


def _cost(field: Field, plan: Plan, x: State, row: Any) -> tuple[int, float]:
    """Calls and evaluations of a compiled run: the plan's count times what one (guided) evaluation costs, measured once.

    It is measured with a row of tensors, as in the graph, where what depends on the time is computed for all times.
    """
    key = (field.process, field.guidance, field.flow_map, tuple(sorted(field.cond)))

    def measured() -> tuple[int, float]:
        with Meter() as meter:
            field.posterior(x, getattr(row, "t", 0.5 * field.process.T))
        return meter.calls, meter.rows / batch_size(x)

    calls, evaluations = _kept(field).get(("cost", key), measured)
    count = sum(map(len, plan.asks))
    return calls * count, evaluations * count

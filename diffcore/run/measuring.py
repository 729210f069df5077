"""What samples cost and how good they are: the table of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from diffcore.declare.errors import SpecError, note
from diffcore.learning import conditions
from diffcore.learning.metric import Evaluation, Measured
from diffcore.numerics.calibration import stand_in
from diffcore.numerics.draw import Draw, mix
from diffcore.numerics.fields import Denoiser, Field
from diffcore.numerics.sampling import frames
from diffcore.numerics.solver import Solver, evolve
from diffcore.numerics.tree import State, tree_map
from diffcore.run.fitting import label

if TYPE_CHECKING:
    from diffcore.run.assembly import Assembly
    from diffcore.run.pipeline import Pipeline
    from diffcore.run.samples import Samples
    from diffcore.run.training import Progress

Row = dict[str, Any]
Done = Callable[[Row, "Samples"], None]


def table(pipeline: Pipeline, progress: Progress | None, done: Done) -> Iterator[Row]:
    """A row for every solver of the spec; equal solvers are sampled once."""
    measured: list[tuple[Solver, Row, Samples]] = []
    for solver, budget in solvers(pipeline):
        known = next(((row, made) for other, row, made in measured if other == solver), None)
        row, made = known or measure(pipeline, solver, progress)
        measured.append((solver, row, made))
        row = {**row, "budget": budget}
        done(row, made)
        yield row


def solvers(pipeline: Pipeline) -> list[tuple[Solver, int | None]]:
    """The main solver, and those of `evaluation` at every budget they can meet, each with its budget."""
    plan = pipeline.spec.evaluation
    wanted: list[tuple[Solver, int | None]] = [(pipeline.spec.solver, None)]
    wanted += [(s, c) for solver in plan.solvers for c in plan.calls if (s := for_calls(pipeline, solver, c)) is not None]
    return wanted + [(solver, None) for solver in plan.solvers if not plan.calls]


def measure(pipeline: Pipeline, solver: Solver, progress: Progress | None = None) -> tuple[Row, Samples]:
    """One row of the table, every metric on samples of one solver, and the samples."""
    plan, registry = pipeline.spec.evaluation, pipeline.registry
    real = reference(pipeline, 2 * plan.n)  # first, so that missing data costs no sampling
    made = pipeline.sample(plan.n, plan.seed, _asked(pipeline, real[1]), solver=solver, batch=plan.batch, progress=progress)
    measured: dict[str, Measured] = {}
    ev = _evaluation(pipeline, made, *real)
    if made.logw is not None and pipeline.spec.metrics:
        note(f"the samples of {label(registry, solver)} are weighted (logw), and metrics take them as they are, all alike")
    for metric in pipeline.spec.metrics:
        for name, value in metric.measure(ev).items():
            measured[f"{name} ({label(registry, metric)})" if name in measured else name] = value
    row = {
        "solver": registry.id_of(type(solver)),
        "label": label(registry, solver),
        "ran": ran(pipeline, solver),
        "steps": made.steps,
        "calls": made.calls,
        "nfe": made.nfe,
        "seconds": made.seconds,
        "n": plan.n,
        "metrics": {name: attrs.asdict(value) for name, value in measured.items()},
    }
    return row, made


def _asked(pipeline: Pipeline, cond: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the evaluated samples are conditioned on: the spec's classes; those of real samples where some are arrays."""
    rows = torch.arange(pipeline.spec.evaluation.n)
    names = (*pipeline.source.classes, *pipeline.arrays) if pipeline.arrays else ()
    return {**{name: cond[name][rows % len(cond[name])] for name in names}, **pipeline.spec.sampling.cond}


def ran(pipeline: Pipeline, solver: Solver) -> str:
    """What ran in the place of a solver that is another one once it is calibrated; empty where it is itself."""
    ready = pipeline.ready(solver)
    return "" if type(ready) is type(solver) else label(pipeline.registry, evolve(ready, grid=None))


def _evaluation(pipeline: Pipeline, made: Samples, real: Any, cond: Mapping[str, Tensor]) -> Evaluation:
    return Evaluation(
        samples=tree_map(lambda leaf: leaf.cpu(), shown(pipeline, made.x)),
        reference=real,
        cond={k: v.cpu() for k, v in made.cond.items()},
        reference_cond=cond,
        reference_name=pipeline.registry.id_of(type(pipeline.spec.data)),
        nfe=made.nfe,
        calls=made.calls,
        seconds=made.seconds,
        field=pipeline.field({k: v.to(pipeline.device) for k, v in made.cond.items()}),
        data=pipeline.spec.data,
    )


def foreseen(pipeline: Assembly) -> Evaluation:
    """The evaluation that metrics will see, before there are samples (`Metric.check` says what it holds)."""
    plan, registry = pipeline.spec.evaluation, pipeline.registry
    real, cond = reference(pipeline, 2 * plan.n)
    return Evaluation(
        samples=tree_map(lambda leaf: leaf.new_empty((plan.n, *leaf.shape[1:]), device="meta"), real),
        reference=real,
        cond={**conditions.of_data(pipeline.source, pipeline.arrays, plan.n), **pipeline.classes(plan.n, {})},
        reference_cond=cond,
        reference_name=registry.id_of(type(pipeline.spec.data)),
        data=pipeline.spec.data,
    )


def shown(pipeline: Pipeline, x: State) -> State:
    """States as metrics and pictures compare them: decoded, and in [-1, 1] where the data has a range."""
    data = pipeline.spec.data
    return data.to_model(data.decode(x))


def reference(pipeline: Assembly, n: int) -> tuple[Any, Mapping[str, Tensor]]:
    """Up to n real samples in the range of `shown`, drawn without replacement by the spec's seed."""
    size = pipeline.source.size
    count = n if size is None else min(n, size)
    generator = torch.Generator().manual_seed(mix(pipeline.spec.seed, 0x2EF) & 0x7FFFFFFF)
    ids = torch.arange(count) + 2**40 if size is None else torch.randperm(size, generator=generator)[:count]
    raw, cond = pipeline.source.batch(ids)
    return pipeline.spec.data.to_model(raw), dict(cond)


def for_calls(pipeline: Pipeline, solver: Solver, calls: int) -> Solver | None:
    """The solver with as many steps as fit into a budget of network calls; None where not one step fits."""
    for steps in range(calls, 0, -1):
        try:
            candidate = evolve(solver, steps=steps)
            if cost(pipeline, candidate)[0] <= calls:
                return candidate
        except SpecError:  # this number of steps has no grid, or is not allowed
            continue
    return None


def cost(pipeline: Pipeline, solver: Solver) -> tuple[int, float]:
    """Calls and evaluations per sample of one run under the spec's guidance, counted on a network that computes nothing."""
    spec, process, event = pipeline.spec, pipeline.process, pipeline.source.event
    outputs = process.output_event(event, spec.prediction)

    def net(x: State, t: Tensor, **_: Any) -> State:
        return x if outputs == event else tree_map(torch.zero_, outputs.like(len(t)))

    counted = Denoiser(net, spec.prediction, process=process, null=pipeline.denoiser.null)
    cond = pipeline.conditions(1, {name: torch.zeros(*size) for name, size in pipeline.arrays.items()})
    field = Field(counted, spec.guidance, cond=cond, flow_map=spec.flow_map)
    rows = range(field.steps(stand_in(solver)).group)
    field = field.bound({name: value.expand(len(rows), *value.shape[1:]) for name, value in cond.items()})
    *_, last = frames(field, stand_in(solver), process.prior(event, Draw(0, rows)))
    return last.calls, last.nfe

"""The pairs of a trained flow, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class Reflow(dc.Data):
    """n pairs (x_0, x_T / sigma_T) of a trained run: x_T from its prior, x_0 by its probability-flow ODE with `solver`.

    The noise is carried as the condition `noise`, for the coupling 'paired' and the loss 'flow-matching'; classes of the run stay
    classes, and its guidance is in the pairs. The flow trained on them has the marginals of the run (up to the solver's error),
    costs no more to transport and has straighter paths: rectification. A second round takes the run of the first.

    Pair number i depends on (run, solver, seed, i) only. Pairs are made `batch` at a time when they are first asked for, and
    kept in memory. Take `solver` deterministic and accurate, and start training from the run's weights with `init: RUN`.

    range: that of the run's data, to whose limits samples are clipped; null where that is unbounded.

    Raises `DataError` where the run is missing or not finished, has another range, or its samples are not of the shape of its
    noise; `IncompatibleError` for a process without a velocity in flat space, or a solver that draws noise.
    """

    source: ClassVar[str] = "Liu et al. 2022, arXiv 2209.03003, section 2 and algorithm 1"
    items: ClassVar[tuple[str, ...]] = ("5.16", "5.17")
    example: ClassVar[Mapping[str, Any]] = {"run": "runs/teacher", "solver": {"type": "rk4", "steps": 20}}
    expected_failures: ClassVar[Mapping[str, str]] = {"as_declared": "the condition 'noise' is paired noise, not a class"}

    run: str = dc.param(doc="run directory or weights file of the flow that makes the pairs")
    solver: dc.Solver = dc.param(doc="integrates the run's probability-flow ODE")
    n: int = dc.param(default=16384, ge=1, le=10_000_000, doc="number of pairs")
    batch: int = dc.param(default=1024, ge=1, le=10_000_000, doc="pairs made at once")
    seed: int = dc.param(default=0, ge=0, doc="seed of the noise")
    range: dc.Range | None = dc.param(default=None, doc="range of the run's data; null where unbounded")

    def open(self) -> Pairs:
        """The source; the run is loaded, no pair is made yet."""
        try:
            pipeline = dc.Pipeline.load(dc.user_path(self.run))
        except dc.CheckpointError as error:
            raise dc.DataError(f"the run of data 'reflow' cannot be used: {error}") from None
        return Pairs(self, pipeline)


class Pairs:
    """The source of a `Reflow` set. A `dc.Source`."""

    def __init__(self, spec: Reflow, teacher: dc.Pipeline) -> None:
        _check(spec, teacher)
        self.spec, self.teacher = spec, teacher
        self.size: int | None = spec.n
        self.event: dc.Event = teacher.source.event
        self.classes: Mapping[str, int] = dict(teacher.source.classes)
        self._made: dict[int, dict[str, Tensor]] = {}

    def batch(self, ids: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Samples by number, and their conditions: the noise they came from, and the run's classes."""
        numbers, place = torch.unique(ids // self.spec.batch, return_inverse=True)
        blocks = [self._block(int(number)) for number in numbers]
        kept = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
        row = place * self.spec.batch + ids % self.spec.batch
        x0 = kept.pop("x0")[row]
        return x0, {name: value[row] for name, value in kept.items()}

    def _block(self, number: int) -> dict[str, Tensor]:
        if number not in self._made:
            self._made[number] = self._integrated(range(number * self.spec.batch, (number + 1) * self.spec.batch))
        return self._made[number]

    def _integrated(self, ids: range) -> dict[str, Tensor]:
        """The pairs with these numbers; the last block is made whole, so that a pair does not depend on n."""
        teacher, process = self.teacher, self.teacher.process
        labels = cycled(ids, self.classes)
        cond = {name: value.to(teacher.device) for name, value in labels.items()}
        xT = process.prior(self.event, dc.Draw(self.spec.seed, ids, device=teacher.device))
        teacher.net.eval()
        made = dc.sample(teacher.field(cond), self.spec.solver, xT, seed=self.spec.seed, ids=ids, grad=False).x
        raw = teacher.spec.data.decode(made).cpu()
        if raw.shape != xT.shape:
            raise dc.DataError(f"the samples of {self.spec.run} have shape {tuple(raw.shape[1:])}, its noise {self.event}")
        return {"x0": raw, "noise": _standard(process, xT).cpu(), **labels}


def cycled(ids: range, classes: Mapping[str, int]) -> dict[str, Tensor]:
    """Classes of samples by number, int64: every combination in turn, so that none is left out."""
    found, every = dict[str, Tensor](), 1
    for name, count in classes.items():
        found[name], every = torch.tensor([i // every % count for i in ids]), every * count
    return found


def _standard(process: Any, xT: Tensor) -> Tensor:
    """(x_T - shift_T) / sigma_T."""
    at = process.coeffs(torch.tensor(process.T, dtype=torch.float64))
    shift = at.shift.to(xT) if isinstance(at.shift, Tensor) else at.shift
    return (xT - shift) / float(at.sigma)


def _check(spec: Reflow, teacher: dc.Pipeline) -> None:
    declared, process = teacher.spec.data.value_range, teacher.process
    if declared != spec.range:
        wanted = "null" if not isinstance(declared, dc.Range) else f"{{lo: {declared.lo:g}, hi: {declared.hi:g}}}"
        raise dc.DataError(f"the data of {spec.run} has another range; set data.range: {wanted}")
    if not {"velocity", "flat"} <= process.provides or not hasattr(process.coeffs(torch.tensor(0.5 * process.T)), "sigma"):
        raise dc.IncompatibleError(f"'reflow' needs an ODE between data and noise, and {type(process).__name__} has none")
    if _draws_noise(spec, teacher):
        raise dc.IncompatibleError(f"'reflow' pairs by the probability-flow ODE; solver {type(spec.solver).__name__} draws noise")


def _draws_noise(spec: Reflow, teacher: dc.Pipeline) -> bool:
    """By the plan; a solver with a loop of its own has none, and two runs from one noise tell."""
    process, solver, device = teacher.process, spec.solver, teacher.device
    if isinstance(solver, dc.Stepper):
        return bool((solver.plan(process, solver.nodes(process)).noise != 0).any())
    teacher.net.eval()
    field = teacher.field({name: torch.zeros(1, dtype=torch.int64, device=device) for name in teacher.source.classes})
    xT = process.prior(teacher.source.event, dc.Draw(spec.seed, [0], device=device))
    one, other = (dc.sample(field, solver, xT, seed=seed, grad=False).x for seed in (0, 1))
    return not torch.equal(one, other)

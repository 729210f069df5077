"""A pipeline: the parts a spec names, assembled, checked against each other, and able to train, sample and measure."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from diffcore.declare.errors import SpecError, UnknownComponentError
from diffcore.learning import conditions, distributed
from diffcore.learning.data import Data, Source
from diffcore.learning.trainer import Report
from diffcore.numerics import calibration
from diffcore.numerics.arguments import shown, whole
from diffcore.numerics.calling import in_precision
from diffcore.numerics.draw import Draw, mix
from diffcore.numerics.fields import Denoiser, Field
from diffcore.numerics.kept import Kept
from diffcore.numerics.process import Process
from diffcore.numerics.readings import Reading
from diffcore.numerics.sampling import Result, sample
from diffcore.numerics.solver import Solver
from diffcore.numerics.tree import State, tree_map
from diffcore.run import foresight, measuring, resuming, sizes, trained, weights
from diffcore.run.assembly import Assembly, UnfitError, UnopenedError
from diffcore.run.metadata import Known, Paused, Trained
from diffcore.run.ownership import owned
from diffcore.run.remembered import contents_of, numbered, reopened
from diffcore.run.report import notebook
from diffcore.run.samples import Samples
from diffcore.run.spec import Spec
from diffcore.run.training import Progress
from diffcore.run.training import train as train_pipeline
from diffcore.specs.registry import Registry

CALIBRATION = 0xF17
"""Salt of the noise from which solvers are calibrated to a model."""
SAMPLING = 0x5A3
"""Salt of all sampling noise, which separates it from the noise of training under the same seed."""
_LOG = logging.getLogger("diffcore")


class Pipeline(Assembly):
    """The assembled parts of a spec. Weights are initialised from the spec's seed, or from `init` where it names some."""

    def __init__(
        self,
        spec: Spec,
        registry: Registry,
        device: str | torch.device | None = None,
        *,
        source: Source | None = None,
        known: Known | None = None,
    ) -> None:
        """Raises `UnfitError` with every problem, `UnopenedError` where the data cannot be opened and that is the only one."""
        super().__init__(spec, registry, device, source=source, known=known)
        if len(self.problems) == 1 and not hasattr(self, "source"):
            raise UnopenedError(*self.problems[0])
        if self.problems:
            raise UnfitError(self.problems)
        self.step, self.missing, self._loaded = 0, dict[str, str](), known is not None
        self.notes: tuple[str, ...] = tuple(foresight.notes(self)) if known is None else ()
        self.net.reading = Reading(spec.prediction, "feature", "unit", sigma_data=spec.sigma_data)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        self.denoiser = Denoiser(self.net, process=cast(Process, self.process))
        self.extra: Mapping[str, nn.Module] = {}
        if spec.init is not None:
            held = weights.read(Path(spec.init), "init")
            if held.note:
                _LOG.warning(held.note)
            weights.take(held.file, held.tensors, self.parts)
        with self._seeded(0x1055):
            more = spec.loss.parts(self.denoiser, self.source.event, self.source.classes)
        self.extra = {role: module.to(self.device) for role, module in more.items()}
        self.denoiser.parts = self.parts
        codec = spec.data.parts()
        self.codec = {role: module.to(self.device).requires_grad_(False).eval() for role, module in codec.items()}
        self.calibrations: dict[str, Mapping[str, Tensor]] = {}
        self._cast = Kept(1)

    @property
    def solver(self) -> Solver:
        """The solver of the spec."""
        return self.spec.solver

    @property
    def data(self) -> Data:
        """The data of the spec; `source` is what it opened."""
        return self.spec.data

    def __repr__(self) -> str:
        """The parts in one line."""
        return notebook.in_a_line(self)

    def _repr_html_(self) -> str:
        return notebook.table_of_parts(self)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules that training may change, by role."""
        process = {"process": self.process} if isinstance(self.process, nn.Module) else {}
        return {"network": self.net, **process, **self.extra}

    def field(self, cond: Mapping[str, Any] | None = None, *, guided: bool = True) -> Field:
        """The field under some conditions: what a solver sees."""
        guidance = self.spec.guidance if guided else ()
        return Field(self._sampled, guidance, cond=cond, flow_map=self.spec.flow_map)

    @property
    def _sampled(self) -> Denoiser:
        """The denoiser in the precision of sampling: of a copy of the network where that is another, made anew when it learns."""
        if self.spec.sampling.dtype == "float32":
            return self.denoiser
        dtype = getattr(torch, self.spec.sampling.dtype)
        weights = tuple((p.data_ptr(), p._version) for p in self.net.parameters())
        return self._cast.get((dtype, weights), lambda: self.denoiser.with_net(deepcopy(self.net).eval().to(dtype)))

    # --- training -----------------------------------------------------------------------------------------------------

    def train(
        self,
        out: str | Path | None = None,
        *,
        progress: Progress | None = None,
        log: Callable[[Report], None] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """Train to the spec's last step, then use the averaged weights.

        out: where checkpoints go; training resumes from the newest whole one there, exactly, and ends with it where it is of
        the spec's last step or a later one. Ctrl-C waits for the end of the step, saves one (with several processes the last one
        stands) and raises `KeyboardInterrupt`. Raises `CheckpointError` where `out` is another spec's, or in use.
        """
        self._refuse_missing("trainer", "loss")
        if out is None:
            return train_pipeline(self, None, progress, log, say)
        with owned(Path(out), lambda: self.check_resumable(out)):
            return train_pipeline(self, Path(out) / "checkpoints", progress, log, say)

    def check_resumable(self, out: str | Path) -> None:
        """Raise `CheckpointError`, naming what differs, where `out` holds what another spec, or other data, has made."""
        resuming.check(Path(out), self.record())

    def record(self) -> Trained:
        """What is stored with weights and checkpoints: the spec, what it was made of, and what is known of its data."""
        from diffcore.specs import dump

        return Trained(
            spec=dump(self.registry, self.spec),
            fingerprint=tuple(map(float, self.process.fingerprint())),
            parts=trained.parts_of(self.registry, self.spec),
            data=self._known_in_full,
            step=self.step,
        )

    @cached_property
    def _known_in_full(self) -> Known | None:
        """What is known of the data, with digests of samples: those of the training where the weights were loaded."""
        if self.known is None or self._loaded:
            return self.known
        return attrs.evolve(self.known, contents=contents_of(self.source))

    def _refuse_missing(self, *sections: str) -> None:
        """Raise `UnknownComponentError` where a part that is needed now was left out when the weights were loaded."""
        found = [f"{name}: {why}" for name, why in self.missing.items() if name in sections]
        if found:
            raise UnknownComponentError(f"this run has parts that are not here: {'; '.join(found)}")

    # --- sampling -----------------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int | None = None,
        seed: int = 0,
        cond: Mapping[str, Any] | None = None,
        *,
        solver: Solver | None = None,
        batch: int | None = None,
        guided: bool = True,
        progress: Progress | None = None,
    ) -> Samples:
        """n samples by the spec's solver (or another). Sample i is the same whatever n, the batch and the world size.

        cond: condition name -> class (its number or name), or one class per sample; classes not named are taken in turn. A
        condition that is no class is given as one array or one per sample (None: the null value), and cannot be left out.

        Raises `SpecError` for arguments of the wrong kind.
        """
        n = self.spec.sampling.n if n is None else whole("n", n, 1, 2**40)
        sizes.require(n, self.source.event, torch.device("cpu"))
        made = self.batches(n, seed, cond, solver=solver, batch=batch, guided=guided, progress=progress)
        done = first = next(made)
        every, filled = tree_map(lambda leaf: leaf.new_empty(n, *leaf.shape[1:]), first.numbers), 0
        for part in chain([first], made):
            rows = slice(filled, filled + len(part))
            tree_map(lambda into, leaf, rows=rows: into[rows].copy_(leaf), every, part.numbers)
            done, filled = part, rows.stop
        chosen = self.conditions(n, self.spec.sampling.cond if cond is None else cond)
        return attrs.evolve(done, cond=chosen, **every)

    def batches(
        self,
        n: int,
        seed: int = 0,
        cond: Mapping[str, Any] | None = None,
        *,
        solver: Solver | None = None,
        batch: int | None = None,
        guided: bool = True,
        progress: Progress | None = None,
    ) -> Iterator[Samples]:
        """The samples of `sample`, batch by batch as they are made, each with the cost so far: no more than one is held.

        Several processes share every batch of theirs together, and each yields all of it.
        """
        n, seed = whole("n", n, 1, 2**40), whole("seed", seed)
        batch = self.spec.sampling.batch if batch is None else whole("batch", batch, 1, 2**40)
        chosen, started = self.conditions(n, self.spec.sampling.cond if cond is None else cond), time.perf_counter()
        group = self.group_of(solver, n, guided=guided)
        batch = max(batch // group, 1) * group * distributed.world()[1]
        nfe, calls, steps = 0.0, 0, 0
        if progress:
            progress.start(n, "sampling")
        for first in range(0, n, batch):
            ids = range(first, min(first + batch, n))
            part = {k: v[ids.start : ids.stop] for k, v in chosen.items()}
            made = self._shared(ids, seed, part, solver, guided, group)
            nfe, calls, steps = max(nfe, made.nfe), max(calls, made.calls), max(steps, made.steps)
            if progress:
                progress.update(ids.stop)
            spent = time.perf_counter() - started
            yield Samples(made.x, part, nfe, calls, spent, self, steps, made.logw, made.logp, group)
        if progress:
            progress.close()

    def group_of(self, solver: Solver | None, n: int, *, guided: bool = True) -> int:
        """How many samples of a solver belong together. Raises `SpecError` where n of them are not whole groups."""
        group: int = self.field(guided=guided).steps(_solver(self.solver if solver is None else solver)).group
        sizes.check_groups(n, group)
        return group

    def _shared(
        self, ids: range, seed: int, cond: Mapping[str, Tensor], solver: Solver | None, guided: bool, group: int
    ) -> Result:
        """The samples with these numbers, each process making its part (of the first the shape, where that is none)."""
        share = distributed.share(len(ids), group)
        rows = share if len(share) else range(group)
        part = {k: v[rows.start : rows.stop].to(self.device) for k, v in cond.items()}
        made = self.sample_ids(ids[rows.start : rows.stop], seed, part, solver, guided=guided)

        def gathered(leaf: Any) -> Any:
            return None if leaf is None else distributed.gather(leaf[: len(share)], len(ids), group)

        return attrs.evolve(made, x=tree_map(gathered, made.x), logw=gathered(made.logw), logp=gathered(made.logp))

    def sample_ids(
        self,
        ids: Sequence[int],
        seed: int,
        cond: Mapping[str, Any],
        solver: Solver | None = None,
        *,
        guided: bool = True,
        keep_frames: bool = False,
    ) -> Result:
        """The samples with these global numbers, in one batch."""
        solver = self.ready(_solver(self.solver if solver is None else solver))
        draw = Draw(seed, ids, salt=SAMPLING, device=self.device)
        self.net.eval()
        x = self._start(self.process.prior(self.source.event, draw))
        mode = "eager" if keep_frames else self.spec.sampling.mode
        return sample(
            self.field(cond, guided=guided), solver, x, seed=mix(seed, SAMPLING), ids=ids, mode=mode, keep_frames=keep_frames
        )

    def _start(self, x: State) -> State:
        """Draws of the prior in the precision of the state: the same numbers, so that precisions can be compared."""
        return in_precision(torch.float64, x) if self.spec.sampling.dtype == "float64" else x

    def ready(self, solver: Solver) -> Solver:
        """The solver with what it must know about this model under the spec's guidance, found once and kept in `calibrations`."""
        wanted = calibration.calibrate_on(solver)
        if not wanted:
            return solver
        key = self.calibration_key(solver)
        if key not in self.calibrations:
            draw = Draw(self.spec.seed, range(wanted), salt=CALIBRATION, device=self.device)
            field = self.field(self.usual_conditions(wanted))
            self.net.eval()
            with torch.no_grad():
                start = self._start(self.process.prior(self.source.event, draw))
                self.calibrations[key] = calibration.Table(calibration.calibrate(solver, field, start))
        return calibration.calibrated(solver, self.calibrations[key])

    def calibration_key(self, solver: Solver) -> str:
        """What a calibration depends on beside the weights: the solver, the guidance, the conditions."""
        from diffcore.specs import unstructure

        parts = (calibration.calibrated_as(solver), self.spec.guidance, self.spec.flow_map, self.spec.sampling.cond)
        return json.dumps([unstructure(self.registry, part) for part in parts])

    def conditions(self, n: int, cond: Mapping[str, Any]) -> dict[str, Tensor]:
        """Every condition of the data, one row per sample: classes as asked, by number or name, else all combinations in turn;
        arrays as asked.

        Raises `SpecError` for unknown conditions and classes, and for arrays that are missing or of another shape.
        """
        if not isinstance(cond, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SpecError(f"cond maps conditions to values, such as {{'label': 3}}; got {shown(cond)}")
        given = {name: value for name, value in cond.items() if name not in self.arrays}
        classes = self.classes(n, numbered(self.known, given))
        null = self.denoiser.null if getattr(self.spec.loss, "drops", True) else {}
        return {**classes, **conditions.chosen(cond, self.arrays, getattr(self.source, "types", {}), null, n)}

    def usual_conditions(self, n: int) -> dict[str, Tensor]:
        """The conditions of samples for which none are asked, on the device: the spec's, arrays from the data."""
        found = self.conditions(n, {**conditions.of_data(self.source, self.arrays, n), **self.spec.sampling.cond})
        return {name: value.to(self.device) for name, value in found.items()}

    def evaluate(
        self, *, progress: Progress | None = None, done: Callable[[dict[str, Any], Samples], None] | None = None
    ) -> list[dict[str, Any]]:
        """The spec's table: the main solver, then every solver of `evaluation` at every budget it can meet (without budgets:
        with its own steps).

        done: called with each row and its samples as soon as they are there.
        """
        self._refuse_missing("metrics", "evaluation")
        return list(measuring.table(self, progress, done or (lambda row, made: None)))

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the weights in use and the whole spec to a safetensors file (or to `weights.safetensors` in a folder).

        Of several processes of a run the first one writes; all call this. Raises `CheckpointError` where the folder holds what
        another spec has made.
        """
        self._refuse_missing(*trained.IDLE)
        path = Path(path)
        if path.suffix == ".safetensors":
            return self._write(path)
        with owned(path, lambda: self.check_resumable(path)):
            return self._write(path / weights.NAME)

    def _write(self, target: Path) -> Path:
        if distributed.world()[0] == 0:
            weights.write(target, {**self.parts, **self.codec}, self.record(), self.calibrations)
        distributed.barrier()
        return target

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        registry: Registry | None = None,
        overrides: Sequence[str] = (),
        device: str | torch.device | None = None,
    ) -> Pipeline:
        """The pipeline of a run directory, a weights file or a checkpoint: spec and weights, nothing else to remember.

        It samples as it was trained, whatever has become of its data. Raises `CheckpointError` for missing or damaged weights,
        and where the installed process is no longer the one of training (same name, other schedule); `UnknownComponentError`
        naming the distribution of a part that is gone, where no override replaces it; `SpecError` for overrides of what the
        weights were trained with.
        """
        registry, held = registry or Registry.load(), weights.read(Path(path))
        if held.note:
            _LOG.warning(held.note)
        spec, missing = trained.spec_of(held, registry, overrides)
        for section, why in missing.items():
            _LOG.warning("%s of %s left out: %s", section, held.file, why)
        known = held.meta.data
        replaced = any(text.strip().startswith("data") for text in overrides)
        source = reopened(spec.data, known, replaced=replaced, say=_LOG.warning) if known else None
        pipeline = cls(attrs.evolve(spec, init=None), registry, device, source=source, known=known)
        weights.take(held.file, held.tensors, {**pipeline.parts, **pipeline.codec})
        averaged_since = isinstance(pipeline.process, nn.Module) and isinstance(held.meta, Paused)
        if not averaged_since:  # the numbers of a process that learns are those of its weights before their average
            weights.check_process(held.file, held.meta.fingerprint, cast(Process, pipeline.process))
        pipeline.calibrations, pipeline.step = weights.calibrations_of(held), held.meta.step
        pipeline.spec, pipeline.missing = spec, missing
        return pipeline


def _solver(found: Any) -> Solver:
    if not isinstance(found, Solver):
        raise SpecError(f"solver must be one, such as registry.make('solver', 'heun', steps=20); got {shown(found)}")
    return found

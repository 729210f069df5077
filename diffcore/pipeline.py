"""A pipeline: the parts a spec names, assembled, checked against each other, and able to train, sample and measure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import attrs
import torch
from torch import Tensor, nn

from diffcore import checkpoint, distributed, foresight, measuring, resuming, sizes, weights
from diffcore.data import Loader, Source
from diffcore.errors import CheckpointError, DataError, IncompatibleError, SpecError
from diffcore.fields import Denoiser, Field
from diffcore.fitting import Findings, place_of, problems
from diffcore.interrupt import Interrupt
from diffcore.noise import Draw, mix
from diffcore.process import Process
from diffcore.registry import Registry
from diffcore.sampling import Result, sample
from diffcore.solver import Solver
from diffcore.specs.spec import Spec
from diffcore.trainer import Job, Player, Report
from diffcore.tree import State, tree_map

FITTING = 0xF17
"""Salt of the noise from which solvers are fitted to a model."""
SAMPLING = 0x5A3
"""Salt of all sampling noise, which separates it from the noise of training under the same seed."""
AFTER_TRAINING = ("sampling", "solver", "guidance", "metrics", "evaluation")
"""Sections of a spec that say nothing about training."""


class Progress(Protocol):
    """What shows long work; the command line's bar is one."""

    def start(self, total: int, label: str, done: int = 0) -> None: ...  # noqa: D102
    def update(self, step: int, **numbers: float) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


@attrs.frozen
class Samples:
    """Samples as the network makes them, with their conditions and cost. `raw()` is what they mean: in the range of the data."""

    x: State
    cond: Mapping[str, Tensor]
    nfe: float
    calls: int
    seconds: float
    pipeline: Pipeline = attrs.field(repr=False)

    def raw(self) -> State:
        """The samples as data: decoded, in the data's own range, clipped to it."""
        return self.pipeline.spec.data.decode(self.x)


def assemble(
    spec: str | Path | Mapping[str, Any] | Spec,
    *,
    registry: Registry | None = None,
    overrides: Sequence[str] = (),
    device: str | torch.device | None = None,
) -> Pipeline:
    """Read a spec (file, mapping or `Spec`), make its components, and check that they fit together.

    Raises `SpecError` with every fault of the spec, `IncompatibleError` with every reason why parts do not fit (both name the
    places), `DataError` where the data is not there.
    """
    registry = registry or Registry.load()
    from diffcore.specs import SpecErrors, load_spec
    from diffcore.specs.placing import DataFaultError, MisfitError, placed

    if isinstance(spec, Spec):
        if overrides:
            raise SpecError("overrides change a spec that is read; give a finished Spec its fields with attrs.evolve")
        return Pipeline(spec, registry, device)
    try:
        return Pipeline(load_spec(spec, registry, overrides), registry, device)
    except SpecErrors as found:
        if found.standing is None:
            raise
        standing, broken = found.standing
        more = Pipeline.misfits(standing, registry, device, broken=broken)
        raise SpecErrors([*found.faults, *placed(more, spec, overrides)]) from None
    except UnfitError as found:
        raise MisfitError(placed(found.problems, spec, overrides)) from None
    except UnopenedError as found:
        raise DataFaultError(placed(found.problems, spec, overrides)) from None


class UnfitError(IncompatibleError):
    """What does not fit, each with the path of the part in the spec."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{path}: {message}" for path, message in problems))


class UnopenedError(DataError):
    """Data that cannot be opened, in a spec without other faults, with its path in the spec."""

    def __init__(self, path: str, message: str) -> None:
        self.problems = ((path, message),)
        super().__init__(message)


def device_of(name: str | torch.device | None) -> torch.device:
    """The device of this name (default: CUDA where there is one). Raises `SpecError` where this machine has none such."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise SpecError(f"no device '{name}'; choose cpu, or cuda (cuda:1, ...) where there is a GPU") from None
    counts: dict[str, Callable[[], int]] = {
        "cpu": lambda: 1,
        "cuda": torch.cuda.device_count,
        "mps": lambda: int(torch.backends.mps.is_available()),
        "xpu": torch.xpu.device_count,
    }
    if device.type not in counts:
        raise SpecError(f"device '{name}' cannot compute; choose cpu, or cuda where there is a GPU")
    there = counts[device.type]()
    if (device.index or 0) >= there:
        raise SpecError(
            f"device '{name}' is not there: torch {torch.__version__} sees {there} {device.type} device{'s' * (there != 1)}"
        )
    return device


class Pipeline:
    """The assembled parts of a spec. Weights are initialised from the spec's seed, or from `init` where it names some."""

    def __init__(
        self, spec: Spec, registry: Registry, device: str | torch.device | None = None, *, known: Mapping[str, Any] | None = None
    ) -> None:
        """known: `shape` and `classes` of data that need not be there; without them it must be."""
        found = self._put_together(spec, registry, device, known)
        if len(found) == 1 and not hasattr(self, "source"):
            raise UnopenedError(*found[0])
        if found:
            raise UnfitError(found)
        self.notes: tuple[str, ...] = tuple(foresight.notes(self)) if known is None else ()
        self.denoiser = Denoiser(
            self.net, spec.prediction, process=cast(Process, self.process), sigma_data=spec.sigma_data, precondition=True
        )
        self.extra: Mapping[str, nn.Module] = {}
        if spec.init is not None:
            file = weights.find(Path(spec.init), "init")
            weights.take(file, checkpoint.load(file)[0], self.parts)
        with self._seeded(0x1055):
            more = spec.loss.parts(self.denoiser, self.source.shape, self.source.classes)
        self.extra = {role: module.to(self.device) for role, module in more.items()}
        self.denoiser.parts = self.parts
        codec = spec.data.parts()
        self.codec = {role: module.to(self.device).requires_grad_(False).eval() for role, module in codec.items()}
        self.fits: dict[str, Mapping[str, Tensor]] = {}

    @contextmanager
    def _seeded(self, part: int) -> Generator[None]:
        """First weights are a function of the spec's seed, on every rank; torch's global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self.spec.seed, part) & 0x7FFFFFFF)
            yield

    @classmethod
    def misfits(
        cls, spec: Spec, registry: Registry, device: str | torch.device | None = None, *, broken: frozenset[str] = frozenset()
    ) -> list[tuple[str, str]]:
        """(path, message) of everything in a spec that cannot be opened, built or used together.

        broken: its sections that are None, because they have faults of their own.
        """
        return cls.__new__(cls)._put_together(spec, registry, device, broken=broken)

    def _put_together(
        self,
        spec: Spec,
        registry: Registry,
        device: str | torch.device | None,
        known: Mapping[str, Any] | None = None,
        broken: frozenset[str] = frozenset(),
    ) -> list[tuple[str, str]]:
        """Open the data, build process and network; (path, message) of all that does not work or fit."""
        self.spec, self.registry, self.device = spec, registry, device_of(device)
        found = Findings()
        if "data" not in broken:
            with found.at(lambda error: place_of(spec.data, error)):
                self.source: Source = spec.data.reopen(**known) if known else spec.data.open()
        if "process" not in broken:
            with found.at("process"), self._seeded(0x9C0):
                self.process: Any = spec.process.build()
                if isinstance(self.process, nn.Module):
                    self.process.to(self.device)
        broken |= {section for section, part in (("data", "source"), ("process", "process")) if not hasattr(self, part)}
        classes = self.source.classes if "data" not in broken else None
        provides = cast(Process, self.process).provides if "process" not in broken else None
        found.problems += problems(spec, registry, provides, classes, broken)
        for path, needs, check in self._checks(loaded=known is not None):
            if not broken & needs:
                with found.at(path):
                    check()
        if known is None:
            oversized = {"evaluation" for path, _ in found.problems if path.startswith("evaluation.")}
            found.problems += foresight.problems(self, broken | oversized)
        return found.problems

    def _checks(self, *, loaded: bool) -> Iterator[tuple[str, set[str], Callable[[], Any]]]:
        """(path, the sections it is about, what raises where they do not fit)."""
        spec = self.spec
        yield "prediction", {"process", "prediction"}, lambda: self.process.check_prediction(spec.prediction, spec.sigma_data)
        yield "network", {"data", "process", "network", "prediction", "trainer"}, partial(self._network, loaded)
        yield "sampling.cond", {"data", "sampling"}, lambda: self.conditions(1, spec.sampling.cond)
        yield "sampling.mode", {"sampling"}, self._check_mode
        yield "evaluation.calls", {"evaluation"}, self._check_budgets
        for path in sizes.COUNTS if not loaded else ():
            yield path, {"data", path.partition(".")[0]}, partial(self._check_size, path)

    def _network(self, loaded: bool) -> None:
        spec, shape, classes = self.spec, self.source.shape, self.source.classes
        outputs = self.process.output_shape(shape, spec.prediction)
        other = {} if outputs == shape else {"outputs": outputs}

        def build() -> nn.Module:
            with self._seeded(0x1217):
                return spec.network.build(shape, classes, **other)

        copies = 1 if loaded or not spec.trainer.steps else sizes.LEARNT
        self.net = sizes.built(build, sizes.memory(self.device) // copies, "the network").to(self.device)

    def _check_size(self, path: str) -> None:
        sizes.check(path, self.spec, self.source.shape, self.device)

    def _check_mode(self) -> None:
        if self.spec.sampling.mode == "graph" and self.device.type != "cuda":
            raise SpecError("'graph' needs a CUDA device, and this run is on another; choose compile or eager")

    def _check_budgets(self) -> None:
        if self.spec.evaluation.calls and not self.spec.evaluation.solvers:
            raise SpecError("budgets are for evaluation.solvers, and none is named; name some or leave it out")

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules that training may change, by role."""
        process = {"process": self.process} if isinstance(self.process, nn.Module) else {}
        return {"network": self.net, **process, **self.extra}

    def field(self, cond: Mapping[str, Any] | None = None, *, guided: bool = True) -> Field:
        """The field under some conditions: what a solver sees."""
        guidance = self.spec.guidance if guided else ()
        return Field(self.process, self.denoiser, guidance, cond=cond, flow_map=self.spec.flow_map)

    # --- training -----------------------------------------------------------------------------------------------------

    def job(self) -> Job:
        """What the training program needs."""
        rank, world = distributed.world()
        spec = self.spec
        loader = Loader(self.source, spec.data.encode, spec.trainer.batch, spec.seed, rank, world)

        def batches(step: int) -> tuple[Any, Mapping[str, Tensor]]:
            x0, cond = loader(step)
            return tree_map(lambda leaf: leaf.to(self.device), x0), {k: v.to(self.device) for k, v in cond.items()}

        def loss(x0: Any, draw: Draw, **cond: Any) -> Any:
            self.denoiser.trace.at = None
            return spec.loss(self.denoiser, x0, draw, **cond)

        def times() -> Any:
            return getattr(self.denoiser.trace.at, "t", None)

        return Job(
            parts=self.parts,
            loss=loss,
            batches=batches,
            seed=spec.seed,
            device=self.device,
            times=times,
            after=lambda step: spec.loss.after_step(self.denoiser, step),
            name=f"loss {type(spec.loss).__name__}",
        )

    def train(
        self,
        out: str | Path | None = None,
        *,
        progress: Progress | None = None,
        log: Callable[[Report], None] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """Train to the spec's last step, then use the averaged weights.

        out: where checkpoints go; training resumes from the newest whole one there, exactly. Ctrl-C waits for the end of the
        step, saves one (with several processes the last one stands) and raises `KeyboardInterrupt`.
        """
        job, trainer = self.job(), self.spec.trainer
        players = list(trainer.players(job.parts))
        folder = Path(out) / "checkpoints" if out is not None else None
        step = resuming.restore(folder, players, self.parts, self.identity(), say) if folder else 0
        for module in job.parts.values():
            module.train()
        if progress:
            progress.start(trainer.steps, f"training {self.spec.name}", step)
        with Interrupt() as interrupt:
            try:
                for report in trainer.run(job, players, step):
                    step = report.step
                    if log and (step % trainer.log_every == 0 or step == trainer.steps):
                        log(report)
                    if folder and (step % trainer.checkpoint_every == 0 or step == trainer.steps):
                        resuming.keep(folder, players, self.parts, self.identity(), step, trainer.keep)
                    if progress:
                        progress.update(step, **report.numbers)
                    interrupt.check()
            except KeyboardInterrupt:
                if folder and not interrupt.forced and distributed.world()[1] == 1:
                    resuming.keep(folder, players, self.parts, self.identity(), step, trainer.keep)
                raise
            finally:
                if progress:
                    progress.close()
        self._use_average(players)
        self.fits.clear()

    def check_resumable(self, out: str | Path) -> None:
        """Raise `CheckpointError`, naming what differs, where `out` holds the training of another spec."""
        resuming.check(Path(out) / "checkpoints", self.identity())

    def identity(self) -> dict[str, Any]:
        """What must agree for a checkpoint to be continued: everything in the spec that changes training.

        A run may be trained longer where its learning rate does not depend on the number of steps.
        """
        free = ["checkpoint_every", "keep", "log_every"]
        if getattr(self.spec.trainer, "final_lr", 0.0) is None:
            free.append("steps")
        return resuming.identity(self.registry, self.spec, without=(*AFTER_TRAINING, "name"), free=free)

    @torch.no_grad()
    def _use_average(self, players: Sequence[Player]) -> None:
        for player in players:
            for key, average in player.ema.items():
                player.parameters[key].copy_(average)
        for module in self.parts.values():
            module.eval()

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

        cond: condition name -> class, or one class per sample; conditions not named are cycled over their classes.
        """
        n = self.spec.sampling.n if n is None else n
        sizes.require(n, self.source.shape, torch.device("cpu"))
        batch, started = batch or self.spec.sampling.batch, time.perf_counter()
        chosen = self.conditions(n, self.spec.sampling.cond if cond is None else cond)
        rows = distributed.share(n)
        done: list[State] = []
        result, made = None, 0
        if progress:
            progress.start(len(rows), "sampling")
        for first in range(rows.start, rows.stop, batch):
            ids = range(first, min(first + batch, rows.stop))
            part = {k: v[ids.start : ids.stop].to(self.device) for k, v in chosen.items()}
            result = self.sample_ids(ids, seed, part, solver, guided=guided)
            done.append(result.x)
            made += len(ids)
            if progress:
                progress.update(made)
        if progress:
            progress.close()
        if not done:  # more processes than samples: of the first sample, nothing but its shape
            first = self.sample_ids([0], seed, {k: v[:1].to(self.device) for k, v in chosen.items()}, solver, guided=guided)
            done = [tree_map(lambda leaf: leaf[:0], first.x)]
        x = tree_map(lambda *parts: distributed.gather(torch.cat(parts), n), *done)
        nfe, calls = (result.nfe, result.calls) if result else (0.0, 0)
        return Samples(x, chosen, nfe, calls, time.perf_counter() - started, self)

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
        solver = self.ready(solver or self.spec.solver)
        draw = Draw(seed, ids, salt=SAMPLING, device=self.device)
        self.net.eval()
        x = self.process.prior(self.source.shape, draw)
        mode = "eager" if keep_frames else self.spec.sampling.mode
        return sample(
            self.field(cond, guided=guided), solver, x, seed=mix(seed, SAMPLING), ids=ids, mode=mode, keep_frames=keep_frames
        )

    def ready(self, solver: Solver) -> Solver:
        """The solver with what it must know about this model under the spec's guidance, found out once and kept in `fits`."""
        if not solver.fit_on:
            return solver
        key = self.fit_key(solver)
        if key not in self.fits:
            draw = Draw(self.spec.seed, range(solver.fit_on), salt=FITTING, device=self.device)
            cond = {k: v.to(self.device) for k, v in self.conditions(solver.fit_on, self.spec.sampling.cond).items()}
            self.net.eval()
            with torch.no_grad():
                self.fits[key] = solver.fit(self.field(cond), self.process.prior(self.source.shape, draw))
        return solver.fitted(self.fits[key])

    def fit_key(self, solver: Solver) -> str:
        """What a fit depends on beside the weights: the solver, the guidance, the conditions."""
        from diffcore.specs import unstructure

        parts = (solver.fit_as(), self.spec.guidance, self.spec.flow_map, self.spec.sampling.cond)
        return json.dumps([unstructure(self.registry, part) for part in parts])

    def conditions(self, n: int, cond: Mapping[str, Any]) -> dict[str, Tensor]:
        """One class per sample for every condition of the data: as asked, else all combinations in turn.

        Raises `SpecError` for unknown conditions and classes.
        """
        classes = self.source.classes
        for name in cond:
            if name not in classes:
                raise SpecError(f"no condition '{name}'; {type(self.spec.data).__name__} has: {', '.join(classes) or 'none'}")
        chosen, turn = dict[str, Tensor](), 1
        for name, count in classes.items():
            value = torch.as_tensor(cond.get(name, torch.arange(n) // turn % count))
            turn *= 1 if name in cond else count
            if value.is_floating_point() or value.is_complex():
                raise SpecError(f"condition '{name}' is a class, an integer of 0 to {count - 1}; got {cond[name]!r}")
            value = value.to(torch.int64)
            value = value.expand(n) if value.ndim == 0 else value
            if len(value) != n or bool(((value < 0) | (value > count)).any()):
                raise SpecError(f"condition '{name}' must be one class, or {n} classes, of 0 to {count - 1} ({count} for none)")
            chosen[name] = value
        return chosen

    def evaluate(
        self, *, progress: Progress | None = None, done: Callable[[dict[str, Any], Samples], None] | None = None
    ) -> list[dict[str, Any]]:
        """The spec's table: the main solver, then every solver of `evaluation` at every budget it can meet (without budgets:
        with its own steps).

        done: called with each row and its samples as soon as they are there.
        """
        return list(measuring.table(self, progress, done or (lambda row, made: None)))

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the weights in use and the whole spec to a safetensors file (or to `weights.safetensors` in a folder)."""
        from diffcore.specs import dump

        path = Path(path)
        target = path if path.suffix == ".safetensors" else path / "weights.safetensors"
        meta = {"spec": dump(self.registry, self.spec), "fingerprint": self.process.fingerprint()}
        if all(isinstance(side, int) for side in self.source.shape):
            meta["data"] = {"shape": list(self.source.shape), "classes": dict(self.source.classes)}
        weights.write(target, {**self.parts, **self.codec}, meta, self.fits)
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
        """The pipeline of a weights file or run directory: spec and weights, nothing else to remember.

        Raises `CheckpointError` for missing or damaged weights, and where the installed process is no longer the one of
        training (same name, other schedule). Raises `SpecError` for overrides of what the weights were trained with.
        """
        from diffcore.specs import load_spec

        registry, file = registry or Registry.load(), weights.find(Path(path))
        tensors, meta = checkpoint.load(file)
        if not {"spec", "fingerprint", "fits"} <= meta.keys():
            raise CheckpointError(f"{file} holds no weights of a finished run; take the run directory or its weights.safetensors")
        spec = load_spec(meta["spec"], registry, overrides, name=str(file))
        if overrides:
            trained = load_spec(meta["spec"], registry, name=str(file))
            sections = (*AFTER_TRAINING, "data", "flow_map", "name")
            before, after = (resuming.identity(registry, each, without=sections) for each in (trained, spec))
            changed = resuming.differences(before, after)
            if changed:
                raise SpecError(f"--set cannot change what {file} was trained with: {'; '.join(changed)}; train again for that")
        pipeline = cls(attrs.evolve(spec, init=None), registry, device, known=meta.get("data"))
        weights.take(file, tensors, {**pipeline.parts, **pipeline.codec})
        pipeline.fits = weights.fits_of(tensors, meta)
        weights.check_process(file, meta["fingerprint"], pipeline.process)
        pipeline.spec = spec
        return pipeline

"""A pipeline: the parts a spec names, assembled, checked against each other, and able to train, sample and measure."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import attrs
import torch
from torch import Tensor, nn

from diffcore import distributed, measuring, resuming, trained, weights
from diffcore.data import Loader, Source
from diffcore.errors import IncompatibleError, SpecError, UnknownComponentError
from diffcore.fields import Denoiser, Field
from diffcore.fitting import problems
from diffcore.metadata import Known, Paused, Trained
from diffcore.noise import Draw, mix
from diffcore.ownership import owned
from diffcore.process import Process
from diffcore.registry import Registry
from diffcore.remembered import known_of, numbered, reopened
from diffcore.sampling import Result, sample
from diffcore.solver import Solver
from diffcore.specs.spec import Spec
from diffcore.trainer import Job, Report
from diffcore.training import train as train_pipeline
from diffcore.tree import State, tree_map

FITTING = 0xF17
"""Salt of the noise from which solvers are fitted to a model."""
SAMPLING = 0x5A3
"""Salt of all sampling noise, which separates it from the noise of training under the same seed."""
_LOG = logging.getLogger("diffcore")


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
    from diffcore.specs import load_spec
    from diffcore.specs.placing import placed

    if isinstance(spec, Spec):
        if overrides:
            raise SpecError("overrides change a spec that is read; give a finished Spec its fields with attrs.evolve")
        return Pipeline(spec, registry, device)
    try:
        return Pipeline(load_spec(spec, registry, overrides), registry, device)
    except UnfitError as found:
        raise placed(found.problems, spec, overrides) from None


class UnfitError(IncompatibleError):
    """What does not fit, each with the path of the part in the spec."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{path}: {message}" for path, message in problems))


def device_of(name: str | torch.device | None) -> torch.device:
    """The device of this name (default: CUDA where there is one). Raises `SpecError` where this machine has none such."""
    cuda = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if cuda else "cpu"))
    except RuntimeError:
        raise SpecError(f"no device '{name}'; choose cpu, or cuda (cuda:1, ...) where there is a GPU") from None
    if device.type not in ("cpu", "cuda", "mps", "xpu"):
        raise SpecError(f"device '{name}' cannot compute; choose cpu, or cuda where there is a GPU")
    if device.type == "cuda" and not (cuda and (device.index or 0) < torch.cuda.device_count()):
        raise SpecError(f"device '{name}' is not there: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices")
    return device


class Pipeline:
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
        """source, known: the data, opened, and what a run knows of it; else the data of the spec is opened, and must be there."""
        self.spec, self.registry = spec, registry
        self.device = device_of(device)
        self.source: Source = spec.data.open() if source is None else source
        self.known = known or known_of(spec.data, self.source)
        self.step, self.missing = 0, dict[str, str]()
        with self._seeded(0x9C0):
            self.process: Any = spec.process.build()
        if isinstance(self.process, nn.Module):
            self.process.to(self.device)
        self.net = self._checked_network()
        self.denoiser = Denoiser(
            self.net, spec.prediction, process=cast(Process, self.process), sigma_data=spec.sigma_data, precondition=True
        )
        self.extra: Mapping[str, nn.Module] = {}
        if spec.init is not None:
            held = weights.read(Path(spec.init), "init")
            if held.note:
                _LOG.warning(held.note)
            weights.take(held.file, held.tensors, self.parts)
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

    def _network(self) -> nn.Module:
        with self._seeded(0x1217):
            shape, classes = self.source.shape, self.source.classes
            outputs = self.process.output_shape(shape, self.spec.prediction)
            other = {} if outputs == shape else {"outputs": outputs}
            return self.spec.network.build(shape, classes, **other).to(self.device)

    def _checked_network(self) -> nn.Module:
        """The network of a spec whose parts fit together. Raises `UnfitError` with everything that does not fit."""
        spec = self.spec
        made: list[nn.Module] = []
        found = list(problems(spec, self.registry, self.process.provides, self.source.classes))
        checks: list[tuple[str, Callable[[], Any]]] = [
            ("prediction", lambda: self.process.check_prediction(spec.prediction, spec.sigma_data)),
            ("network", lambda: made.append(self._network())),
            ("sampling.cond", lambda: self.conditions(1, spec.sampling.cond)),
        ]
        for path, check in checks:
            try:
                check()
            except (IncompatibleError, SpecError) as error:
                found.append((path, str(error)))
        if spec.sampling.mode == "graph" and self.device.type != "cuda":
            found.append(("sampling.mode", "'graph' needs a CUDA device, and this run is on another; choose compile or eager"))
        if spec.evaluation.calls and not spec.evaluation.solvers:
            found.append(("evaluation.calls", "budgets are for evaluation.solvers, and none is named; name some or leave it out"))
        if found:
            raise UnfitError(found)
        return made[0]

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
            data=self.known,
            step=self.step,
        )

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

        cond: condition name -> class (its number or name), or one class per sample; conditions not named are cycled over their
        classes.
        """
        n = self.spec.sampling.n if n is None else n
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
        """One class per sample for every condition of the data: as asked, by number or name, else all combinations in turn.

        Raises `SpecError` for unknown conditions and classes.
        """
        classes, cond = self.source.classes, numbered(self.known, cond)
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
            weights.write(target, {**self.parts, **self.codec}, self.record(), self.fits)
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
        pipeline.fits, pipeline.step = weights.fits_of(held), held.meta.step
        pipeline.spec, pipeline.missing = spec, missing
        return pipeline

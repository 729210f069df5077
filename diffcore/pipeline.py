"""A pipeline: the parts a spec names, assembled, checked against each other, and able to train, sample and measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import attrs
import torch
from torch import Tensor, nn

from diffcore import checkpoint, distributed, weights
from diffcore.data import Loader, Source
from diffcore.errors import CheckpointError, IncompatibleError, SpecError
from diffcore.fields import Denoiser, Field
from diffcore.interrupt import Interrupt
from diffcore.metric import Evaluation, Measured
from diffcore.noise import Draw, mix
from diffcore.process import Process
from diffcore.registry import Registry
from diffcore.sampling import Result, sample
from diffcore.solver import Solver, evolve
from diffcore.specs.spec import Spec
from diffcore.trainer import Job, Player, Report

SAMPLING = 0x5A3
"""Salt of all sampling noise, which separates it from the noise of training under the same seed."""


class Progress(Protocol):
    """What shows long work; the command line's bar is one."""

    def start(self, total: int, label: str, done: int = 0) -> None: ...  # noqa: D102
    def update(self, step: int, **numbers: float) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


@attrs.frozen
class Samples:
    """Samples in the network's range with their conditions and cost. `raw()` is in the range of the data."""

    x: Tensor
    cond: Mapping[str, Tensor]
    nfe: float
    calls: int
    seconds: float
    pipeline: Pipeline = attrs.field(repr=False)

    def raw(self) -> Tensor:
        """The samples in the data's own range, clipped to it."""
        declared = self.pipeline.spec.data.value_range
        return self.x if declared is None else declared.to_raw(self.x.clamp(-1, 1))


def assemble(
    spec: str | Path | Mapping[str, Any] | Spec,
    *,
    registry: Registry | None = None,
    overrides: Sequence[str] = (),
    device: str | torch.device | None = None,
) -> Pipeline:
    """Read a spec (file, mapping or `Spec`), make its components, and check that they fit together.

    Raises `SpecError` with every fault of the spec, `IncompatibleError` where parts do not fit, `DataError` where the data
    is not there.
    """
    registry = registry or Registry.load()
    from diffcore.specs import load_spec

    loaded: Spec = spec if isinstance(spec, Spec) else load_spec(spec, registry, overrides)
    return Pipeline(loaded, registry, device)


class Pipeline:
    """The assembled parts of a spec. Weights are initialised from the spec's seed, or from `init` where it names some."""

    def __init__(self, spec: Spec, registry: Registry, device: str | torch.device | None = None) -> None:
        self.spec, self.registry = spec, registry
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.source: Source = spec.data.open()
        self.process: Any = spec.process.build()
        self.net = self._network()
        if isinstance(self.process, nn.Module):
            self.process.to(self.device)
        self.denoiser = Denoiser(
            self.net, spec.prediction, process=cast(Process, self.process), sigma_data=spec.sigma_data, precondition=True
        )
        self._check()
        if spec.init is not None:
            file = weights.find(Path(spec.init), "init")
            weights.take(file, checkpoint.load(file)[0], self.parts)

    def _network(self) -> nn.Module:
        if (self.spec.loss.second_time or self.spec.flow_map is not None) and not self.spec.network.takes_second_time:
            raise IncompatibleError(
                f"{type(self.spec.loss).__name__ if self.spec.loss.second_time else type(self.spec.flow_map).__name__} needs a "
                f"network with a second time; set network.second_time: true"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self.spec.seed, 0x1217) & 0x7FFFFFFF)
            return self.spec.network.build(self.source.shape, self.source.classes).to(self.device)

    def _check(self) -> None:
        spec, field = self.spec, self.field()
        for part in (spec.solver, spec.loss, spec.flow_map, *spec.evaluation.solvers):
            if part is not None:
                field.check(part)
        for part in (spec.loss, spec.flow_map):
            if part is not None and part.predictions and spec.prediction not in part.predictions:
                raise IncompatibleError(
                    f"{part.kind} {type(part).__name__} needs prediction {' or '.join(part.predictions)}, not '{spec.prediction}'"
                )
        for metric in spec.metrics:
            if metric.needs_classes and not self.source.classes:
                raise IncompatibleError(f"metric {type(metric).__name__} needs class labels; {type(spec.data).__name__} has none")

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules with parameters, by role."""
        process = {"process": self.process} if isinstance(self.process, nn.Module) else {}
        return {"network": self.net, **process}

    def field(self, cond: Mapping[str, Any] | None = None, *, guided: bool = True) -> Field:
        """The field under some conditions: what a solver sees."""
        guidance = self.spec.guidance if guided else ()
        return Field(self.process, self.denoiser, guidance, cond=cond, flow_map=self.spec.flow_map)

    # --- training -----------------------------------------------------------------------------------------------------

    def job(self) -> Job:
        """What the training program needs."""
        rank, world = distributed.world()
        spec = self.spec
        loader = Loader(self.source, spec.data.value_range, spec.trainer.batch, spec.seed, rank, world)

        def batches(step: int) -> tuple[Any, Mapping[str, Tensor]]:
            x0, cond = loader(step)
            return x0.to(self.device), {k: v.to(self.device) for k, v in cond.items()}

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
        step = self._resume(folder, players, say) if folder else 0
        self.net.train()
        if progress:
            progress.start(trainer.steps, f"training {self.spec.name}", step)
        with Interrupt() as interrupt:
            try:
                for report in trainer.run(job, players, step):
                    step = report.step
                    if log and (step % trainer.log_every == 0 or step == trainer.steps):
                        log(report)
                    if folder and (step % trainer.checkpoint_every == 0 or step == trainer.steps):
                        self._checkpoint(folder, players, step)
                    if progress:
                        progress.update(step, **report.numbers)
                    interrupt.check()
            except KeyboardInterrupt:
                if folder and not interrupt.forced and distributed.world()[1] == 1:
                    self._checkpoint(folder, players, step)
                raise
            finally:
                if progress:
                    progress.close()
        self._use_average(players)

    def _checkpoint(self, folder: Path, players: Sequence[Player], step: int) -> None:
        if distributed.world()[0] == 0:
            tensors: dict[str, Tensor] = {}
            numbers: dict[str, Any] = {}
            for player in players:
                held, counted = player.state()
                tensors.update(held)
                numbers.update(counted)
            meta = {"step": step, "numbers": numbers, "identity": self.identity()}
            checkpoint.save(folder / f"step-{step:08d}.safetensors", tensors, meta)
            checkpoint.prune(folder, self.spec.trainer.keep)
        distributed.barrier()

    def _resume(self, folder: Path, players: Sequence[Player], say: Callable[[str], None]) -> int:
        found = checkpoint.latest(folder)
        if found is None:
            return 0
        tensors, meta, refused = found
        if meta["identity"] != self.identity():
            raise CheckpointError(
                f"the checkpoints in {folder} belong to another spec; choose another --out, or remove that folder"
            )
        for line in refused:
            say(f"refused a checkpoint: {line}; going on from the one before it, step {meta['step']}")
        for player in players:
            player.restore(tensors, meta["numbers"])
        return int(meta["step"])

    def identity(self) -> str:
        """What must agree for a checkpoint to be continued: everything in the spec that changes training."""
        from diffcore.specs import unstructure

        raw = unstructure(self.registry, self.spec)
        for section in ("sampling", "solver", "guidance", "metrics", "evaluation", "name"):
            raw.pop(section, None)
        raw["trainer"] = {k: v for k, v in raw["trainer"].items() if k not in ("checkpoint_every", "keep", "log_every")}
        return repr(sorted(raw.items()))

    @torch.no_grad()
    def _use_average(self, players: Sequence[Player]) -> None:
        for player in players:
            for key, average in player.ema.items():
                player.parameters[key].copy_(average)
        self.net.eval()

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
        batch, started = batch or self.spec.sampling.batch, time.perf_counter()
        chosen = self.conditions(n, self.spec.sampling.cond if cond is None else cond)
        rows = distributed.share(n)
        done: list[Tensor] = []
        result = None
        if progress:
            progress.start(len(rows), "sampling")
        for first in range(rows.start, rows.stop, batch):
            ids = range(first, min(first + batch, rows.stop))
            part = {k: v[ids.start : ids.stop].to(self.device) for k, v in chosen.items()}
            result = self.sample_ids(ids, seed, part, solver, guided=guided)
            done.append(result.x)
            if progress:
                progress.update(len(torch.cat(done)))
        if progress:
            progress.close()
        x = torch.cat(done) if done else torch.empty((0, *self.source.shape), device=self.device)
        nfe, calls = (result.nfe, result.calls) if result else (0.0, 0)
        return Samples(distributed.gather(x, n), chosen, nfe, calls, time.perf_counter() - started, self)

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
        solver = self.guided_solver(solver or self.spec.solver)
        draw = Draw(seed, ids, salt=SAMPLING, device=self.device)
        self.net.eval()
        x = self.process.prior(self.source.shape, draw)
        mode = "eager" if keep_frames else self.spec.sampling.mode
        return sample(
            self.field(cond, guided=guided), solver, x, seed=mix(seed, SAMPLING), ids=ids, mode=mode, keep_frames=keep_frames
        )

    def guided_solver(self, solver: Solver) -> Solver:
        """The solver as the guidances of the spec wrap it."""
        for part in self.spec.guidance:
            solver = part.solver(solver)
        return solver

    def conditions(self, n: int, cond: Mapping[str, Any]) -> dict[str, Tensor]:
        """One class per sample for every condition of the data: as asked, else cycled. Raises `SpecError` for unknown ones."""
        classes = self.source.classes
        for name in cond:
            if name not in classes:
                raise SpecError(f"no condition '{name}'; {type(self.spec.data).__name__} has: {', '.join(classes) or 'none'}")
        chosen: dict[str, Tensor] = {}
        for name, count in classes.items():
            value = torch.as_tensor(cond.get(name, torch.arange(n) % count), dtype=torch.int64)
            value = value.expand(n) if value.ndim == 0 else value
            if len(value) != n or bool(((value < 0) | (value > count)).any()):
                raise SpecError(f"condition '{name}' must be one class, or {n} classes, of 0 to {count - 1} ({count} for none)")
            chosen[name] = value
        return chosen

    # --- measuring ----------------------------------------------------------------------------------------------------

    def for_calls(self, solver: Solver, calls: int) -> Solver | None:
        """The solver with as many steps as fit into a budget of network calls; None where not one step fits."""
        best = None
        for steps in range(1, calls + 1):
            candidate = evolve(solver, steps=steps)
            try:
                plan = candidate.plan(self.process, candidate.nodes(self.process))
            except SpecError:
                continue
            if sum(plan.evaluations) <= calls:
                best = candidate
        return best

    def measure(
        self, solver: Solver, *, budget: int | None = None, progress: Progress | None = None
    ) -> tuple[dict[str, Any], Samples]:
        """One row of the table, every metric on samples of one solver, and the samples."""
        plan = self.spec.evaluation
        made = self.sample(plan.n, plan.seed, solver=solver, batch=plan.batch, progress=progress)
        reference, cond = self.reference(2 * plan.n)
        ev = Evaluation(
            samples=made.x.cpu(),
            reference=reference,
            cond={k: v.cpu() for k, v in made.cond.items()},
            reference_cond=cond,
            reference_name=self.registry.id_of(type(self.spec.data)),
            nfe=made.nfe,
            calls=made.calls,
            seconds=made.seconds,
            field=self.field({k: v.to(self.device) for k, v in made.cond.items()}),
        )
        measured: dict[str, Measured] = {}
        for metric in self.spec.metrics:
            measured.update(metric.measure(ev))
        row = {
            "solver": self.registry.id_of(type(solver)),
            "steps": solver.steps,
            "budget": budget,
            "calls": made.calls,
            "nfe": made.nfe,
            "seconds": made.seconds,
            "n": plan.n,
            "metrics": {name: attrs.asdict(value) for name, value in measured.items()},
        }
        return row, made

    def reference(self, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Up to n real samples in the network's range, drawn without replacement by the spec's seed."""
        size = self.source.size
        count = n if size is None else min(n, size)
        generator = torch.Generator().manual_seed(mix(self.spec.seed, 0x2EF) & 0x7FFFFFFF)
        ids = torch.arange(count) + 2**40 if size is None else torch.randperm(size, generator=generator)[:count]
        raw, cond = self.source.batch(ids)
        declared = self.spec.data.value_range
        return (raw if declared is None else declared.to_model(raw)), dict(cond)

    def evaluate(
        self, *, progress: Progress | None = None, done: Callable[[dict[str, Any], Samples], None] | None = None
    ) -> list[dict[str, Any]]:
        """The spec's table: the main solver, then every solver of `evaluation` at every budget it can meet.

        done: called with each row and its samples as soon as they are there.
        """
        rows: list[dict[str, Any]] = []
        plan = self.spec.evaluation
        wanted: list[tuple[Solver, int | None]] = [(self.spec.solver, None)]
        wanted += [(found, c) for s in plan.solvers for c in plan.calls if (found := self.for_calls(s, c)) is not None]
        for solver, budget in wanted:
            row, made = self.measure(solver, budget=budget, progress=progress)
            rows.append(row)
            if done:
                done(row, made)
        return rows

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the weights in use and the whole spec to a safetensors file (or to `weights.safetensors` in a folder)."""
        from diffcore.specs import dump

        path = Path(path)
        target = path if path.suffix == ".safetensors" else path / "weights.safetensors"
        weights.write(target, self.parts, {"spec": dump(self.registry, self.spec), "fingerprint": self.process.fingerprint()})
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
        training (same name, other schedule).
        """
        from diffcore.specs import load_spec

        registry, file = registry or Registry.load(), weights.find(Path(path))
        tensors, meta = checkpoint.load(file)
        spec = load_spec(meta["spec"], registry, overrides)
        pipeline = cls(attrs.evolve(spec, init=None), registry, device)
        weights.check_process(file, meta["fingerprint"], pipeline.process)
        weights.take(file, tensors, pipeline.parts)
        pipeline.spec = spec
        return pipeline

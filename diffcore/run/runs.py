"""Runs: a directory that explains itself. Train, sample, measure, report; every step can be repeated alone and resumed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attrs
import torch

from diffcore.declare.errors import CheckpointError, counted
from diffcore.learning import distributed
from diffcore.numerics.calibration import calibrate_on, stand_in, why
from diffcore.run import checkpoint, marks, waiting, weights
from diffcore.run.assemble import assemble
from diffcore.run.fitting import label
from diffcore.run.measuring import solvers
from diffcore.run.ownership import owned
from diffcore.run.pipeline import Pipeline
from diffcore.run.record import MetricsLog, lock, place, read_rows
from diffcore.run.report import exports, gallery
from diffcore.run.report.canvas import require_packages
from diffcore.run.report.escaping import file_name, word
from diffcore.run.report.exports import Written
from diffcore.run.report.page import build
from diffcore.run.training import Progress
from diffcore.specs.registry import Registry

Spec = str | Path | Mapping[str, Any]


def run(
    spec: Spec,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    device: str | None = None,
    progress: Progress | None = None,
    registry: Registry | None = None,
) -> Path:
    """Train (or resume), sample, measure and report; returns the run directory (default `runs/<name>`).

    Raises `RunError` subclasses (exit 1) where the run fails, other `DiffcoreError`s (exit 2) for what the user can mend.
    """
    require_packages()
    pipeline, folder = _assembled(spec, out, overrides, device, registry)
    with owned(folder, lambda: pipeline.check_resumable(folder)):
        _train(pipeline, folder, progress)
        asked = pipeline.usual_conditions(pipeline.spec.sampling.n) if pipeline.arrays else None
        made = pipeline.sample(cond=asked, progress=progress)
        first = distributed.world()[0] == 0
        exports.write([made], folder / "samples" / "samples.safetensors", len(made))
        evaluate_pipeline(pipeline, folder, progress)
        if first:
            _keep_calibrations(pipeline, folder)
            gallery.draw(pipeline, gallery.first(made), folder / "samples" / "samples.png")
            gallery.write_texts(pipeline, made.raw(), folder / "samples" / "samples.txt")
            gallery.draw_way(pipeline, folder / "samples")
            report([folder], folder / "report.html")
        distributed.barrier()
    return folder


def train(
    spec: Spec,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    device: str | None = None,
    progress: Progress | None = None,
    registry: Registry | None = None,
) -> Path:
    """Only train; returns the run directory, which then holds `weights.safetensors`."""
    pipeline, folder = _assembled(spec, out, overrides, device, registry)
    with owned(folder, lambda: pipeline.check_resumable(folder)):
        _train(pipeline, folder, progress)
    return folder


def _assembled(
    spec: Spec, out: str | Path | None, overrides: Sequence[str], device: str | None, registry: Registry | None
) -> tuple[Pipeline, Path]:
    """The pipeline of a spec and the directory of its run; nothing is written yet."""
    world = distributed.announced()
    if world > 1:  # said before the processes wait for each other
        from diffcore.run.sections import load_spec

        registry = registry or Registry.load()
        distributed.check_batch(load_spec(spec, registry, overrides).trainer.batch, world)
    distributed.start()
    pipeline = assemble(spec, registry=registry, overrides=overrides, device=device)
    folder = place(out, Path("runs") / pipeline.spec.name, folder=True)
    if out is None and isinstance(spec, (str, Path)) and distributed.world()[0] == 0:
        _say_other(Path(spec), folder)
    return pipeline, folder


def _say_other(spec: Path, folder: Path) -> None:
    """Where a spec is that of a run, and its training goes to another place."""
    run = spec.parent
    if spec.name == "spec.yaml" and run.resolve() != folder.resolve() and marks.is_run(run):
        print(f"note: {spec} is of the run {run}, and {folder} is another; to go on there: --out {word(run)}", file=sys.stderr)


def _train(pipeline: Pipeline, folder: Path, progress: Progress | None) -> None:
    first = distributed.world()[0] == 0
    resumed = bool(checkpoint.checkpoints(folder / "checkpoints"))
    log = MetricsLog(folder / "metrics.jsonl", resumed=resumed) if first else None
    if first:
        _say(pipeline)
        _write_record(pipeline, folder)
    distributed.barrier()
    pipeline.train(folder, progress=progress if first else None, log=log, say=lambda line: print(line, file=sys.stderr))
    pipeline.save(folder)


def _say(pipeline: Pipeline) -> None:
    """The notes on a spec, and the threads that train it."""
    for note in pipeline.notes:
        print(f"note: {note}", file=sys.stderr)
    if pipeline.device.type == "cpu":
        print(f"threads: {torch.get_num_threads()}, waiting: {waiting.told()}", file=sys.stderr)


def sample_run(
    path: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    cond: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Written:
    """Sample a trained run (or one whose training has not ended), batch by batch into a file. Returns what was written.

    cond: condition name -> class, its number or its name.

    out: .safetensors (x in the data's range, and conditions), .npz, .png (the first samples in one picture), .gif (images one
    after the other), .txt (samples that are text), .csv (points and tables), or a folder, with a file for every sample;
    default in the run directory, under a name that says what was asked for.
    """
    folder = folder_of(Path(path))
    asked = {"seed": seed, **({} if n is None else {"n": n}), **(cond or {})}
    name = ",".join([*(f"{key}-{value}" for key, value in asked.items()), *overrides])
    default = folder / "samples" / f"{file_name(name)}.safetensors"
    target = place(exports.target(out) if out else out, default, folder=bool(out) and exports.is_folder(str(out)))
    distributed.start()
    pipeline = Pipeline.load(path, overrides=overrides, device=device)
    exports.check(pipeline, target)
    n = pipeline.spec.sampling.n if n is None else n
    written = exports.write(pipeline.batches(n, seed, cond, progress=progress), target, n)
    distributed.barrier()
    return written


def folder_of(path: Path) -> Path:
    """The run directory that a path names: itself, or that of a weights file or checkpoint."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def evaluate_run(
    path: str | Path, *, overrides: Sequence[str] = (), device: str | None = None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Measure a trained run again and rewrite its table and report."""
    require_packages()
    folder = Path(path)
    if folder.is_file():
        raise CheckpointError(f"{folder} is not a run directory; evaluate wants the directory that holds weights.safetensors")
    distributed.start()
    pipeline = Pipeline.load(path, overrides=overrides, device=device)
    with owned(folder):
        rows = evaluate_pipeline(pipeline, folder, progress)
        if distributed.world()[0] == 0:
            _keep_calibrations(pipeline, folder)
            report([folder], folder / "report.html")
    return rows


def calibrate_run(
    path: str | Path, *, overrides: Sequence[str] = (), device: str | None = None
) -> list[tuple[str, Sequence[str]]]:
    """Find out what the solvers of a trained run must know about its model, and save it with the weights.

    Returns every solver that needed a calibration, with what was found, in lines for a reader.
    """
    pipeline, target = Pipeline.load(path, overrides=overrides, device=device), _weights_of(Path(path))
    told: dict[str, tuple[str, Sequence[str]]] = {}
    with owned(target.parent) if Path(path).is_dir() else nullcontext():
        for solver, _ in solvers(pipeline):
            if calibrate_on(solver):
                pipeline.ready(solver)
                key = pipeline.calibration_key(solver)
                name = f"{label(pipeline.registry, solver)}, {counted(stand_in(solver).steps, 'step')}"
                told[key] = name, why(solver, pipeline.calibrations[key])
        _keep_calibrations(pipeline, target)
    return list(told.values())


def _weights_of(path: Path) -> Path:
    """The file that a calibration is saved in. Raises `CheckpointError` where training has not ended: its checkpoints pass."""
    target = path / weights.NAME if path.is_dir() else path
    if not target.exists() or checkpoint.step_of(target) >= 0:
        raise CheckpointError(f"{path} holds no {weights.NAME}, beside which a calibration is saved: training has not ended")
    return target


def _keep_calibrations(pipeline: Pipeline, path: Path) -> None:
    target = path / weights.NAME if path.is_dir() else path
    if pipeline.calibrations and target.exists():
        weights.write_calibrations(target, pipeline.calibrations)


def evaluate_pipeline(pipeline: Pipeline, folder: Path, progress: Progress | None = None) -> list[dict[str, Any]]:
    """The spec's table in `evaluation.json`, the spec it was measured with in `evaluation.yaml`, and a picture of each row.

    The table is written before the pictures, so that a picture that fails costs no measurement.
    """
    shown: list[gallery.Shown] = []
    rows = pipeline.evaluate(progress=progress, done=lambda _, made: shown.append(gallery.first(made)))
    if distributed.world()[0] == 0:
        gallery.name_pictures(pipeline, rows, shown)
        _write_yaml(pipeline, folder / "evaluation.yaml")
        checkpoint.write_aside(folder / "evaluation.json", json.dumps(rows, indent=1).encode())
        gallery.draw_real(pipeline, folder / "samples")
        gallery.draw_rows(pipeline, rows, shown, folder)
    return rows


def compare(paths: Sequence[str | Path], out: str | Path | None = None) -> list[dict[str, Any]]:
    """The tables of several runs in one, each row with its run; with `out`, also as one report."""
    target = place(out, Path(), folder=False) if out is not None else None
    folders = list(dict.fromkeys(Path(p).resolve() for p in paths))
    rows = [{"run": name, **row} for name, folder in shown_names(folders).items() for row in read_rows(folder)]
    if target is not None:
        report(folders, target)
    return rows


def shown_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Runs by the name they are shown under: that of the folder, and as many of the folders above it as tell them apart."""
    full = [folder.resolve().parts for folder in folders]
    depth = next(d for d in range(1, 1 + max(map(len, full))) if len({parts[-d:] for parts in full}) == len(full))
    names = [os.fsencode(Path(*parts[-depth:])).decode(errors="replace") for parts in full]  # UTF-8, whatever the locale is
    return dict(zip(names, folders, strict=True))


def report(folders: Sequence[Path], out: Path) -> Path:
    """One self-contained HTML page about one or several runs."""
    checkpoint.write_aside(out, build(shown_names(folders)).encode())
    return out


def _write_record(pipeline: Pipeline, folder: Path) -> None:
    """The lock first: by it the directory is known as that of a run."""
    checkpoint.write_aside(folder / "lock.json", json.dumps(attrs.asdict(lock(pipeline)), indent=1).encode())
    _write_yaml(pipeline, folder / "spec.yaml")


def _write_yaml(pipeline: Pipeline, path: Path) -> None:
    from diffcore.specs import dump

    checkpoint.write_aside(path, dump(pipeline.registry, pipeline.spec).encode())

"""Runs: a directory that explains itself. Train, sample, measure, report; every step can be repeated alone and resumed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_leaves_with_path

from diffcore import checkpoint, distributed, waiting, weights
from diffcore.data import Range
from diffcore.errors import CheckpointError, SpecError
from diffcore.fitting import label
from diffcore.measuring import reference, solvers
from diffcore.pictures import are_images, are_points, paths, picture, require_packages, trajectory
from diffcore.pipeline import Pipeline, Progress, Samples, assemble
from diffcore.record import MetricsLog, file_name, lock, place, read_rows
from diffcore.registry import Registry
from diffcore.report import build
from diffcore.tree import State

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
    pipeline, folder = _trained(spec, out, overrides, device, progress, registry)
    made = pipeline.sample(progress=progress)
    first = distributed.world()[0] == 0
    if first:
        write_samples(made, folder / "samples" / "samples.safetensors")
    evaluate_pipeline(pipeline, folder, progress)
    if first:
        _keep_fits(pipeline, folder)
        picture_samples(pipeline, _first(pipeline, made.raw()), folder / "samples" / "samples.png")
        write_texts(pipeline, made.raw(), folder / "samples" / "samples.txt")
        picture_trajectory(pipeline, folder / "samples")
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
    return _trained(spec, out, overrides, device, progress, registry)[1]


def _trained(
    spec: Spec,
    out: str | Path | None,
    overrides: Sequence[str],
    device: str | None,
    progress: Progress | None,
    registry: Registry | None,
) -> tuple[Pipeline, Path]:
    distributed.start()
    pipeline = assemble(spec, registry=registry, overrides=overrides, device=device)
    folder = place(out, Path("runs") / pipeline.spec.name, folder=True)
    first = distributed.world()[0] == 0
    pipeline.check_resumable(folder)
    if first:
        _say(pipeline)
    if first:
        _write_record(pipeline, folder)
    distributed.barrier()
    log = MetricsLog(folder / "metrics.jsonl") if first else None
    pipeline.train(folder, progress=progress if first else None, log=log, say=lambda line: print(line, file=sys.stderr))
    if first:
        pipeline.save(folder)
    distributed.barrier()
    return pipeline, folder


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
) -> tuple[Samples, Path]:
    """Sample a trained run; nothing else has to be remembered. Returns the samples and the file they went to.

    out: .safetensors (x in the data's range, and conditions), .npz, .png (a grid) or .txt (samples that are text); default in
    the run directory, under a name that says what was asked for.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    asked = {"seed": seed, **({} if n is None else {"n": n}), **(cond or {})}
    name = ",".join([*(f"{key}-{value}" for key, value in asked.items()), *overrides])
    target = _samples_file(place(out, folder / "samples" / f"{file_name(name)}.safetensors", folder=False))
    distributed.start()
    pipeline = Pipeline.load(path, overrides=overrides, device=device)
    made = pipeline.sample(n, seed, cond, progress=progress)
    if distributed.world()[0] == 0:
        write_samples(made, target)
    distributed.barrier()
    return made, target


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
    rows = evaluate_pipeline(pipeline, folder, progress)
    if distributed.world()[0] == 0:
        _keep_fits(pipeline, folder)
        report([folder], folder / "report.html")
    return rows


def fit_run(path: str | Path, *, overrides: Sequence[str] = (), device: str | None = None) -> list[tuple[str, Sequence[str]]]:
    """Find out what the solvers of a trained run must know about its model, and save it with the weights.

    Returns every solver that needed a fit, with what was found, in lines for a reader.
    """
    pipeline = Pipeline.load(path, overrides=overrides, device=device)
    told: dict[str, tuple[str, Sequence[str]]] = {}
    for solver, _ in solvers(pipeline):
        if solver.fit_on:
            pipeline.ready(solver)
            key = pipeline.fit_key(solver)
            told[key] = f"{label(pipeline.registry, solver)}, {solver.stand_in().steps} steps", solver.why(pipeline.fits[key])
    _keep_fits(pipeline, weights.find(Path(path)))
    return list(told.values())


def _keep_fits(pipeline: Pipeline, path: Path) -> None:
    if pipeline.fits:
        weights.write_fits(weights.find(path), pipeline.fits)


def evaluate_pipeline(pipeline: Pipeline, folder: Path, progress: Progress | None = None) -> list[dict[str, Any]]:
    """The spec's table in `evaluation.json`, the spec it was measured with in `evaluation.yaml`, and a picture of each row.

    The table is written before the pictures, so that a picture that fails costs no measurement.
    """
    shown: list[State] = []
    rows = pipeline.evaluate(progress=progress, done=lambda _, made: shown.append(_first(pipeline, made.raw())))
    if distributed.world()[0] == 0:
        for row, raw in zip(rows, shown, strict=True):
            name = f"samples/{file_name(row['label'])}-{row['steps']}-steps.png"
            row["picture"] = name if are_images(raw) or are_points(raw) else ""
        _write_yaml(pipeline, folder / "evaluation.yaml")
        checkpoint.write_aside(folder / "evaluation.json", json.dumps(rows, indent=1).encode())
        picture_samples(pipeline, _first(pipeline, _real(pipeline)), folder / "samples" / "reference.png")
        write_texts(pipeline, _real(pipeline), folder / "samples" / "reference.txt")
        for row, raw in zip(rows, shown, strict=True):
            picture_samples(pipeline, raw, folder / row["picture"])
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


# --- samples as files -------------------------------------------------------------------------------------------------


def write_samples(made: Samples, path: Path) -> None:
    """Write samples in the data's own range: .safetensors, .npz, .png or .txt by the name. Leaves of a tree: `x['name']`."""
    raw = made.raw()
    tensors = {**{f"x{keystr(key)}": leaf for key, leaf in tree_leaves_with_path(raw)}, **made.cond}
    if _samples_file(path).suffix == ".png":
        if not picture_samples(made.pipeline, raw, path):
            raise SpecError("samples that are neither images nor points have no picture; name a .safetensors or .npz file")
    elif path.suffix == ".txt":
        if not write_texts(made.pipeline, raw, path):
            raise SpecError("these samples are no text; name a .safetensors or .npz file")
    elif path.suffix == ".npz":
        _write_npz(path, tensors)
    else:
        checkpoint.save(path, tensors, {"calls": made.calls, "nfe": made.nfe})


def _samples_file(path: Path) -> Path:
    if path.suffix not in (".safetensors", ".npz", ".png", ".txt"):
        raise SpecError(f"cannot write samples to '{path.name}': the name must end in .safetensors, .npz, .png or .txt")
    return path


def _write_npz(path: Path, arrays: Mapping[str, Tensor]) -> None:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: v.cpu().numpy() for k, v in arrays.items()})  # pyright: ignore[reportArgumentType]
    checkpoint.write_aside(path, buffer.getvalue())


def picture_samples(pipeline: Pipeline, raw: State, path: Path) -> bool:
    """A PNG of samples in the data's range, where they are images or points of the plane; says whether there was one."""
    shows = are_images(raw) or are_points(raw)
    if shows:
        checkpoint.write_aside(path, picture(raw, _span(pipeline), _columns(pipeline)))
    return shows


def write_texts(pipeline: Pipeline, raw: State, path: Path) -> bool:
    """A text file of samples that are text, one line each; says whether they were."""
    texts = pipeline.spec.data.texts(raw)
    if texts is not None:
        checkpoint.write_aside(path, "".join(f"{text}\n" for text in texts).encode())
    return texts is not None


def picture_trajectory(pipeline: Pipeline, folder: Path) -> None:
    """`trajectory.png`, states and posterior means of images along the main solver's run, or `paths.png` of points."""
    count = 200 if tuple(pipeline.source.shape) == (2,) else 10
    cond = {k: v.to(pipeline.device) for k, v in pipeline.conditions(count, pipeline.spec.sampling.cond).items()}
    frames = pipeline.sample_ids(range(count), 0, cond, keep_frames=True).frames
    if are_images(frames[0].x):
        checkpoint.write_aside(folder / "trajectory.png", trajectory(frames))
    elif are_points(frames[0].x):
        checkpoint.write_aside(folder / "paths.png", paths(frames))


def _columns(pipeline: Pipeline) -> int:
    classes = pipeline.source.classes
    return next(iter(classes.values())) if len(classes) == 1 else 10


def _first(pipeline: Pipeline, raw: State) -> State:
    """As many samples as the report shows at once: four lines of images, or all points."""
    return raw[: 4 * _columns(pipeline)] if are_images(raw) else raw


def _real(pipeline: Pipeline) -> State:
    """As many real samples as the spec makes, in the data's range."""
    real, declared = reference(pipeline, pipeline.spec.sampling.n)[0], pipeline.spec.data.value_range
    return real if declared is None else declared.to_raw(real)


def _span(pipeline: Pipeline) -> Range:
    """The values that pictures show: the declared range, else what real data spans, so that no outlier sets the axes."""
    declared = pipeline.spec.data.value_range
    if declared is not None:
        return declared
    real = reference(pipeline, 1000)[0]
    lo, hi = float(real.min()), float(real.max())
    margin = 0.05 * (hi - lo) or 1.0
    return Range(lo=lo - margin, hi=hi + margin)


def _write_record(pipeline: Pipeline, folder: Path) -> None:
    _write_yaml(pipeline, folder / "spec.yaml")
    checkpoint.write_aside(folder / "lock.json", json.dumps(lock(pipeline), indent=1).encode())


def _write_yaml(pipeline: Pipeline, path: Path) -> None:
    from diffcore.specs import dump

    checkpoint.write_aside(path, dump(pipeline.registry, pipeline.spec).encode())

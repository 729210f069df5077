"""Runs: a directory that explains itself. Train, sample, measure, report; every step can be repeated alone and resumed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from diffcore import checkpoint, distributed
from diffcore.errors import CheckpointError, DataError, SpecError
from diffcore.pipeline import Pipeline, Progress, Samples, assemble
from diffcore.record import MetricsLog, lock, read_rows
from diffcore.registry import Registry
from diffcore.report import build

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
    pipeline, folder = _trained(spec, out, overrides, device, progress, registry)
    made = pipeline.sample(progress=progress)
    evaluate_pipeline(pipeline, folder, progress)
    if distributed.world()[0] == 0:
        write_samples(made, folder / "samples" / "samples.safetensors")
        picture_samples(made, folder / "samples" / "samples.png")
        picture_trajectory(pipeline, folder / "samples" / "trajectory.png")
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
    folder = Path(out) if out is not None else Path("runs") / pipeline.spec.name
    first = distributed.world()[0] == 0
    if first:
        _write_record(pipeline, folder)
    distributed.barrier()
    log = MetricsLog(folder / "metrics.jsonl") if first else None
    pipeline.train(folder, progress=progress if first else None, log=log, say=lambda line: print(line, file=sys.stderr))
    if first:
        pipeline.save(folder)
    distributed.barrier()
    return pipeline, folder


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

    out: .safetensors (x in the data's range, and conditions), .npz, or .png (a grid); default in the run directory.
    """
    distributed.start()
    pipeline = Pipeline.load(path, overrides=overrides, device=device)
    made = pipeline.sample(n, seed, cond, progress=progress)
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    target = Path(out) if out is not None else folder / "samples" / f"seed-{seed}.safetensors"
    if distributed.world()[0] == 0:
        write_samples(made, target)
    distributed.barrier()
    return made, target


def evaluate_run(
    path: str | Path, *, overrides: Sequence[str] = (), device: str | None = None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Measure a trained run again and rewrite its table and report."""
    distributed.start()
    pipeline = Pipeline.load(path, overrides=overrides, device=device)
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a run directory; evaluate wants the directory that holds weights.safetensors")
    rows = evaluate_pipeline(pipeline, folder, progress)
    if distributed.world()[0] == 0:
        report([folder], folder / "report.html")
    return rows


def evaluate_pipeline(pipeline: Pipeline, folder: Path, progress: Progress | None = None) -> list[dict[str, Any]]:
    """The spec's table, a picture of each row's samples, and `evaluation.json`."""
    rows: list[dict[str, Any]] = []

    def done(row: dict[str, Any], made: Samples) -> None:
        if distributed.world()[0] == 0:
            name = f"{row['solver'].replace('/', '-')}-{row['calls']}.png"
            if picture_samples(made, folder / "samples" / name):
                row["picture"] = f"samples/{name}"

    rows = pipeline.evaluate(progress=progress, done=done)
    if distributed.world()[0] == 0:
        checkpoint.write_aside(folder / "evaluation.json", json.dumps(rows, indent=1).encode())
    return rows


def compare(paths: Sequence[str | Path], out: str | Path | None = None) -> list[dict[str, Any]]:
    """The tables of several runs in one, each row with its run; with `out`, also as one report."""
    folders = [Path(p) for p in paths]
    names = [folder.name for folder in folders]
    shown = [str(f) if names.count(f.name) > 1 else f.name for f in folders]
    rows = [{"run": name, **row} for name, folder in zip(shown, folders, strict=True) for row in read_rows(folder)]
    if out is not None:
        report(folders, Path(out))
    return rows


def report(folders: Sequence[Path], out: Path) -> Path:
    """One self-contained HTML page about one or several runs."""
    checkpoint.write_aside(out, build(folders).encode())
    return out


# --- samples as files -------------------------------------------------------------------------------------------------


def write_samples(made: Samples, path: Path) -> None:
    """Write samples in the data's own range: .safetensors, .npz or .png by the name's ending."""
    raw = made.raw().cpu()
    if path.suffix == ".png":
        if not picture_samples(made, path, rows=None):
            raise SpecError(
                f"samples of shape {tuple(raw.shape[1:])} have no picture; choose a name that ends in .safetensors or .npz"
            )
    elif path.suffix == ".npz":
        _write_npz(path, {"x": raw, **{k: v.cpu() for k, v in made.cond.items()}})
    elif path.suffix == ".safetensors":
        checkpoint.save(path, {"x": raw, **made.cond}, {"calls": made.calls, "nfe": made.nfe})
    else:
        raise SpecError(f"cannot write samples to '{path.name}': the name must end in .safetensors, .npz or .png")


def _write_npz(path: Path, arrays: Mapping[str, Tensor]) -> None:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: v.numpy() for k, v in arrays.items()})  # pyright: ignore[reportArgumentType]
    checkpoint.write_aside(path, buffer.getvalue())


def picture_samples(made: Samples, path: Path, rows: int | None = 4) -> bool:
    """A PNG of the first rows of samples (or all), where they are images or points; says whether there was one."""
    from diffcore.pictures import picture

    classes = made.pipeline.source.classes
    columns = next(iter(classes.values())) if len(classes) == 1 else 10
    shown = made.raw()[: rows * columns] if rows is not None and made.x.ndim == 4 else made.raw()
    data = picture(shown, made.pipeline.spec.data.value_range, columns)
    if data is not None:
        checkpoint.write_aside(path, data)
    return data is not None


def picture_trajectory(pipeline: Pipeline, path: Path) -> bool:
    """A PNG of states and posterior means along the main solver's run, or of the paths of points."""
    from diffcore.pictures import trajectory

    count = 10 if len(pipeline.source.shape) == 3 else 200
    cond = {k: v.to(pipeline.device) for k, v in pipeline.conditions(count, pipeline.spec.sampling.cond).items()}
    result = pipeline.sample_ids(range(count), 0, cond, keep_frames=True)
    data = trajectory(result.frames)
    if data is not None:
        checkpoint.write_aside(path, data)
    return data is not None


def _write_record(pipeline: Pipeline, folder: Path) -> None:
    from diffcore.specs import dump

    if folder.exists() and not folder.is_dir():
        raise DataError(f"--out {folder} is a file; choose a directory")
    checkpoint.write_aside(folder / "spec.yaml", dump(pipeline.registry, pipeline.spec).encode())
    checkpoint.write_aside(folder / "lock.json", json.dumps(lock(pipeline), indent=1).encode())

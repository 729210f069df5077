"""What a run leaves behind beside its weights: the metrics log, the lock of versions and hashes, the evaluation table."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import attrs
import importlib_metadata
import torch

from diffcore.declare.errors import CheckpointError, SpecError, said, shorten
from diffcore.learning import distributed
from diffcore.learning.metric import Measured
from diffcore.learning.trainer import Report
from diffcore.run import checkpoint, marks, waiting
from diffcore.run.metadata import LARGEST, structured
from diffcore.run.pipeline import Pipeline
from diffcore.run.report.escaping import word

T = TypeVar("T")
_REPEAT = "repeat the run, which writes it again"


@attrs.frozen(kw_only=True)
class Difference:
    """How far the samples of a row are from those of the first: as a number, a sentence and (where not empty) a picture."""

    size: float
    text: str
    picture: str


@attrs.frozen(kw_only=True)
class Row:
    """A row of `evaluation.json`. `ran`: what a solver that chooses another one has chosen; `plot`: its picture is no pixels."""

    solver: str
    label: str
    steps: int
    budget: int | None
    calls: int
    nfe: float
    seconds: float
    n: int
    metrics: dict[str, Measured]
    ran: str = ""
    picture: str = ""
    plot: bool = False
    difference: Difference | None = None


@attrs.frozen(kw_only=True)
class Source:
    """A distribution in `lock.json`."""

    version: str
    status: str
    sha256: str


@attrs.frozen(kw_only=True)
class Lock:
    """`lock.json`, what a result depends on: versions and source hashes of core and plugins, torch, device, threads, seeds."""

    python: str
    platform: str
    torch: str
    device: str
    threads: int
    waiting: str = ""
    processes: int
    seed: int
    evaluation_seed: int
    distributions: dict[str, Source]
    requires: dict[str, str | None]


class MetricsLog:
    """`metrics.jsonl`, one line per logged step. What a resumed run repeats replaces what the killed one had written.

    resumed: whether a training goes on whose lines are kept. Raises `CheckpointError` where they are damaged.
    """

    def __init__(self, path: Path, *, resumed: bool = True) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] | None = read_metrics(path) if resumed else []

    def __call__(self, report: Report) -> None:
        """Append a line; on the first one, drop earlier lines from this step on and any half-written last line."""
        line = json.dumps({"step": report.step, **report.numbers})
        if self.lines is None:
            return checkpoint.append(self.path, line)
        kept = "".join(f"{json.dumps(row)}\n" for row in self.lines if row["step"] < report.step)
        checkpoint.write_aside(self.path, f"{kept}{line}\n".encode())
        self.lines = None
        return None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a half-written last one is left out. Raises `CheckpointError` for other damage."""
    mend = "remove the file, which holds nothing but these numbers"
    lines = read_text(path, mend, errors="replace").splitlines() if path.exists() else []
    rows = [_metrics(line) for line in lines]
    if rows and rows[-1] is None:
        rows.pop()
    for number, row in enumerate(rows, 1):
        if row is None or type(row.get("step")) is not int or row["step"] < 0:
            raise CheckpointError(f"{path} is damaged: line {number} is no JSON object of numbers with a step; {mend}")
    return [row for row in rows if row is not None]


def _metrics(line: str) -> dict[str, Any] | None:
    """The numbers of a line; None where it holds anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and all(type(v) is float or (type(v) is int and abs(v) <= LARGEST) for v in row.values())
    return row if whole else None


def lock(pipeline: Pipeline) -> Lock:
    """That of a run of this pipeline, here and now."""
    plugins = {p.dist: p for p in pipeline.registry.plugins}
    return Lock(
        python=platform.python_version(),
        platform=platform.platform(),
        torch=torch.__version__,
        device=torch.cuda.get_device_name() if pipeline.device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        waiting=waiting.told(),
        processes=distributed.world()[1],
        seed=pipeline.spec.seed,
        evaluation_seed=pipeline.spec.evaluation.seed,
        distributions={
            dist: Source(version=p.version, status=p.status, sha256=source_hash(p.module.partition(":")[0].partition(".")[0]))
            for dist, p in sorted(plugins.items())
        },
        requires={name: _version(name) for name in ("attrs", "cattrs", "pluggy", "safetensors", "numpy")},
    )


def source_hash(module: str) -> str:
    """sha256 over the Python files of an installed top-level package, by relative name; empty where it has none."""
    spec = importlib.util.find_spec(module)
    total = hashlib.sha256()
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(root).rglob("*.py")):
            total.update(os.fsencode(path.relative_to(root)) + b"\0" + path.read_bytes())
    return total.hexdigest() if spec and spec.submodule_search_locations else ""


def _version(name: str) -> str | None:
    try:
        return importlib_metadata.version(name)
    except importlib_metadata.PackageNotFoundError:
        return None


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The evaluation table of a run. Raises `CheckpointError` where there is none, or where it is damaged."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a run directory; name the one that holds evaluation.json")
    path, mend = folder / "evaluation.json", measure_again(folder)
    rows = read_json(path, tuple[Row, ...], mend)
    if not rows:
        raise CheckpointError(f"{path} is damaged: it has no rows; {mend}")
    return rows


def measure_again(folder: Path) -> str:
    """How to mend what an evaluation of a run writes."""
    return f"run: diffcore evaluate {word(folder)}"


def read_lock(folder: Path) -> dict[str, Any]:
    """What `lock` wrote. Raises `CheckpointError` where it is missing or damaged."""
    return read_json(folder / "lock.json", Lock, _REPEAT)


def read_json(path: Path, wanted: Any, mend: str) -> Any:
    """What a JSON file of a run holds, as plain values. Raises `CheckpointError`, saying how to mend it, where it is missing or
    does not hold what the class `wanted` has.
    """
    text = read_text(path, mend)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({said(error)}); {mend}") from None
    structured(wanted, found, str(path), mend)
    return found


def read_text(path: Path, mend: str = _REPEAT, errors: str = "strict") -> str:
    """A text file of a run. Raises `CheckpointError`, saying how to mend it, where it cannot be read or is elsewhere."""
    inside(path.parent, path.name, mend)
    try:
        return path.read_text(encoding="utf-8", errors=errors)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path} does not exist; {mend}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {mend}") from None


def inside(folder: Path, name: str, mend: str = _REPEAT) -> Path:
    """A file of a run directory by its name there. Raises `CheckpointError`, saying how to mend it, where the name, or a link,
    leads out of it or to no file: the directory may be somebody else's."""
    path = folder / name
    try:
        real = path.resolve()
        sound = not Path(name).is_absolute() and ".." not in Path(name).parts and real.is_relative_to(folder.resolve())
        sound = sound and (path.is_file() or not path.exists())
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, or links in a circle
        sound = False
    if not sound:
        raise damaged(folder, f"{shorten(name, 80)!r} is no file within that directory", mend)
    return path


def damaged(folder: Path, cause: str, mend: str) -> CheckpointError:
    """The error of a run that holds what no run of ours would."""
    return CheckpointError(f"the run {folder} is damaged: {cause}; {mend}")


def place(out: str | Path | None, default: Path, *, folder: bool) -> Path:
    """Where to write, `out` or the default. Raises `SpecError`, before any long work, where nothing can be written there, and
    where a file is there that diffcore has not made."""
    wanted, other = ("folder", "file") if folder else ("file", "folder")
    if out is not None and not str(out).strip():
        raise SpecError(f"--out is empty; name a {wanted}, or leave it out")
    path = default if out is None else Path(out)
    try:
        if path.exists() and path.is_dir() != folder:
            raise SpecError(f"--out {path} is a {other}; name a {wanted}")
        if not folder:
            marks.refuse_foreign(path)
        start = path.absolute() if folder else path.absolute().parent
        with tempfile.TemporaryFile(dir=next(p for p in (start, *start.parents) if p.exists())):
            return path
    except OSError as error:
        raise SpecError(f"--out {path}: no {wanted} can be written there ({error.strerror}); choose another place") from None

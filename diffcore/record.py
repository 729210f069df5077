"""What a run leaves behind beside its weights: the metrics log, the lock of versions and hashes, the evaluation table."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import importlib_metadata
import torch

from diffcore import checkpoint, distributed, waiting
from diffcore.errors import CheckpointError, SpecError
from diffcore.pipeline import Pipeline
from diffcore.trainer import Report

_REPEAT = "repeat the run, which writes it again"


class MetricsLog:
    """`metrics.jsonl`, one line per logged step. What a resumed run repeats replaces what the killed one had written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[int, str] | None = None

    def __call__(self, report: Report) -> None:
        """Append a line; on the first one, drop earlier lines from this step on and any half-written last line."""
        line = json.dumps({"step": report.step, **report.numbers})
        if self.lines is None:
            self.lines = {s: text for s, text in self._read() if s < report.step}
            kept = "".join(f"{text}\n" for text in self.lines.values())
            checkpoint.write_aside(self.path, f"{kept}{line}\n".encode())
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _read(self) -> list[tuple[int, str]]:
        return [(row["step"], json.dumps(row)) for row in read_metrics(self.path)]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a half-written last one is left out. Raises `CheckpointError` for other damage."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    if not all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in cast(list[Any], rows)):
        raise CheckpointError(f"{path} is damaged: every line must be a JSON object with a number 'step'; remove the file")
    return rows


def lock(pipeline: Pipeline) -> dict[str, Any]:
    """What a result depends on: versions and source hashes of core and plugins, torch, device, threads, seeds."""
    plugins = {p.dist: p for p in pipeline.registry.plugins}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if pipeline.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "waiting": waiting.told(),
        "processes": distributed.world()[1],
        "seed": pipeline.spec.seed,
        "evaluation_seed": pipeline.spec.evaluation.seed,
        "distributions": {
            dist: {"version": p.version, "status": p.status, "sha256": source_hash(p.module.partition(":")[0].partition(".")[0])}
            for dist, p in sorted(plugins.items())
        },
        "requires": {name: _version(name) for name in ("attrs", "cattrs", "pluggy", "safetensors", "numpy")},
    }


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


_ROW = frozenset({"solver", "label", "steps", "budget", "calls", "nfe", "seconds", "n", "metrics"})
_NUMBER = frozenset({"value", "spread", "floor", "better", "against"})


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The evaluation table of a run. Raises `CheckpointError` where there is none, or where it is damaged."""

    def is_row(row: Any) -> bool:
        return isinstance(row, dict) and row.keys() >= _ROW and all(m.keys() >= _NUMBER for m in row["metrics"].values())

    def whole(rows: Any) -> bool:
        return isinstance(rows, list) and bool(rows) and all(map(is_row, cast(list[Any], rows)))

    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a run directory; name the one that holds evaluation.json")
    return read_json(folder / "evaluation.json", whole, f"run: diffcore evaluate {folder}")


def read_lock(folder: Path) -> dict[str, Any]:
    """What `lock` wrote. Raises `CheckpointError` where it is missing or damaged."""
    return read_json(folder / "lock.json", lambda held: isinstance(held, dict), _REPEAT)


def read_json(path: Path, whole: Callable[[Any], bool], mend: str) -> Any:
    """What a JSON file of a run holds. Raises `CheckpointError`, saying how to mend it, where it is missing or not `whole`."""
    text = read_text(path, mend)
    try:
        found = json.loads(text)
        sound = whole(found)
    except (ValueError, AttributeError) as error:  # no JSON, or a value where a map was expected
        raise CheckpointError(f"{path} is damaged ({error}); {mend}") from None
    if not sound:
        raise CheckpointError(f"{path} is damaged: it does not hold what diffcore writes there; {mend}")
    return found


def read_text(path: Path, mend: str = _REPEAT) -> str:
    """A text file of a run. Raises `CheckpointError`, saying how to mend it, where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path} does not exist; {mend}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {mend}") from None


def place(out: str | Path | None, default: Path, *, folder: bool) -> Path:
    """Where to write, `out` or the default. Raises `SpecError`, before any long work, where nothing can be written there."""
    wanted, other = ("folder", "file") if folder else ("file", "folder")
    if out is not None and not str(out).strip():
        raise SpecError(f"--out is empty; name a {wanted}, or leave it out")
    path = default if out is None else Path(out)
    try:
        if path.exists() and path.is_dir() != folder:
            raise SpecError(f"--out {path} is a {other}; name a {wanted}")
        start = path.absolute() if folder else path.absolute().parent
        with tempfile.TemporaryFile(dir=next(p for p in (start, *start.parents) if p.exists())):
            return path
    except OSError as error:
        raise SpecError(f"--out {path}: no {wanted} can be written there ({error.strerror}); choose another place") from None


def file_name(text: str) -> str:
    """A text as the name of a file; where characters are lost, a digest keeps it apart from other texts."""
    plain = re.sub(r"[^\w.=,+-]+", "_", text)[:80].strip("_")
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"

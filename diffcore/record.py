"""What a run leaves behind beside its weights: the metrics log, the lock of versions and hashes, the evaluation table."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
from pathlib import Path
from typing import Any

import importlib_metadata
import torch

from diffcore import checkpoint, distributed
from diffcore.errors import CheckpointError
from diffcore.pipeline import Pipeline
from diffcore.trainer import Report


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
        with self.path.open("a") as file:
            file.write(line + "\n")

    def _read(self) -> list[tuple[int, str]]:
        return [(row["step"], json.dumps(row)) for row in read_metrics(self.path)]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a half-written last one is left out."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
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


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The evaluation table of a run. Raises `CheckpointError` where there is none."""
    path = folder / "evaluation.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; run: diffcore evaluate {folder}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); run: diffcore evaluate {folder}") from None

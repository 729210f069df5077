"""What diffcore has written, told from what is in it, so that nothing else is written over."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from diffcore.declare.errors import CheckpointError, SpecError

MARK = "made by diffcore"
"""What stands in the pictures, pages and archives that diffcore writes."""
FILES = ("spec.yaml", "lock.json", "metrics.jsonl", "weights.safetensors", "evaluation.json", "evaluation.yaml", "report.html")
FOLDERS = ("checkpoints", "samples")
"""What a run writes in its directory."""
_NEAR_ITS_ENDS = 8192
_LOCKED = {"python", "torch", "distributions"}


def is_ours(path: Path) -> bool:
    """Whether a file says that diffcore wrote it; text and tables cannot, and are taken for the user's."""
    try:
        with path.open("rb") as file:
            found = file.read(_NEAR_ITS_ENDS)
            file.seek(max(0, file.seek(0, os.SEEK_END) - _NEAR_ITS_ENDS))
            found += file.read()
    except OSError:
        return False
    return (b'"diffcore":' if path.suffix == ".safetensors" else MARK.encode()) in found


def refuse_foreign(path: Path) -> None:
    """Raise `SpecError` where a file stands at a place that is written to, and is not known to be of diffcore."""
    if path.exists() and not is_ours(path):
        raise SpecError(f"{path} exists and is not known to be made by diffcore, so it stays as it is; name another --out")


def refuse_foreign_table(table: Path, others: Iterable[Path] = ()) -> None:
    """`refuse_foreign` of pictures and of the table beside them, which is known by the picture of its own name."""
    for path in (table.with_suffix(".png"), *others):
        refuse_foreign(path)
    if not table.with_suffix(".png").exists():
        refuse_foreign(table)


def is_run(folder: Path) -> bool:
    """Whether diffcore has begun a run there: by its record, its weights or a checkpoint, any one of which is enough."""
    held = [folder / "weights.safetensors", *(folder / "checkpoints").glob("step-*.safetensors")]
    if any(map(is_ours, held)):
        return True
    try:
        record = json.loads((folder / "lock.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and record.keys() >= _LOCKED


def refuse_foreign_run(folder: Path) -> None:
    """Raise `CheckpointError` where a run would write over what no run of ours has made, or cannot write for its sort."""
    for name in (*FILES, *FOLDERS):
        path, wanted = folder / name, "file" if name in FILES else "folder"
        if os.path.lexists(path) and path.is_dir() != (wanted == "folder"):
            raise CheckpointError(f"{path} is no {wanted}, and a run writes a {wanted} of that name; choose another --out")
    if is_run(folder):
        return
    for path in (folder / name for name in (*FILES, *FOLDERS)):
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise CheckpointError(
                f"{path} is not known to be made by diffcore, and a run in {folder} would write there; choose another --out"
            )

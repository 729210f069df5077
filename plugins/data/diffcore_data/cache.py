"""One `.npz` per fetched set, under `$DIFFCORE_CACHE` (default `~/.cache/diffcore`), complete or not there at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import diffcore as dc
from diffcore_data import npz
from diffcore_data.decode import Arrays


def folder() -> Path:
    """The cache folder; it may not exist yet."""
    return Path(os.environ.get("DIFFCORE_CACHE") or Path.home() / ".cache" / "diffcore")


def path(name: str) -> Path:
    """Where the set of this name is, once fetched."""
    return folder() / "data" / f"{name}.npz"


def store(name: str, arrays: Arrays) -> Path:
    """Write the arrays beside their place and rename them into it, so that no reader ever sees a part of them."""
    target = path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{name}-{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def load(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) uint8 and labels (N,) int64 of a split.

    Raises `DataError`, saying what to run, where the set was not fetched or its file is damaged.
    """
    command = f"python -m diffcore_data fetch {name}"
    file = path(name)
    if not file.exists():
        raise dc.DataError(f"{name} is not in the cache ({file}): run `{command}` once")
    try:
        arrays = npz.read(file, (f"{split}_x", f"{split}_label"))
        return arrays[f"{split}_x"], arrays[f"{split}_label"]
    except (dc.DataError, KeyError) as error:
        raise dc.DataError(f"{file} is damaged ({error}): run `{command}` again") from error


def complete(name: str) -> bool:
    """Whether both splits of the set can be loaded."""
    try:
        return all(len(load(name, split)) == 2 for split in ("train", "test"))
    except dc.DataError:
        return False

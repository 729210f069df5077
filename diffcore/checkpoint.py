"""Checkpoints and weights: safetensors only, written aside and renamed, with a digest that a damaged file cannot satisfy."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from diffcore.errors import CheckpointError, RunError


def write_aside(path: Path, data: bytes) -> None:
    """Write a file completely or not at all: a temporary name in the same folder, flushed to disk, then renamed.

    Raises `RunError` where the disk refuses; nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise RunError(f"{path} could not be written ({error.strerror}); what was there before is unchanged") from error


def digest(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """blake2b over names, dtypes, shapes, bytes and metadata, in the order of the names."""
    total = hashlib.blake2b(json.dumps(meta, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON metadata to a safetensors file, completely or not at all."""
    plain: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, value in tensors.items():
        held = value.detach().cpu().contiguous()
        plain[name] = held.clone() if held.numel() and held.data_ptr() in places else held  # tied weights are stored twice
        places.add(held.data_ptr())
    header = {"diffcore": json.dumps(meta, sort_keys=True), "digest": digest(plain, meta)}
    write_aside(path, safetensors.torch.save(plain, header))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote. Raises `CheckpointError` with path and reason for anything missing, foreign or damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file ({error})") from None
    if "diffcore" not in header or "digest" not in header:
        raise CheckpointError(f"{path} was not written by diffcore: its metadata holds no spec")
    meta = json.loads(header["diffcore"])
    if digest(tensors, meta) != header["digest"]:
        raise CheckpointError(f"{path} is damaged: its contents do not match the digest stored with them")
    return tensors, meta


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def latest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
    """The newest checkpoint that is whole, and a line for each newer one that had to be refused; None where there is none.

    Raises `CheckpointError` where checkpoints exist and every one is damaged.
    """
    refused: list[str] = []
    for path in checkpoints(folder):
        try:
            return (*load(path), refused)
        except CheckpointError as error:
            refused.append(str(error))
    if refused:
        raise CheckpointError("no usable checkpoint is left: " + "; ".join(refused))
    return None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for path in checkpoints(folder)[keep:]:
        path.unlink()

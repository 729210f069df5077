"""Checkpoints and weights: safetensors only, written aside and renamed, with a digest that a damaged file cannot satisfy."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from diffcore.declare.errors import CheckpointError, RunError, said

T = TypeVar("T")
_STEP = re.compile(r"step-(\d{1,18})\.safetensors")
_ASIDE = re.compile(r"\..+\.(\d{1,9})\.tmp")


@contextmanager
def aside(path: Path) -> Generator[Path]:
    """A name in the same folder for a file or folder that takes the name `path` when it is whole.

    Raises `RunError` where the disk refuses. Nothing is left behind of what fails.
    """
    place = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, glob.escape(path.name))
        yield place
        place.replace(path)
    except OSError as error:
        raise RunError(f"{path} could not be written ({refusal(error)}); what was there before is unchanged") from error
    finally:
        _remove(place)


def write_aside(path: Path, data: bytes) -> None:
    """Write a file completely or not at all: aside, and flushed to disk. Raises `RunError` where the disk refuses."""
    with aside(path) as place, place.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def append(path: Path, line: str) -> None:
    """Add a line to a text file. Raises `RunError` where the disk refuses."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise RunError(f"{path} could not be written ({refusal(error)}); its whole lines are unchanged") from error


def refusal(error: OSError) -> str:
    """What the system says of a failure, without the name of the file."""
    return error.strerror or str(error) or type(error).__name__


def sweep(folder: Path, name: str = "*") -> None:
    """Remove from a folder what killed processes have left that wrote the file `name` (`*`: any, for the owner of the folder)."""
    for path in folder.glob(f".{name}.*.tmp"):
        written_by = _ASIDE.fullmatch(path.name)
        if written_by and not _lives(int(written_by[1])):
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file or a folder where there is one and the system lets us."""
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether another process of this number runs; one of our own number that was here before us does not."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def digest(tensors: Mapping[str, Tensor], meta: str) -> str:
    """blake2b over names, dtypes, shapes, bytes and the text of the metadata, in the order of the names."""
    total = hashlib.blake2b(meta.encode(), digest_size=16)
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
    text = json.dumps(meta, sort_keys=True)
    write_aside(path, safetensors.torch.save(plain, {"diffcore": text, "digest": digest(plain, text)}))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote. Raises `CheckpointError` with path and reason for anything missing, foreign or damaged."""
    if not path.is_file():
        raise CheckpointError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if "diffcore" not in header or "digest" not in header:
            raise CheckpointError(f"{path} was not written by diffcore: its metadata holds no spec")
        whole = digest(tensors, header["diffcore"]) == header["digest"]
        meta = json.loads(header["diffcore"]) if whole else {}
    except CheckpointError:
        raise
    except Exception as error:  # whatever the decoders of a damaged file raise: RecursionError and MemoryError are among it
        raise CheckpointError(f"{path} is damaged or not a safetensors file ({said(error)})") from None
    if not whole:
        raise CheckpointError(f"{path} is damaged: its contents do not match the digest stored with them")
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path} was not written by diffcore: its metadata is no map")
    return tensors, meta


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    return [path for _, path in sorted(_numbered(folder), reverse=True)]


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("step-*.safetensors"):
        number = _STEP.fullmatch(path.name)
        if number and path.is_file():
            yield int(number[1]), path


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint; -1 where it is not named as one."""
    number = _STEP.fullmatch(path.name)
    return int(number[1]) if number else -1


def latest(folder: Path, read: Callable[[Path], T]) -> tuple[T, list[str]] | None:
    """What `read` makes of the newest checkpoint that is whole, and a line for each newer one that it refused; None where there
    is none.

    One that is removed while it is looked for has made way for a newer one, for which the folder is asked again. Raises
    `CheckpointError` where checkpoints exist and every one is refused.
    """
    refused: list[str] = []
    for path in checkpoints(folder):
        try:
            return read(path), refused
        except CheckpointError as error:
            if not path.exists():
                return latest(folder, read)
            refused.append(str(error))
    if refused:
        raise CheckpointError("no usable checkpoint is left: " + "; ".join(refused))
    return None


def prune(folder: Path, keep: int, step: int) -> None:
    """Remove all but the newest `keep` checkpoints of steps up to `step`; later ones can only be damaged, and are the user's."""
    for path in [path for path in checkpoints(folder) if step_of(path) <= step][keep:]:
        path.unlink(missing_ok=True)

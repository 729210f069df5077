"""Reads `.npz` files: a zip of numpy arrays, as `np.savez` and `np.savez_compressed` write them, and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np

import diffcore as dc

BOMB = 100
"""How much smaller than its content a compressed array may be, once it is larger than `HARMLESS`."""
HARMLESS = 64 << 20
AGAIN = "write it again with np.savez"


def names(path: Path) -> list[str]:
    """What the file holds, without reading it: arrays by name, other members as they are called."""
    with _members(path) as (_, members):
        return list(members)


def read(path: Path, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of these names that are there, in memory once. Every damage, and what would not fit, is a `DataError`."""
    with _members(path) as (archive, members):
        chosen = {name: info for name, info in members.items() if name in wanted}
        dc.require_memory(sum(info.file_size for info in chosen.values()), str(path))
        return {name: _array(archive, info, f"array '{name}' of {path}") for name, info in chosen.items()}


@contextmanager
def _members(path: Path) -> Generator[tuple[ZipFile, dict[str, ZipInfo]]]:
    """The archive and its members by name; the directory of the archive is checked before any content is touched."""
    _refuse_other_formats(path)
    with dc.reading(path, "npz"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if len(members) != len(archive.infolist()):
                raise dc.DataError(f"{path} holds two arrays of one name; {AGAIN}")
            yield archive, members


def _refuse_other_formats(path: Path) -> None:
    with dc.reading(path, "npz"), path.open("rb") as file:
        start = file.read(6)
    if start == b"\x93NUMPY":
        raise dc.DataError(f"{path} is a single array (.npy), whatever its name says; np.savez(path, x=array) writes an .npz")
    if not start.startswith(b"PK"):
        raise dc.DataError(f"{path} is no .npz, whatever its name says: it begins with {start!r}; {AGAIN}")


def _array(archive: ZipFile, info: ZipInfo, what: str) -> np.ndarray:
    _refuse_strange(info, what)
    with archive.open(info) as file:
        array = dc.read_npy(file, info.file_size, what)  # pyright: ignore[reportArgumentType]
        if file.read(1):  # which also compares the checksum at the end
            raise dc.DataError(f"{what} is damaged: it goes on after its last value; {AGAIN}")
    return array


def _refuse_strange(info: ZipInfo, what: str) -> None:
    """Raise `DataError` for encryption, other methods of compression, and sizes that cannot be."""
    if info.flag_bits & 1:
        raise dc.DataError(f"{what} is encrypted; {AGAIN}")
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise dc.DataError(f"{what} is compressed by method {info.compress_type} of zip, which numpy does not write; {AGAIN}")
    if info.compress_type == ZIP_STORED and info.file_size != info.compress_size:
        raise dc.DataError(f"{what} is damaged: it declares {info.file_size} bytes where {info.compress_size} are; {AGAIN}")
    if info.file_size > HARMLESS and info.file_size > BOMB * info.compress_size:
        raise dc.DataError(
            f"{what} would grow from {info.compress_size} to {info.file_size} bytes, as a zip bomb does; if it is sound, {AGAIN} "
            f"(without compression)"
        )

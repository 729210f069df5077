"""Trials in forked processes with the heavy libraries already imported: each sees one edited copy of a package."""

from __future__ import annotations

import inspect
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tools.mutate.edits import Edit

NO_TRIAL, OUT_OF_TIME = 70, 71
PYTEST = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--tb=line"]


def trial(root: Path, edit: Edit, files: list[str], item: str | None, seconds: float) -> int:
    """pytest's exit code for some files of tests (those marked with an item of the book), with a copy of a package made of links
    and one edited file before all others."""
    package, source = root / edit.path, (root / edit.path).read_bytes()
    while (package.parent / "__init__.py").exists():
        package = package.parent
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / package.name
        shutil.copytree(package, copy, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / (root / edit.path).relative_to(package)
        file.unlink()
        file.write_bytes(edit.apply(source))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        return pytest_in(root, [folder], ["-x", *files], Selection(edit.names(source), item, seconds))


def pytest_in(root: Path, packages: Iterable[str], arguments: Iterable[str], *plugins: object) -> int:
    """pytest's exit code, with some folders of packages before all others."""
    sys.path[:0] = packages
    os.chdir(root)
    return int(pytest.main([*PYTEST, f"--rootdir={root}", *arguments], plugins=plugins))


class Selection:
    """A pytest plugin: tests marked with an item (all where it is None), each function once before its other variants and those
    first that name what was edited, for so many seconds of CPU time."""

    def __init__(self, names: set[str], item: str | None, seconds: float) -> None:
        self.named = re.compile(rf"(?<![^\W_])({'|'.join(map(re.escape, names))})(?![^\W_])")
        self.item, self.end = item, time.process_time() + seconds

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Select and order."""
        turns, order = Counter[tuple[str, bool]](), dict[pytest.Item, tuple[int, ...]]()
        hits = cache(lambda function: len(self.named.findall(inspect.getsource(function))))
        for test in items:
            if self.item is None or any(self.item in mark.args for mark in test.iter_markers("item")):
                function, _, variant = test.nodeid.partition("[")
                named = bool(self.named.search(variant.replace("-", "_")))
                order[test] = turns[function, named], -named, -hits(test.function)  # type: ignore[attr-defined]
                turns[function, named] += 1
        items[:] = sorted(order, key=order.__getitem__)

    def pytest_runtest_logfinish(self) -> None:
        """Stop in time."""
        if time.process_time() > self.end:
            pytest.exit("out of time", returncode=OUT_OF_TIME)


def finished(jobs: Iterable[tuple[Any, Callable[[], int]]], at_once: int, seconds: float) -> Iterator[tuple[Any, int, str]]:
    """(name, exit code or minus a signal, output) of every job (name, work), as they end; each may use so much CPU time."""
    running, waiting = dict[int, tuple[Any, Path]](), iter(jobs)
    with tempfile.TemporaryDirectory() as scratch:
        while True:
            for name, work in islice(waiting, at_once - len(running)):
                folder = Path(tempfile.mkdtemp(dir=scratch))
                running[_fork(work, folder, int(seconds))] = name, folder / "log"
            if not running:
                return
            child, status = os.wait()
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # what it started
            name, log = running.pop(child)
            yield name, os.waitstatus_to_exitcode(status), log.read_text(errors="replace")


def _fork(work: Callable[[], int], folder: Path, seconds: int) -> int:
    """The id of a child that does `work` and writes to `folder`. One that hangs without using the CPU ends by an alarm."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        with (folder / "log").open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        signal.alarm(20 * seconds)
        sys.dont_write_bytecode = True
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
        tempfile.tempdir = None
        code = work()
    except BaseException:
        traceback.print_exc()
        code = NO_TRIAL
    sys.stdout.flush()
    os._exit(code)

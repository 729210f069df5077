"""Which tests run which lines: every test file once under a trace function, kept until the file or its sources change."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

FOREIGN = 8  # of the tests of one file, how many are kept for a line of another distribution
VARIANTS = 6  # of a test with many sets of parameters, how many are recorded, spread evenly


@dataclass(frozen=True)
class Test:
    """A test, how long it took, the items that it is marked with, and the lines that it ran: path -> numbers."""

    id: str
    seconds: float
    items: list[str]
    lines: dict[str, list[int]] = field(repr=False)

    @property
    def function(self) -> str:
        """The test without its parameters."""
        return self.id.partition("[")[0]


class Recorder:
    """A pytest plugin. Lines of a fixture that outlives its first test count for every test that asks for it."""

    def __init__(self, folder: Path, homes: dict[str, str]) -> None:
        """folder: where the packages were imported from; homes: their names and where they stand, from the root."""
        self.prefix, self.homes, self.tests = str(folder) + "/", homes, list[Test]()
        self.lines, self.shared = set[tuple[str, int]](), dict[str, set[tuple[str, int]]]()
        self.known: dict[str, bool] = {}
        self.failed: set[str] = set()

    def of_interest(self, path: str) -> bool:
        """Whether a file belongs to the product."""
        if path not in self.known:
            self.known[path] = path.startswith(self.prefix)
        return self.known[path]

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """The trace function of calls."""
        return self.line if self.of_interest(frame.f_code.co_filename) else None

    def line(self, frame: FrameType, event: str, _: Any) -> Any:
        """The trace function of lines."""
        self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self.line

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Few variants of each test."""
        groups: dict[str, list[pytest.Item]] = {}
        for item in items:
            groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
        few = {id(i) for g in groups.values() for i in g[:: -(-len(g) // VARIANTS)]}
        items[:] = [i for i in items if id(i) in few]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """What a fixture runs is noted twice: for this test, and under the fixture's name."""
        outer, self.lines = self.lines, set()
        try:
            return (yield)
        finally:
            self.shared[fixturedef.argname] = self.lines
            self.lines |= outer

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        """Trace one test with its set-up."""
        self.lines, began = set(), time.perf_counter()
        sys.settrace(self.trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            for name in item.fixturenames:
                self.lines |= self.shared.get(name, set())
            self.keep(item, time.perf_counter() - began)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note what did not pass."""
        if not report.passed:
            self.failed.add(report.nodeid)

    def keep(self, item: Any, seconds: float) -> None:
        """Note a test that passed: one that fails or is skipped proves nothing."""
        if item.nodeid not in self.failed:
            lines: dict[str, list[int]] = {}
            for path, number in self.lines:
                name, _, rest = path.removeprefix(self.prefix).partition("/")
                lines.setdefault(f"{self.homes[name]}/{rest}", []).append(number)
            marks = [str(a) for mark in item.iter_markers("item") for a in mark.args]
            self.tests.append(Test(item.nodeid, round(seconds, 3), marks, lines))


def scope(path: Path | str) -> str:
    """The distribution of a file: a plugin's folder, else the core."""
    parts = Path(path).parts
    return parts[parts.index("plugins") + 1] if "plugins" in parts else "core"


def key(root: Path, test_file: Path) -> str:
    """What a record of a test file depends on: itself, its conftest and the sources of its own distribution."""
    name = scope(test_file.relative_to(root))
    home = root / "plugins" / name if name != "core" else root / "diffcore"
    sources = [test_file, *test_file.parent.glob("conftest.py"), *sorted(p for p in home.rglob("*.py") if "tests" not in p.parts)]
    return hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()


def thinned(tests: list[Test], home: str) -> list[Test]:
    """Without most of the lines of other distributions, which hundreds of tests run: the quickest few of each file stay."""
    kept: dict[tuple[str, int], int] = {}
    out: list[Test] = []
    for test in sorted(tests, key=lambda t: t.seconds):
        lines: dict[str, list[int]] = {}
        for path, numbers in test.lines.items():
            few = [n for n in numbers if scope(path) == home or kept.get((path, n), 0) < FOREIGN]
            kept.update({(path, n): kept.get((path, n), 0) + 1 for n in few})
            lines |= {path: few} if few else {}
        out.append(Test(test.id, test.seconds, test.items, lines))
    return out


def save(root: Path, test_file: Path, cache: Path, tests: list[Test]) -> None:
    """Keep a record."""
    kept = thinned(tests, scope(test_file.relative_to(root)))
    text = json.dumps({"key": key(root, test_file), "tests": [vars(t) for t in kept]})
    partial = cache.with_suffix(".partial")
    partial.write_text(text)
    partial.rename(cache)


def load(root: Path, test_file: Path, cache: Path) -> list[Test] | None:
    """A record that is still true, else None."""
    if not cache.exists():
        return None
    kept = json.loads(cache.read_text())
    return [Test(**t) for t in kept["tests"]] if kept["key"] == key(root, test_file) else None

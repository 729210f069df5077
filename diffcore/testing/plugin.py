"""The pytest plugin: a header line, and `--diffcore-conform DIST` to check an installed distribution without a test file.

Imports no torch: pytest loads it at every start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffcore.declare.errors import DiffcoreError
from diffcore.specs.registry import Registry


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--diffcore-conform`, which may be given several times."""
    group = parser.getgroup("diffcore")
    group.addoption(
        "--diffcore-conform",
        action="append",
        default=[],
        metavar="DIST",
        help="also run the conformance kit on DIST or a component id",
    )


def pytest_report_header(config: pytest.Config) -> str:
    """The number of plugins, and those that could not be loaded."""
    plugins = Registry.load().plugins
    bad = [f"{p.dist} {p.status}: {p.cause}" for p in plugins if p.status != "ok"]
    return f"diffcore: {len(plugins)} plugins{', ' + '; '.join(bad) if bad else ''}"


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add one item per check of the targets named on the command line."""
    targets: list[str] = config.getoption("--diffcore-conform") or []
    for target in targets:
        collector: Any = _Conformance.from_parent(session, name=f"conform {target}", target=target)
        items.extend(collector.collect())


class _Conformance(pytest.Collector):
    def __init__(self, *, target: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target

    def collect(self) -> list[pytest.Item]:
        from diffcore.testing.suite import Repeats, cases

        try:
            found = list(cases(Registry.load(), self.target))
        except DiffcoreError as error:
            raise pytest.UsageError(str(error)) from None
        repeats = Repeats()
        return [_Item.from_parent(self, name=case.name, case=case, repeats=repeats) for case in found]


class _Item(pytest.Item):
    def __init__(self, *, case: Any, repeats: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case, self.repeats = case, repeats

    def runtest(self) -> None:
        outcome = self.repeats.noted(self.case.run())
        if outcome.status == "skipped":
            pytest.skip(outcome.message)
        if outcome.status == "xfailed":
            pytest.xfail(outcome.message)
        if outcome.status == "failed":
            pytest.fail(outcome.line(), pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name

"""Running the kit: from the command line and notebooks (`run_checks`), and from a plugin's test file (`conformance`)."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import groupby
from typing import Any, Literal

import attrs

from diffcore.declare.entry import Entry
from diffcore.declare.errors import DiffcoreError, PluginError, UnknownComponentError, did_you_mean, shown
from diffcore.declare.kinds import Kind
from diffcore.declare.loading import load
from diffcore.specs.registry import Registry
from diffcore.testing.base import Rule, SkipError, Subject, rules_of

Status = Literal["passed", "failed", "skipped", "xfailed"]
MARKS: Mapping[str, str] = {"passed": "ok", "failed": "FAIL", "skipped": "skip", "xfailed": "xfail"}


@attrs.frozen
class Outcome:
    """What one check said of one component. `message`: why it failed, was skipped, or is expected to fail.

    same_as: the earlier check of the component that failed with this very error, if one did.
    """

    component: str
    kind: str
    check: str
    status: Status
    message: str = ""
    same_as: str = ""

    def line(self) -> str:
        """One line for a terminal."""
        said = f"the same error as in {self.same_as}" if self.same_as else self.message
        return f"{MARKS[self.status]:5} {self.kind} {self.component}: {self.check}{': ' + said if said else ''}"


class Repeats:
    """Finds failures of one component, its variants included, that have the same error: type, message and line."""

    def __init__(self) -> None:
        self.first: dict[tuple[str, str, str], str] = {}
        self.again: dict[tuple[str, str, str], list[str]] = {}

    def noted(self, outcome: Outcome) -> Outcome:
        """The outcome, with `same_as` where its error was seen before."""
        component, bracket, variant = outcome.component.partition("[")
        key, name = (outcome.kind, component, outcome.message), outcome.check + bracket + variant
        if outcome.status != "failed" or self.first.setdefault(key, name) == name:
            return outcome
        self.again.setdefault(key, []).append(name)
        return attrs.evolve(outcome, same_as=self.first[key])

    def lines(self) -> Iterator[Outcome]:
        """What was found since the last call, all checks with one error as one outcome."""
        for key, names in self.again.items():
            yield Outcome(key[1], key[0], ", ".join(names), "failed", key[2], self.first[key])
        self.again.clear()


@attrs.frozen
class Report:
    """Everything the kit found out about a target. `cause` says why nothing could be checked, where nothing could."""

    target: str
    outcomes: tuple[Outcome, ...] = ()
    cause: str = ""

    def count(self, status: Status) -> int:
        """How many checks ended this way."""
        return sum(o.status == status for o in self.outcomes)

    @property
    def ran(self) -> int:
        """Checks that passed or failed; 0 is a failure of the whole."""
        return self.count("passed") + self.count("failed") + self.count("xfailed")

    @property
    def ok(self) -> bool:
        """Something ran, and nothing failed."""
        return self.ran > 0 and self.count("failed") == 0

    def summary(self) -> str:
        """One line: what ran, passed, failed, was skipped."""
        if self.cause:
            return f"{self.target}: {self.cause}"
        components = len({(o.kind, o.component) for o in self.outcomes})
        counts = ", ".join(f"{self.count(s)} {s}" for s in ("passed", "failed", "skipped", "xfailed") if self.count(s))
        floor = "" if self.ran else "; a target of which nothing was checked is not sound"
        return f"{self.target}: {components} components, {self.ran} checks ran: {counts or 'none'}{floor}"


@attrs.frozen
class Case:
    """One check of one component (with one of its `variants`), not yet run."""

    registry: Registry
    entry: Entry
    rule: Rule | None
    variant: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def name(self) -> str:
        """A readable identifier: `solver-ddim[eta=1.0]-order`."""
        fields = ",".join(f"{k}={v}" for k, v in self.variant.items())
        return (
            f"{self.entry.kind}-{self.entry.id}{f'[{fields}]' if fields else ''}-{self.rule.name if self.rule else 'importable'}"
        )

    def run(self) -> Outcome:
        """Run the check; every exception is an outcome."""
        status, message = self._run()
        expected = self._expected()
        if expected and status == "failed":
            status, message = "xfailed", expected
        elif expected and status == "passed":
            status, message = (
                "failed",
                f"passes, although `expected_failures` says it cannot hold ({expected}); remove that entry",
            )
        return Outcome(self.name.partition("-")[2].rpartition("-")[0], self.entry.kind, self._check, status, message)

    @property
    def _check(self) -> str:
        return self.rule.name if self.rule else "importable"

    def _expected(self) -> str:
        return (
            ""
            if self.rule is None
            else self.registry.get(self.entry.kind, self.entry.full_id).expected_failures.get(self._check, "")
        )

    def _run(self) -> tuple[Status, str]:
        try:
            cls: Any = self.registry.get(self.entry.kind, self.entry.full_id)
            if self.rule is not None:
                self.rule.run(Subject(self.registry, self.entry, cls, dict(self.variant)))
        except SkipError as reason:
            return "skipped", str(reason)
        except AssertionError as error:
            said = str(error).partition("\nassert ")[0]  # pytest's rewriting appends the expression
            return "failed", said or traceback.format_exc(limit=-1).strip()
        except DiffcoreError as error:
            return "failed", f"{type(error).__name__}: {error}"
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            return "failed", f"{type(error).__name__}: {error} ({place.filename}:{place.lineno}, in {place.name})"
        return "passed", ""


def find(registry: Registry, target: str) -> list[Entry]:
    """The components a target names: all of a distribution, or those with an id or `dist/id`. Raises with the nearest name."""
    entries = [e for e in registry.list() if target in (e.dist, e.id, e.full_id)]
    if entries:
        return entries
    for plugin in registry.plugins:
        if target in (plugin.dist, plugin.name):
            raise PluginError(
                f"{target} has no components to check: {plugin.status}{': ' + plugin.cause if plugin.cause else ''}"
            )
    known = {e.dist for e in registry.list()} | {e.id for e in registry.list()}
    raise UnknownComponentError(f"no installed distribution or component '{target}'{did_you_mean(target, known)}")


def cases(registry: Registry, target: str) -> Iterator[Case]:
    """Every check of every component of a target, the import of its class first."""
    importlib.import_module("diffcore.testing.checks")  # registers the checks; imports torch
    for entry in find(registry, target):
        yield Case(registry, entry, None)
        try:
            cls: Any = registry.get(entry.kind, entry.full_id)
        except PluginError:
            continue
        for variant in ({}, *getattr(cls, "variants", ())):
            for rule in (*rules_of(cls), *_brought(registry.kinds[entry.kind])):
                yield Case(registry, entry, rule, variant)


def _brought(kind: Kind) -> Iterator[Rule]:
    """The checks that the distribution of a kind brings; one that fails where they cannot be had."""
    if not kind.checks:
        return
    try:
        found: Any = load(kind.checks, f"the checks of {kind}")
        if not (isinstance(found, (tuple, list)) and all(map(callable, found))):
            raise PluginError(f"the checks of {kind}, {kind.checks}, must be a tuple of functions; got {shown(found)}")
    except PluginError as error:
        yield Rule(kind.name, "checks_of_the_kind", partial(_refuse, error), lambda cls: True)
        return
    for run in found:
        yield Rule(kind.name, run.__name__, run, lambda cls: True)


def _refuse(error: PluginError, subject: Subject) -> None:
    raise error


def run_checks(registry: Registry, target: str, progress: Callable[[Outcome], None] | None = None) -> Report:
    """Run the kit on a distribution or a component. Never raises for a fault of the target.

    `progress` sees each outcome; the checks of a component that fail with one error as two: the first, then all others.
    """
    try:
        planned = list(cases(registry, target))
    except DiffcoreError as error:
        return Report(target, cause=str(error))
    outcomes: list[Outcome] = []
    repeats, progress = Repeats(), progress or (lambda outcome: None)
    for _, group in groupby(planned, key=lambda case: case.entry):
        for case in group:
            outcomes.append(repeats.noted(case.run()))
            if not outcomes[-1].same_as:
                progress(outcomes[-1])
        for outcome in repeats.lines():
            progress(outcome)
    return Report(target, tuple(outcomes))


def conformance(target: str, registry: Registry | None = None) -> Callable[..., None]:
    """A pytest test function over every check of every component of a distribution (or of one component).

    In a plugin's test file:

        from diffcore.testing import conformance

        test_conformance = conformance("my-distribution")

    Where there is nothing to check (not installed, broken, empty) the test fails and says why.
    """
    import pytest

    try:
        found = list(cases(registry or Registry.load(), target))
    except DiffcoreError as error:
        return _nothing(str(error))
    repeats = Repeats()

    @pytest.mark.parametrize("case", found, ids=[c.name for c in found])
    def test_conformance(case: Case) -> None:
        outcome = repeats.noted(case.run())
        if outcome.status == "skipped":
            pytest.skip(outcome.message)
        if outcome.status == "xfailed":
            pytest.xfail(outcome.message)
        if outcome.status == "failed":
            pytest.fail(outcome.line(), pytrace=False)

    return test_conformance


def _nothing(cause: str) -> Callable[..., None]:
    def test_conformance() -> None:
        raise AssertionError(cause)

    return test_conformance

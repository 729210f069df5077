"""The kit around its checks: reports, floors, expected failures, variants, and the pytest plugin."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, ClassVar

import pytest
import torch

import diffcore as dc
from diffcore.testing import Report, conformance, run_checks
from diffcore.testing.base import RULES, GlobalNoiseError, poisoned_noise, unchanged

pytest_plugins = ["pytester"]


@dc.component
class Even(dc.Grid):
    """t_i = start (1 - (i / N)^power), evenly spaced for power 1."""

    power: float = dc.param(default=1.0, gt=0, doc="exponent")

    def nodes(self, process, steps, start):
        return start * (1 - torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** self.power)


@dc.component
class Backwards(Even):
    """t_i = start i / N."""

    expected_failures: ClassVar[dict[str, str]] = {"nodes": "runs the other way", "pure": "never"}

    def nodes(self, process, steps, start):
        return super().nodes(process, steps, start).flip(0)


@dc.component
class TwoPowers(Even):
    """t_i = start (1 - (i / N)^power)."""

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"power": 2.0}, {"power": 0.5})


def registry_of(*classes):
    registry = dc.Registry()
    for cls in classes:
        registry.add(cls)
    return registry


def test_a_sound_component_gives_a_sound_report():
    seen: list[str] = []
    report = run_checks(registry_of(Even), "even", lambda o: seen.append(o.check))
    assert report.ok
    assert report.count("passed") == report.ran == len(report.outcomes) == len(seen)
    assert report.summary() == f"even: 1 components, {report.ran} checks ran: {report.ran} passed"
    assert {"importable", "frozen", "nodes", "same_end", "pure"} <= set(seen)


def test_expected_failures_are_neither_failures_nor_passes():
    """An expected failure is reported with its reason; one that passes after all is a failure, so that lists do not rot."""
    found = {o.check: o for o in run_checks(registry_of(Backwards), "backwards").outcomes}
    assert (found["nodes"].status, found["nodes"].message) == ("xfailed", "runs the other way")
    assert found["pure"].status == "failed"
    assert "remove that entry" in found["pure"].message


def test_every_variant_is_checked():
    names = {o.component for o in run_checks(registry_of(TwoPowers), "local").outcomes}
    assert names == {"two-powers", "two-powers[power=2.0]", "two-powers[power=0.5]"}


def test_nothing_to_check_is_a_failure_with_its_cause():
    report = run_checks(registry_of(Even), "evn")
    assert not report.ok
    assert "did you mean 'even'?" in report.cause
    assert not Report("empty").ok
    assert "is not sound" in Report("empty").summary()
    with pytest.raises(AssertionError, match="did you mean 'even'"):
        conformance("evn", registry_of(Even))()


def test_a_broken_plugin_is_named_with_its_cause():
    plugin = dc.Plugin("bad", "diffcore-bad", "1", "bad", "broken", cause="ImportError: no module named x")
    report = run_checks(dc.Registry([plugin]), "diffcore-bad")
    assert not report.ok
    assert "broken: ImportError: no module named x" in report.summary()


def test_a_class_that_cannot_be_imported_is_one_failed_check():
    entry = dc.Entry("ghost", "solver", "no_such_module:Ghost", "", "diffcore-ghost", "1")
    plugin = dc.Plugin("ghost", "diffcore-ghost", "1", "ghost", "ok", components=(entry,))
    (outcome,) = run_checks(dc.Registry([plugin]), "diffcore-ghost").outcomes
    assert (outcome.check, outcome.status) == ("importable", "failed")
    assert "no_such_module" in outcome.message


def test_unforeseen_exceptions_name_their_place():
    @dc.component
    class Crashes(Even):
        """t_i = start / 0."""

        def nodes(self, process, steps, start):
            return None + start

    found = {o.check: o for o in run_checks(registry_of(Crashes), "local").outcomes}
    assert found["pure"].status == "failed"
    assert "TypeError" in found["pure"].message
    assert "in nodes" in found["pure"].message


@dc.component
class Typo(Even):
    """t_i = start (1 - (i / N)^pwoer)."""

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"power": 2.0},)

    def nodes(self, process, steps, start):
        return start * (1 - torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** pwoer)  # noqa: F821  # pyright: ignore


def test_one_error_in_many_checks_is_told_once():
    told: list[str] = []
    report = run_checks(registry_of(Typo), "typo", lambda outcome: told.append(outcome.line()))
    failed = [line for line in told if line.startswith("FAIL")]
    assert len(failed) == 2
    assert "NameError: name 'pwoer' is not defined" in failed[0]
    names = failed[1].removeprefix("FAIL  grid typo: ").removesuffix(": the same error as in nodes").split(", ")
    assert {"same_end", "pure", "nodes[power=2.0]", "pure[power=2.0]"} <= set(names)
    every = [o for o in report.outcomes if o.status == "failed"]
    assert len(every) == report.count("failed") == 1 + len(names)
    assert all("NameError" in o.message for o in every)
    assert [o.same_as for o in every] == ["", *["nodes"] * len(names)]


def test_other_errors_and_other_components_are_told_again():
    """What is merged is one error of one component: another line, or another component, is another error."""

    @dc.component
    class AnotherTypo(Typo):
        """t_i = the same."""

        variants: ClassVar[tuple[dict[str, Any], ...]] = ()

    report = run_checks(registry_of(Typo, AnotherTypo), "local")
    firsts = [o for o in report.outcomes if o.status == "failed" and not o.same_as]
    assert sorted((o.component, o.check) for o in firsts) == [("another-typo", "nodes"), ("typo", "nodes")]


def test_pytest_tells_one_error_once():
    test = conformance("typo", registry_of(Typo))
    said: list[str] = []
    for case in test.pytestmark[0].args[1]:  # type: ignore[attr-defined]
        try:
            test(case)
        except pytest.fail.Exception as error:
            said.append(str(error))
    assert len(said) > 4
    assert sum("NameError" in line for line in said) == 1
    assert all(line.endswith("the same error as in nodes") for line in said[1:])


def test_every_check_says_what_it_proves():
    assert len({(r.kind, r.name) for r in RULES}) == len(RULES) > 50
    assert all(rule.run.__doc__ for rule in RULES)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randn(2),
        lambda: torch.zeros(2).normal_(),
        lambda: torch.randperm(3),
        lambda: torch.nn.functional.dropout(torch.ones(4), training=True),
        lambda: __import__("random").random(),
        lambda: __import__("numpy").random.rand(),
    ],
    ids=["randn", "normal_", "randperm", "dropout", "random", "numpy"],
)
def test_global_noise_is_caught(draw):
    import random

    import numpy as np

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    with pytest.raises(GlobalNoiseError), poisoned_noise():
        draw()
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    np.random.set_state(before[2])


def test_keyed_noise_passes():
    with poisoned_noise():
        torch.randperm(3, generator=torch.Generator().manual_seed(0))
        dc.Draw(0, [1]).normal((2,))


def test_changes_in_place_are_caught_in_trees():
    state = {"a": torch.zeros(2), "b": torch.ones(3)}
    with pytest.raises(AssertionError, match="changed in place"), unchanged("the state", state):
        state["b"].add_(1)


def test_the_pytest_function_runs_and_reports(pytester):
    pytester.makepyfile(
        test_it="""
        from typing import ClassVar

        import torch
        import diffcore as dc
        from diffcore.testing import conformance

        @dc.component
        class Even(dc.Grid):
            '''t_i = start (1 - i / N).'''

            expected_failures: ClassVar[dict] = {"nodes": "of the wrong type"}

            def nodes(self, process, steps, start):
                return torch.linspace(start, 0, steps + 1)

        registry = dc.Registry()
        registry.add(Even)
        test_conformance = conformance("even", registry)
        test_nothing = conformance("odd", registry)
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rfx")
    counts = result.parseoutcomes()
    assert counts["xfailed"] == 1
    assert counts["failed"] == 1
    assert counts["passed"] >= 6
    result.stdout.fnmatch_lines(["*diffcore: * plugins*"])
    result.stdout.fnmatch_lines(["*no installed distribution or component 'odd'*"])


def test_the_command_line_option_checks_an_installed_distribution(pytester):
    pytester.makepyfile("def test_one(): pass")
    result = pytester.runpytest_inprocess(
        "-p", "no:cacheprovider", "--diffcore-conform", "diffcore", "-k", "importable or test_one"
    )
    assert result.parseoutcomes()["passed"] >= 3
    wrong = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--diffcore-conform", "diffcor")
    assert wrong.ret == pytest.ExitCode.USAGE_ERROR
    wrong.stderr.fnmatch_lines(["*did you mean 'diffcore'*"])


def test_pytest_starts_without_torch():
    """The plugin is loaded at every start of pytest and must not import torch."""
    code = "import sys, diffcore.testing.plugin, diffcore.testing; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"

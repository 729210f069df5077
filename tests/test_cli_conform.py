"""`conform`: says what ran, what failed and why, and ends with the right code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import diffcore as dc
from diffcore.cli import main
from diffcore.testing import Outcome, Report


def conform(*arguments: str, code: int) -> str:
    shown = CliRunner().invoke(main, ["conform", *arguments], catch_exceptions=False)
    assert shown.exit_code == code, shown.output
    return shown.stdout


def reporting(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_checks(registry: dc.Registry, target: str, progress: object) -> Report:
        for outcome in report.outcomes if callable(progress) else ():
            progress(outcome)
        return report

    monkeypatch.setattr("diffcore.testing.run_checks", run_checks)


PASSED = Outcome("heun", "solver", "order", "passed")
FAILED = Report("heun", (PASSED, Outcome("heun", "solver", "marginals", "failed", "the variance is 3 off")))


def test_json_counts_what_it_lists():
    told = json.loads(conform("flow-map", "--json", code=0))
    assert told["ok"]
    assert told["ran"] == told["passed"] > 0
    assert len(told["outcomes"]) == sum(told[status] for status in ("passed", "failed", "skipped", "xfailed"))
    assert {(o["kind"], o["component"]) for o in told["outcomes"]} == {("solver", "flow-map")}


def test_every_check_is_a_line_and_the_last_is_the_sum():
    lines = conform("karras", code=0).splitlines()
    assert all(line.split()[:3] == [line.split()[0], "grid", "karras:"] for line in lines[:-2])
    assert lines[-1].startswith("karras: 1 components, ")


@pytest.mark.parametrize(
    ("name", "meant"), [("solvers", "diffcore-solvers"), ("diffcore-solvers", "diffcore-solvers"), ("heun", "heun")]
)
def test_a_plugin_is_its_distribution(name: str, meant: str, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def run_checks(registry: dc.Registry, target: str, progress: object) -> Report:
        asked.append(target)
        return Report(target, (PASSED,))

    monkeypatch.setattr("diffcore.testing.run_checks", run_checks)
    conform(name, code=0)
    assert asked == [meant]


def test_a_failure_is_exit_code_1_with_its_reason(monkeypatch: pytest.MonkeyPatch):
    reporting(FAILED, monkeypatch)
    said = conform("heun", code=1)
    assert "the variance is 3 off" in said
    assert "1 failed" in said
    assert not json.loads(conform("heun", "--json", code=1))["ok"]


def test_nothing_checked_is_a_failure(monkeypatch: pytest.MonkeyPatch):
    reporting(Report("heun"), monkeypatch)
    conform("heun", code=1)


def test_a_distribution_that_cannot_be_loaded_says_why(monkeypatch: pytest.MonkeyPatch):
    reporting(Report("heun", cause="diffcore-x is broken: ImportError"), monkeypatch)
    shown = CliRunner().invoke(main, ["conform", "heun"])
    assert (shown.exit_code, shown.stderr) == (2, "Error: diffcore-x is broken: ImportError\n")


def test_a_plugin_that_is_not_installed_is_told_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "diffcore-mine").mkdir()
    (tmp_path / "diffcore-mine" / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(main, ["conform", "mine"])
    assert said.exit_code == 2
    assert "the folder diffcore-mine is not installed: pip install -e diffcore-mine" in said.output
    said = CliRunner().invoke(main, ["conform", "eulr"])
    assert "did you mean 'euler'? see: diffcore list" in said.output

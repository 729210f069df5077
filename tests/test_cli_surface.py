"""The command line as others script it: names, options and exit codes. A change here breaks somebody's script."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import diffcore as dc
from diffcore.cli import COMMANDS, main

SURFACE = {
    "plugins": ["--json", "-v --verbose"],
    "list": ["KIND?", "--alias", "--available", "--json", "-v --verbose"],
    "show": ["ID", "--kind", "--json", "-v --verbose"],
    "check": ["SPEC", "--set", "--json", "-v --verbose"],
    "explain": ["SPEC", "--set", "--targets", "--origin", "--json", "-v --verbose"],
    "schema": ["--kind", "-v --verbose"],
    "run": ["SPEC", "--set", "--out", "--device", "--json", "-v --verbose"],
    "train": ["SPEC", "--set", "--out", "--device", "--json", "-v --verbose"],
    "sample": ["RUN", "-n", "--seed", "--cond", "--set", "--out", "--device", "--json", "-v --verbose"],
    "evaluate": ["RUN", "--set", "--device", "--json", "-v --verbose"],
    "calibrate": ["RUN", "--set", "--device", "--json", "-v --verbose"],
    "bench": ["RUN", "--solvers", "--nfe", "-n", "--seed", "--set", "--out", "--device", "--json", "-v --verbose"],
    "trajectory": ["RUN", "--solver", "-n", "--seed", "--set", "--out", "--device", "--json", "-v --verbose"],
    "compare": ["RUNS", "--out", "--json", "-v --verbose"],
    "new command": ["NAME", "--dir", "--json", "-v --verbose"],
    "new plugin": ["NAME", "--kind", "--dir", "--json", "-v --verbose"],
    "conform": ["TARGET", "--json", "-v --verbose"],
}


def command_at(path: str) -> click.Command:
    found: click.Command = main
    for name in path.split():
        assert isinstance(found, click.Group)
        command = found.get_command(click.Context(found), name)
        assert command is not None
        found = command
    return found


def words(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return (parameter.name or "").upper() + ("" if parameter.required else "?")
    return " ".join(parameter.opts)


@pytest.mark.parametrize("path", SURFACE)
def test_the_options_of_a_command_are_these(path: str):
    assert [words(p) for p in command_at(path).params] == SURFACE[path]


def test_no_command_is_missing_from_the_listing_above():
    assert {path.split()[0] for path in SURFACE} == set(COMMANDS)


def test_help_names_every_command_with_one_line():
    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0
    for name, (_, line) in COMMANDS.items():
        assert f"  {name} " in shown.output
        assert line.split()[0] in shown.output


@pytest.mark.parametrize("path", SURFACE)
def test_every_command_has_help(path: str):
    shown = CliRunner().invoke(main, [*path.split(), "--help"])
    assert shown.exit_code == 0
    assert shown.output.startswith("Usage:")


def test_version_is_that_of_the_package():
    assert dc.__version__ in CliRunner().invoke(main, ["--version"]).output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plugns"], "did you mean 'plugins'?"),
        (["list", "--jsn"], "--json"),
        (["list", "solvrs"], "did you mean 'solvers'?"),
        (["show", "flow-mpa"], "did you mean 'flow-map'?"),
        (["show", "diffcore/flow-mpa"], "no component 'diffcore/flow-mpa'"),
        (["show", "flow-map", "--kind", "datum"], "did you mean 'data'?"),
        (["new", "plugn", "x"], "did you mean 'plugin'?"),
        (["run"], "Missing argument 'SPEC'"),
        (["sample", "somewhere", "-n", "0"], "0 is not in the range"),
        (["sample", "somewhere", "--cond", "label"], "example: label=3"),
        (["sample", "somewhere", "--out", "x.jpg"], ".npz, .png, .gif, .txt, .csv, or in / for a folder"),
        (["sample", "no/such/run"], "no/such/run"),
        (["evaluate", "no/such/run"], "no/such/run"),
        (["compare", "no/such/run"], "no/such/run"),
        (["run", "no/such.yaml"], "no/such.yaml"),
        (["check", "no/such.yaml"], "no/such.yaml"),
        (["explain", "no/such.yaml"], "no/such.yaml"),
        (["conform", "flow-mpa"], "did you mean 'flow-map'?"),
    ],
)
def test_a_mistake_is_one_message_on_stderr_and_exit_code_2(arguments: list[str], says: str):
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 2
    assert says in shown.stderr
    assert "Traceback" not in shown.stderr
    assert shown.stdout == ""


@pytest.mark.parametrize("how", ["before", "after", "environment"])
def test_a_traceback_is_shown_when_asked_for(how: str):
    arguments = {"before": ["-v", "list", "x"], "after": ["list", "x", "-v"], "environment": ["list", "x"]}[how]
    shown = CliRunner().invoke(main, arguments, env={"DIFFCORE_DEBUG": "1"} if how == "environment" else {})
    assert shown.exit_code == 2
    assert "Traceback" in shown.stderr


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("diffcore.cli.catalogue.Registry.load", fail)
    return CliRunner().invoke(main, ["list"])


def test_a_failed_run_is_exit_code_1(monkeypatch: pytest.MonkeyPatch):
    shown = raising(dc.NumericsError("NaN in the loss at step 3"), monkeypatch)
    assert (shown.exit_code, shown.stderr) == (1, "Error: NaN in the loss at step 3\n")


def test_an_error_of_the_system_names_the_file(monkeypatch: pytest.MonkeyPatch):
    shown = raising(PermissionError(13, "Permission denied", "/data/x.npz"), monkeypatch)
    assert (shown.exit_code, shown.stderr) == (1, "Error: /data/x.npz: Permission denied\n")


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    shown = raising(ZeroDivisionError("a bug"), monkeypatch)
    assert isinstance(shown.exception, ZeroDivisionError)


def test_control_c_is_130(monkeypatch: pytest.MonkeyPatch):
    shown = raising(KeyboardInterrupt(), monkeypatch)
    assert (shown.exit_code, shown.stderr) == (130, "interrupted\n")


def test_a_character_the_terminal_lacks_is_replaced():
    code = "import click; from diffcore.cli.group import _replace_unprintable as f; f(); click.echo('\\u03c3 = 1')"
    env = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=True)
    assert shown.stdout == b"? = 1\n"

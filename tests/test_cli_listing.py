"""`plugins`, `list`, `show`: complete against the registry, and honest about plugins that do not work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import diffcore as dc
from diffcore.cli import main
from diffcore.cli.catalogue import kind_of
from diffcore.declare.kinds import CORE

GOOD = """
import diffcore as dc
API_VERSION = 1

@dc.hookimpl
def diffcore_solvers():
    yield dc.Component("flow-map", "diffcore.numerics.flow_map:FlowMapSolver", "the same id again")
    yield dc.Component("lost", "diffcore.no_such_module:Solver", "its module is missing")
"""
PLUGINS = {
    "good": GOOD,
    "broken": "raise RuntimeError('out of luck')",
    "exits": "raise SystemExit(3)",
    "old": "API_VERSION = 99",
    "silent": "",
    "misspelt": "import diffcore as dc\nAPI_VERSION = 1\n\n@dc.hookimpl\ndef diffcore_solver():\n    return ()\n",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six more distributions, most of them bad."""
    for name, code in PLUGINS.items():
        (tmp_path / f"plugin_{name}.py").write_text(code)
        info = tmp_path / f"fake_{name}-2.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fake-{name}\nVersion: 2.1\n")
        (info / "entry_points.txt").write_text(f"[diffcore]\n{name} = plugin_{name}\n")
    monkeypatch.syspath_prepend(tmp_path)


def run(*arguments: str) -> str:
    shown = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert shown.exit_code == 0, shown.stderr
    return shown.stdout


def test_plugins_json_is_the_registry():
    told = json.loads(run("plugins", "--json"))
    known = dc.Registry.load().plugins
    assert [(p["distribution"], p["version"], p["status"], p["api"]) for p in told] == [
        (p.dist, p.version, p.status, p.api) for p in known
    ]
    assert [c["full_id"] for p in told for c in p["components"]] == [e.full_id for p in known for e in p.components]


def test_plugins_table_has_one_line_per_plugin():
    lines = run("plugins").splitlines()
    assert [line.split()[0] for line in lines[1:]] == [p.dist for p in dc.Registry.load().plugins]


@pytest.mark.parametrize("kind", [None, *CORE])
def test_list_json_is_the_registry(kind: str | None):
    told = json.loads(run("list", *([kind] if kind else []), "--json"))
    assert [(e["kind"], e["full_id"], e["target"]) for e in told] == [
        (e.kind, e.full_id, e.target) for e in dc.Registry.load().list(kind)
    ]


@pytest.mark.parametrize(("kind", "plural"), [(kind.name, kind.plural) for kind in CORE.values()])
def test_singular_plural_and_hyphens_are_the_same(kind: str, plural: str):
    words = (kind, plural, kind.replace("_", "-"), plural.replace("_", "-").upper())
    assert {kind_of(dc.Registry(), word) for word in words} == {kind}


def test_an_unusable_plugin_costs_one_line_with_its_cause(installed: None):
    shown = CliRunner().invoke(main, ["plugins"])
    assert shown.exit_code == 0
    for dist, status, cause in [
        ("fake-broken", "broken", "RuntimeError: out of luck"),
        ("fake-exits", "broken", "SystemExit: 3"),
        ("fake-old", "incompatible", "written for api 99, this diffcore has api 1"),
        ("fake-silent", "incompatible", "states no API_VERSION"),
        ("fake-misspelt", "broken", "did you mean 'diffcore_solvers'?"),
    ]:
        (line,) = [line for line in shown.stdout.splitlines() if line.startswith(dist)]
        assert f" {status} " in line
        assert cause in line
        (advice,) = [line for line in shown.stderr.splitlines() if line.startswith(dist)]
        assert f"pip uninstall {dist}" in advice
    assert "Traceback" not in shown.output


def test_its_traceback_is_shown_with_v(installed: None):
    assert "raise RuntimeError('out of luck')" in run("plugins", "-v")
    (told,) = [p for p in json.loads(run("plugins", "--json", "-v")) if p["name"] == "broken"]
    assert told["traceback"].startswith("Traceback")


def test_a_disabled_plugin_is_listed_as_such(installed: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DIFFCORE_DISABLE_PLUGINS", "broken,fake-old")
    told = {p["name"]: p["status"] for p in json.loads(run("plugins", "--json"))}
    assert (told["broken"], told["old"], told["good"]) == ("disabled", "disabled", "ok")


def test_a_name_that_disables_nothing_is_told(installed: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DIFFCORE_DISABLE_PLUGINS", "goood")
    for arguments in (["plugins"], ["plugins", "--json"]):
        shown = CliRunner().invoke(main, arguments)
        assert "DIFFCORE_DISABLE_PLUGINS: no plugin or distribution 'goood'; did you mean 'good'?" in shown.stderr


def test_an_id_of_two_distributions_is_listed_in_full(installed: None):
    lines = run("list", "solver").splitlines()
    assert {line.split()[1] for line in lines if "flow-map" in line} == {"diffcore/flow-map", "fake-good/flow-map"}


def test_an_id_of_two_distributions_must_be_written_in_full(installed: None):
    shown = CliRunner().invoke(main, ["show", "flow-map"])
    assert shown.exit_code == 2
    assert "diffcore/flow-map" in shown.stderr
    assert "fake-good/flow-map" in shown.stderr
    assert json.loads(run("show", "diffcore/flow-map", "--json"))["distribution"] == "diffcore"


def test_a_component_whose_module_is_missing_says_so(installed: None):
    shown = CliRunner().invoke(main, ["show", "lost"])
    assert shown.exit_code == 2
    assert "fake-good 2.1" in shown.stderr
    assert "No module named 'diffcore.no_such_module'" in shown.stderr


def test_what_is_not_installed_is_listed_with_what_brings_it(monkeypatch: pytest.MonkeyPatch):
    assert run("list", "--available") == "all components of diffcore's own distributions are installed\n"
    monkeypatch.setenv("DIFFCORE_DISABLE_PLUGINS", "nets")
    told = json.loads(run("list", "networks", "--available", "--json"))
    assert [(row["kind"], row["id"], row["distribution"]) for row in told] == [
        ("network", id, "diffcore-nets") for id in ("dit", "mlp", "unet")
    ]
    assert run("list", "networks", "--available").splitlines()[1].endswith("which is disabled: disabled by name")
    shown = CliRunner().invoke(main, ["show", "mlp"])
    assert "it is in diffcore-nets, which is disabled" in shown.stderr


def test_a_word_is_answered_by_what_it_may_mean_and_printed_as_it_cannot_act():
    assert "did you mean 'dpmpp-2m'" in CliRunner().invoke(main, ["show", "dpm++"]).stderr
    assert "did you mean 'frechet'?" in CliRunner().invoke(main, ["show", "fid"]).stderr
    (line,) = CliRunner().invoke(main, ["show", "x\n\x1b[31m\u202e"]).stderr.splitlines()
    assert line == r"Error: no component 'x\n\x1b[31m\u202e' is installed; see: diffcore list"


def test_a_plugin_that_changes_what_is_global_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "plugin_loud.py").write_text("import os\nos.umask(0)\n" + GOOD)
    info = tmp_path / "fake_loud-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-loud\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text("[diffcore]\nloud = plugin_loud\n")
    monkeypatch.syspath_prepend(tmp_path)
    shown = CliRunner().invoke(main, ["plugins"])
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("fake-loud")]
    assert "2: flow-map, lost (changed when imported, and put back: umask" in line
    (told,) = [p for p in json.loads(run("plugins", "--json")) if p["name"] == "loud"]
    assert (told["status"], told["note"]) == ("ok", "")  # it is imported once


def test_names_in_other_tools_are_listed_and_tell_what_they_are_here():
    shown = run("list", "solvers", "--alias")
    (line,) = (line for line in shown.splitlines() if "DPM++ 2M Karras" in line)
    assert line.split()[0] == "A1111"
    assert line.endswith("{type: dpmpp-2m, grid: {type: karras}}")
    told = json.loads(run("list", "solvers", "--alias", "--json"))
    assert all(entry["aliases"] for entry in told)
    known = {alias["name"] for entry in told for alias in entry["aliases"]}
    assert known == {alias.name for entry in dc.Registry.load().list("solver") for alias in entry.aliases}
    assert "no names in other tools" in run("list", "trainers", "--alias")


def test_a_name_of_another_tool_in_a_spec_is_answered_with_ours():
    with pytest.raises(dc.UnknownComponentError, match=r"ComfyUI calls \{type: dpmpp-2m\} so"):
        dc.Registry.load().find("solver", "DPMPP_2M")

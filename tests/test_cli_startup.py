"""Help, listings, scaffolding and misspelt names must not pay for torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffcore.run.sections import UNSEEN

SPEC = "diffcore: 1\nsolver:\n  type: flow-mpa\n"
PROBE = """
import sys
from diffcore.cli import main
try:
    main(sys.argv[1:], prog_name="diffcore")
except SystemExit as end:
    code = end.code
heavy = sorted({"torch", "numpy", "matplotlib", "sklearn"} & {name.partition(".")[0] for name in sys.modules})
print(f"\\nexit {code}, loaded {heavy}", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["run", "--help"], 0),
        (["plugins"], 0),
        (["plugins", "--json"], 0),
        (["list"], 0),
        (["list", "solvers", "--json"], 0),
        (["new", "plugin", "brand-new", "--kind", "solver"], 0),
        (["plugns"], 2),
        (["list", "solvrs"], 2),
        (["show", "flow-mpa"], 2),
        (["conform", "flow-mpa"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_nothing_heavy_is_imported(arguments: list[str], code: int, tmp_path: Path):
    shown = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert shown.stderr.splitlines()[-1] == f"exit {code}, loaded []"


@pytest.mark.parametrize("command", ["check", "explain", "run", "train"])
def test_a_misspelt_component_of_a_spec_is_found_without_torch(command: str, tmp_path: Path):
    (tmp_path / "spec.yaml").write_text(SPEC)
    shown = subprocess.run(
        [sys.executable, "-c", PROBE, command, "spec.yaml"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "did you mean 'flow-map'?" in shown.stderr
    assert "exit 2" in shown.stderr.splitlines()[-1]
    assert "torch" not in shown.stderr.splitlines()[-1]


UNKNOWN = """\
diffcore: 1
data: {type: two-moons}
process: {type: flow}
network: {type: mlp, widht: 64}
loss: {type: denoising}
solver: {type: heun, grid: {type: karras, roh: 2}}
"""


def checked(text: str, folder: Path, *arguments: str) -> tuple[list[str], list[str], str]:
    """The faults, notes and last line of `diffcore check --json` (or of another command) of a spec, in a process of its own."""
    (folder / "spec.yaml").write_text(text)
    command = [sys.executable, "-c", PROBE, *(arguments or ("check", "--json")), "spec.yaml"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    told = json.loads(shown.stdout) if not arguments else {"faults": [], "notes": shown.stderr.splitlines()[:-1]}
    return [fault["path"] for fault in told["faults"]], told["notes"], shown.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["check", "explain", "run", "train"])
def test_an_unknown_field_of_a_spec_is_found_without_torch(command: str, tmp_path: Path):
    _, said, end = checked(UNKNOWN, tmp_path, command)
    assert end == "exit 2, loaded []"
    assert said[0].startswith("spec.yaml:4:22: network.widht: unknown field of network 'mlp'; did you mean 'width'?")
    assert said[-3:] == ["2 faults", UNSEEN, ""]


def test_what_was_not_looked_at_is_said_as_json_too(tmp_path: Path):
    assert checked(UNKNOWN, tmp_path) == (["network.widht", "solver.grid.roh"], [UNSEEN], "exit 2, loaded []")


def test_where_more_is_seen_to_be_wrong_everything_comes_at_once(tmp_path: Path):
    text = UNKNOWN.replace("grid:", "steps: 0, grid:") + "prediction: eps\n"
    found, notes, end = checked(text, tmp_path)
    assert (found, notes) == (["network.widht", "solver.steps", "solver.grid.roh", "prediction"], [])
    assert "torch" in end


def test_python_dash_m_is_the_same_program():
    shown = subprocess.run([sys.executable, "-m", "diffcore", "list", "trainers"], capture_output=True, text=True, check=True)
    assert "standard" in shown.stdout

"""Help, listings, scaffolding and misspelt names must not pay for torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


def test_python_dash_m_is_the_same_program():
    shown = subprocess.run([sys.executable, "-m", "diffcore", "list", "trainers"], capture_output=True, text=True, check=True)
    assert "standard" in shown.stdout

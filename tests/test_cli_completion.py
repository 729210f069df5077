"""What TAB completes, as the shells ask for it, and without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from diffcore.cli import main


def complete(*words: str, shell: str = "bash") -> list[str]:
    """The completions of the last word."""
    asked = {
        "COMP_WORDS": " ".join(["diffcore", *words]),
        "COMP_CWORD": str(len(words)),
        "_DIFFCORE_COMPLETE": f"{shell}_complete",
    }
    shown = CliRunner().invoke(main, env=asked, prog_name="diffcore", standalone_mode=True)
    return [line.partition(",")[2] for line in shown.output.splitlines() if line]


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, file in (("moons", "spec.yaml"), ("digits", "weights.safetensors"), ("other", "note.txt")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / file).write_text("")
    for name in ("a.yaml", "b.yml", "c.txt"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["sa"], ["sample"]),
        (["show", "flow-map"], ["flow-map"]),
        (["show", "diffcore/"], ["diffcore/by-part", "diffcore/flow-map", "diffcore/standard", "diffcore/white"]),
        (["list", "gr"], ["grid"]),
        (["sample", "runs/"], ["runs/digits", "runs/moons"]),
        (["evaluate", "r"], ["runs/digits", "runs/moons"]),
        (["sample", "runs/m"], ["runs/moons"]),
        (["check", "a"], ["a.yaml"]),
        (["check", "a.yaml", "--set", "sol"], ["solver.type="]),
        (["check", "a.yaml", "--set", "metr"], ["metrics.0.type="]),
        (["check", "a.yaml", "--set", "trainer.type", "=", ""], ["standard"]),
        (["check", "a.yaml", "--set", "trainer.type", "=", "sta"], ["standard"]),
        (["check", "a.yaml", "--set", "evaluation.solvers.0.type", "=", "flow-m"], ["flow-map"]),
        (["check", "a.yaml", "--set", "name", "=", "x"], []),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value, list) else None,
)
def test_tab(words: list[str], found: list[str]):
    assert complete(*words) == found


def test_the_solvers_of_bench_are_completed_one_by_one():
    both = complete("bench", "runs/moons", "--solvers", "flow-map,flow-ma")
    assert both == ["flow-map,flow-map"]


def test_completion_imports_no_torch_and_no_component():
    code = (
        "import sys\nfrom diffcore.cli import main\n"
        "try:\n    main(prog_name='diffcore')\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    for words in ("diffcore show flo", "diffcore sample r", "diffcore check a.yaml --set solver.type = h"):
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_DIFFCORE_COMPLETE": "bash_complete"}
        shown = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **asked}
        )
        assert shown.stdout.splitlines()[-1] == "[]"
        assert len(shown.stdout.splitlines()) > 1

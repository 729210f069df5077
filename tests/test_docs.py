"""The documentation runs (see run_page.py), links lead somewhere, and what `make` would run is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GENERATED = ("docs/spec.md", "docs/checks.md")
PAGES = sorted({"README.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))} - {*GENERATED})
TARGETS = ("demo", "test", "setup", "lint", "types", "docs", "bench", "mutate", "check", "clean")


def run(*command: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)  # pyright: ignore


def run_page(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    runner = str(Path(__file__).with_name("run_page.py"))
    return run(sys.executable, runner, str(page), str(folder), *options, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, tmp_path: Path):
    done = run_page(ROOT / page, tmp_path)
    assert done.returncode == 0, f"{page}: {done.stderr}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```sh\ntrue\ndiffcore list solvr\n```\n", "exit 2"),
        ("```sh fails=2\ndiffcore list solvers\n```\n", "exit 0"),
        ("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", "AssertionError"),
        ("```python\nprint('a b')\n```\n\n```text\na ... c\n```\n", "but this was printed\na b"),
        ("```yaml file=spec.yaml\ndata: {type: two-moons}\n```\n\n```sh quick\ndiffcore run spec.yaml\n```\n", "missing"),
    ],
)
def test_an_untrue_page_is_noticed(text: str, says: str, tmp_path: Path):
    (tmp_path / "page.md").write_text(text)
    done = run_page(tmp_path / "page.md", tmp_path, "--cold")
    assert done.returncode == 1
    assert says in done.stderr


def test_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [page for page in (*PAGES, *GENERATED) if page != "README.md" and f"({page})" not in text] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", TARGETS)
def test_what_make_would_run_is_there(target: str):
    """Every program of the environment and every file of the repository that a target names."""
    done = run("make", "--dry-run", "--always-make", target, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    words = [word.strip("'\"") for word in done.stdout.split()]
    for program in {word.removeprefix(".venv/bin/") for word in words if word.startswith(".venv/bin/")}:
        assert Path(sys.executable).with_name(program).exists(), f"make {target} runs {program}"
    for file in {word for word in words if word.endswith((".py", ".yaml"))}:
        assert (ROOT / file).exists(), f"make {target} uses {file}"


def test_make_docs_runs():
    """Its commands work: with --check they say what is current, and change nothing."""
    done = run("make", "--dry-run", "docs", cwd=ROOT)
    scripts = re.findall(r"python (docs/\S+\.py)", done.stdout)
    assert scripts
    for script in scripts:
        said = run(sys.executable, script, "--check", cwd=ROOT)
        assert "current" in said.stdout, said.stderr

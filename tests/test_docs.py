"""The documentation runs: files are written, commands and Python executed in order, shown output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/idea.md", "docs/install-a-plugin.md", "docs/assemble-a-spec.md", "docs/write-a-solver.md"]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.M | re.S)


def run(command: list[str] | str, folder: Path) -> tuple[int, str]:
    path = os.pathsep.join([str(folder / ".bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder / ".site")}
    done = subprocess.run(command, cwd=folder, env=environment, shell=isinstance(command, str), capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def option(text: str, name: str) -> str:
    found = re.search(rf"\b{name}=(\S+)", text)
    return found[1] if found else ""


def matches(shown: str, output: str) -> bool:
    """Every shown line stands in the output, in order; `...` stands for anything within a line."""
    position = 0
    for line in shown.strip().splitlines():
        pattern = ".*".join(re.escape(part) for part in line.strip().split("..."))
        found = re.compile(pattern).search(output, position)
        if not found:
            return False
        position = found.end()
    return True


def pip_for(folder: Path) -> None:
    """`pip install -e DIST` for the pages, into a folder of the test instead of the environment that runs it."""
    script = folder / ".bin" / "pip"
    script.parent.mkdir()
    uv = Path(sys.executable).with_name("uv")
    script.write_text(f'#!/bin/sh\nexec "{uv}" pip install --quiet --offline --no-deps --target "{folder}/.site" "./$3"\n')
    script.chmod(0o755)


@pytest.mark.parametrize("page", PAGES)
def test_page(page, tmp_path):
    pip_for(tmp_path)
    text = (ROOT / page).read_text()
    output, python = "", ""
    for kind, options, body in BLOCK.findall(text):
        if kind in ("yaml", "toml", "python") and option(options, "file"):
            target = tmp_path / option(options, "file")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(body)
        elif kind == "sh":
            code, output = run(f"set -e\n{body}", tmp_path)
            assert code == int(option(options, "fails") or 0), f"{page}: {body}\nexit {code}\n{output}"
        elif kind == "text":
            assert matches(body, output), f"{page} shows\n{body}\nbut the command printed\n{output}"
        elif kind == "python":
            python += body
            code, output = run([sys.executable, "-c", python], tmp_path)
            assert code == 0, f"{page}: {body}\n{output}"


def test_every_page_is_run():
    written = {str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md")}
    assert written <= set(PAGES)


def test_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"

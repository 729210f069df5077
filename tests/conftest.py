"""What several test files use: distributions of somebody else, in a folder of packages with the metadata of installed ones."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffcore.specs.statements import statement_of


class Site:
    """A folder with fake installed distributions."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def install(self, dist: str, hooks: str, **files: str) -> None:
        folder, info = self.root / dist.replace("-", "_"), self.root / f"{dist.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        info.mkdir()
        for name, text in {"__init__": hooks, **files}.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[diffcore]\n{dist} = {dist.replace('-', '_')}\n")

    def python(self, *arguments: str, code: int = 0, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        path = {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}
        command, env = [sys.executable, *arguments], {**os.environ, **path}
        shown = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, check=False)
        assert shown.returncode == code, shown.stdout + shown.stderr
        return shown


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield Site(tmp_path / "site")
    for name in [name for name in sys.modules if name.startswith("fake_")]:
        del sys.modules[name]
    statement_of.cache_clear()

"""What a user of the wheels gets: types, licences, what an index shows, and one command that installs everything."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from diffcore.hookspecs import VERSION
from diffcore.registry import Registry
from diffcore.suggesting import homes

ROOT = Path(__file__).parents[1]
FOLDERS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
UV = Path(sys.executable).with_name("uv")


def project(folder: Path) -> dict[str, object]:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def package(folder: Path) -> Path:
    return folder / str(project(folder)["name"]).replace("-", "_")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_distribution_says_what_it_is(folder: Path):
    told = project(folder)
    assert (package(folder) / "py.typed").read_text() == ""
    assert told["license"] == "Apache-2.0"
    assert told["license-files"] == ["LICENSE"]
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.11"} <= set(told["classifiers"])  # pyright: ignore
    assert told["authors"]
    assert len(told["keywords"]) >= 3  # pyright: ignore
    assert told["requires-python"] == ">=3.11"
    assert re.findall(r"\]\((?!https?://)[^)]*\)", (folder / str(told["readme"])).read_text()) == []


def test_one_command_installs_every_distribution():
    told = project(ROOT)
    every = {str(project(folder)["name"]) for folder in FOLDERS[1:]}
    asked = told["optional-dependencies"]["all"]  # pyright: ignore
    assert {re.split("[>=]", entry)[0] for entry in asked} == every | {"diffcore[report,testing]"}
    assert told["version"] == VERSION


def test_the_rules_about_imports_name_every_plugin():
    """The linter itself sees to the modules of the core: all are forbidden to plugins, and each is in a layer."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    plugins = [package(folder).name for folder in FOLDERS[1:]]
    assert rules["root_packages"] == ["diffcore", *plugins]
    core, apart, public, layers = rules["contracts"]
    assert core["forbidden_modules"] == apart["modules"] == public["source_modules"] == plugins
    assert (public["forbidden_modules"], layers["containers"], layers["exhaustive"]) == (["diffcore.*"], ["diffcore"], True)


def test_the_index_is_what_is_installed():
    entries = [e for e in Registry.load().list() if e.dist in {str(project(folder)["name"]) for folder in FOLDERS}]
    known = {(kind, id, dist) for kind, ids in homes().items() for id, dist in ids.items()}
    assert known == {(e.kind, e.id, e.dist) for e in entries}, "run: python docs/generate_index.py"


def build(folder: Path, out: Path) -> tuple[list[str], Message]:
    """Files and metadata of the wheel of a folder."""
    command = [str(UV), "build", "--wheel", "--offline", "--quiet", "--out-dir", str(out), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        return names, message_from_bytes(wheel.read(next(name for name in names if name.endswith("METADATA"))))


@pytest.mark.skipif(not UV.exists(), reason="needs uv")
@pytest.mark.parametrize("folder", [ROOT, ROOT / "plugins" / "nets"], ids=["core", "plugin"])
def test_a_wheel_carries_it(folder: Path, tmp_path: Path):
    names, metadata = build(folder, tmp_path)
    assert f"{package(folder).name}/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any("tests/" in name for name in names)
    assert metadata.get_all("Classifier")
    assert metadata["Author"]
    assert metadata["License-File"] == "LICENSE"
    requires = metadata.get_all("Requires-Dist") or []
    if folder == ROOT:
        assert {"diffcore/first_party.json", "diffcore/template/pyproject.toml.in"} <= set(names)
        assert {"numpy>=1.26", "packaging>=23.0"} <= set(requires)
    else:
        assert "diffcore>=0.1" in requires

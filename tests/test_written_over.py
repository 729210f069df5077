"""What diffcore has not made is not written over: every name that a command writes, taken by somebody else's file or folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import diffcore as dc
from diffcore.cli import main
from diffcore.run import marks

SPEC = {
    "diffcore": 1,
    "name": "small",
    "data": {"type": "two-moons"},
    "process": {"type": "flow"},
    "network": {"type": "mlp", "width": 8, "depth": 1},
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 2, "batch": 8},
    "solver": {"type": "euler", "steps": 2},
    "sampling": {"n": 4},
    "metrics": [{"type": "sliced-wasserstein"}],
    "evaluation": {"n": 8},
}
MINE = "three hours of work\n"


def call(*arguments: object) -> tuple[int, str]:
    shown = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    return shown.exit_code, shown.output


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "small.yaml"
    path.write_text(json.dumps(SPEC))
    return path


@pytest.fixture(scope="module")
def made(spec: Path) -> Path:
    folder = spec.parent / "run"
    assert call("run", spec, "--out", folder)[0] == 0
    return folder


def refused(folder: Path, name: str, *command: object) -> None:
    """A command exits with 2, in one line that names the file and another --out, and changes nothing."""
    before = tree(folder)
    code, said = call(*command)
    assert (code, tree(folder)) == (2, before), said
    assert name in said
    assert "another --out" in said
    assert len(said.strip().splitlines()) == 1
    assert (folder / ".lock").exists() == (".lock" in before)


def test_the_names_that_a_run_writes_are_known(made: Path):
    written = {path.name for path in made.iterdir()} - {".lock"}
    assert written == {*marks.FILES, *marks.FOLDERS}


@pytest.mark.parametrize("command", ["train", "run"])
@pytest.mark.parametrize("name", [*marks.FILES, "checkpoints/step-00000001.safetensors", "samples/cat.png", ".lock"])
def test_a_run_leaves_a_folder_alone_that_holds_a_file_of_somebody_else(command: str, name: str, spec: Path, tmp_path: Path):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text(MINE)
    refused(tmp_path / "out", name.partition("/")[0], command, spec, "--out", tmp_path / "out")


def test_the_spec_in_the_folder_of_the_run_stays(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(f"# my notes\n{spec.read_text()}")
    refused(tmp_path, "spec.yaml", "train", "spec.yaml", "--out", ".")


@pytest.mark.parametrize("name", [*marks.FILES, *marks.FOLDERS])
@pytest.mark.parametrize("begun", [False, True])
def test_a_folder_in_the_place_of_a_file_is_said_before_training(name: str, begun: bool, spec: Path, made: Path, tmp_path: Path):
    folder = tmp_path / "out"
    shutil.copytree(made, folder) if begun else folder.mkdir()
    path = folder / name
    if name in marks.FILES:
        path.unlink(missing_ok=True)
        path.mkdir()
    else:
        shutil.rmtree(path, ignore_errors=True)
        path.write_text(MINE)
    refused(folder, name, "train", spec, "--out", folder)


def test_a_check_says_that_the_place_of_the_run_is_taken(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/small").mkdir(parents=True)
    Path("runs/small/report.html").write_text(MINE)
    code, said = call("check", spec)
    assert code == 0
    assert "note: name: runs/small/report.html is not known to be made by diffcore" in said


def test_other_files_beside_a_run_harm_nobody(spec: Path, tmp_path: Path):
    (tmp_path / "notes.txt").write_text(MINE)
    (tmp_path / "samples").mkdir()
    assert call("train", spec, "--out", tmp_path)[0] == 0
    assert (tmp_path / "notes.txt").read_text() == MINE
    assert call("train", spec, "--out", tmp_path)[0] == 0


def test_a_run_in_python_leaves_them_alone_as_well(tmp_path: Path):
    (tmp_path / "weights.safetensors").write_text(MINE)
    pipeline = dc.assemble(SPEC)
    for write in (pipeline.train, pipeline.save):
        with pytest.raises(dc.CheckpointError, match=r"weights\.safetensors is not known to be made by diffcore"):
            write(tmp_path)
    assert (tmp_path / "weights.safetensors").read_text() == MINE


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("sample", f"mine{ending}") for ending in (".safetensors", ".npz", ".png", ".txt", ".csv")),
        ("compare", "mine.html"),
        ("trajectory", "mine.png"),
        ("trajectory", "mine.gif"),
    ],
)
def test_a_file_of_somebody_else_is_not_written_over(command: str, name: str, made: Path, tmp_path: Path):
    (tmp_path / name).write_text(MINE)
    refused(tmp_path, name, command, made, "--out", tmp_path / name)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("bench", "bench.json"),
        ("bench", "bench.png"),
        *(("trajectory", name) for name in ("steps.json", "steps.png", "paths.png", "trajectory.png")),
    ],
)
def test_tables_and_pictures_of_somebody_else_are_not_written_over(command: str, name: str, made: Path, tmp_path: Path):
    (tmp_path / name).write_text(MINE)
    refused(tmp_path, name, command, made, "--out", tmp_path)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("sample", "x.safetensors"),
        ("sample", "x.npz"),
        ("sample", "x.png"),
        ("compare", "x.html"),
        ("trajectory", "x.png"),
        ("trajectory", "x.gif"),
        ("trajectory", "folder"),
        ("bench --nfe 2 --solvers euler", "folder"),
    ],
)
def test_what_diffcore_has_made_it_may_make_again(command: str, name: str, made: Path, tmp_path: Path):
    for _ in range(2):
        code, said = call(*command.split(), made, "--out", tmp_path / name)
        assert code == 0, said


def test_samples_saved_in_python_are_kept_too(made: Path, tmp_path: Path):
    samples = dc.Pipeline.load(made).sample(2)
    samples.save(tmp_path / "mine.npz")
    samples.save(tmp_path / "mine.npz")
    (tmp_path / "mine.npz").write_text(MINE)
    with pytest.raises(dc.SpecError, match=r"mine\.npz exists and is not known to be made by diffcore"):
        samples.save(tmp_path / "mine.npz")

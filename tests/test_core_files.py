"""The border to files of the user: paths, memory, numpy's records, safetensors, ranges, and notes on the command line."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from PIL import Image

import diffcore as dc
from diffcore.cli import main
from diffcore.learning import files


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("https://example.org/x.npz", "is an address, and nothing is fetched"),
        ("s3://bucket/x.npz", "is an address"),
        ("https:/example.org/x.npz", "is an address"),
        ("absent.npz", r"absent.npz: no such file \(a relative path starts at the working folder, /"),
        ("file/absent.npz", "no such file"),
        ("/absent/a.npz", "/absent/a.npz: no such file$"),
        ("a\0.npz", "is no path"),
        ("", "is no path"),
        ("x" * 5000, "File name too long"),
        ("/dev/null", "is not a regular file"),
        ("pipe", "is not a regular file"),
        (".", "is not a regular file"),
        ("two\nlines", r"two\\nlines: no such file"),
        ("~nobody-of-this-name/x", "no such file|Could not determine home"),
    ],
)
def test_what_is_no_file_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("file").write_text("")
    with pytest.raises(dc.DataError, match=says) as refusal:
        dc.user_file(text)
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 400


def test_paths_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "A.NPZ").write_text("")
    assert dc.user_file("~/A.NPZ", (".npz",)) == tmp_path / "A.NPZ"
    assert dc.user_folder("~") == tmp_path
    with pytest.raises(dc.DataError, match=r"A.NPZ: expected a file called \*.txt or \*.md"):
        dc.user_file("~/A.NPZ", (".txt", ".md"))
    with pytest.raises(dc.DataError, match="is not a folder"):
        dc.user_folder("~/A.NPZ")


def test_memory_is_asked_before_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dc.require_memory(1000, "little")
    with pytest.raises(dc.DataError, match=r"a lot needs 1e\+03 EB of memory, and this machine has .* to give"):
        dc.require_memory(10**21, "a lot")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:     7 kB\n")
    (tmp_path / "memory.max").write_text("6000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    monkeypatch.setattr(files, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(files, "GROUP", tmp_path / "no container")
    assert files.free_memory() == 7168
    monkeypatch.setattr(files, "GROUP", tmp_path)
    assert files.free_memory() == 5000
    dc.require_memory(5000, "all")
    with pytest.raises(dc.DataError, match="one more"):
        dc.require_memory(5001, "one more")
    (tmp_path / "memory.current").write_text("7000\n")
    assert files.free_memory() == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert files.free_memory() == 7168


@pytest.mark.parametrize(("size", "shown"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (40 * 10**9, "40 GB")])
def test_amounts(size: int, shown: str):
    assert files.amount(size) == shown


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.zeros((0, 3)), np.float32(3), np.array(True), np.arange(3, dtype=">i4"), np.eye(400)],
)
def test_records_of_numpy_are_read_one_after_another(array: Any):
    buffer = io.BytesIO()
    for each in (array, np.asfortranarray(array)):
        np.save(buffer, each)
    size = buffer.tell()
    buffer.seek(0)
    for _ in range(2):
        np.testing.assert_array_equal(dc.read_npy(buffer, size - buffer.tell(), "a"), array)
    with pytest.raises(dc.DataError, match="a is damaged"):
        dc.read_npy(buffer, 0, "a")


def test_safetensors_by_name(tmp_path: Path):
    safetensors.torch.save_file({"x": torch.arange(3), "y": torch.zeros(2)}, tmp_path / "a", {"said": "so"})
    assert sorted(dc.tensor_names(tmp_path / "a")) == ["x", "y"]
    tensors, metadata = dc.read_tensors(tmp_path / "a", ["x", "z"])
    assert (list(tensors), tensors["x"].tolist(), metadata) == (["x"], [0, 1, 2], {"said": "so"})
    (tmp_path / "a").write_bytes((10**18).to_bytes(8, "little") + b"{")
    with pytest.raises(dc.DataError, match="a cannot be read as safetensors"):
        dc.read_tensors(tmp_path / "a")


class FailingError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError("deep\nand more"), FailingError(), KeyError("k"), ZeroDivisionError()]
)
def test_any_exception_of_a_reader_is_one_line(error: Exception):
    def fail() -> None:
        with dc.reading(Path("a"), "b"):
            raise error

    with pytest.raises(dc.DataError, match=rf"^a cannot be read as b \({type(error).__name__}.*\); replace it"):
        fail()


@pytest.mark.parametrize(
    ("lo", "hi", "says"),
    [
        (0, math.inf, "must be a finite number"),
        (-math.inf, 0, "must be a finite number"),
        (math.nan, 1, "must be a finite number"),
        (0, 1e300, "must be <= 1e"),
        (1, 1, "lo < hi"),
        (2, 1, "lo < hi"),
        (0, 1e-40, "hardly a value in float32"),
        (1e9, 1e9 + 1, "hardly a value in float32"),
    ],
)
def test_ranges_in_which_float32_tells_values_apart(lo: float, hi: float, says: str):
    with pytest.raises(dc.SpecError, match=says):
        dc.Range(lo=lo, hi=hi)


@pytest.mark.filterwarnings("default::diffcore.DataWarning")
def test_a_note_is_one_line_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("set").mkdir()
    for name in "ab":
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(f"set/{name}.png")
    Path("set/words.txt").write_text("not a picture")
    spec = {
        "name": "a",
        "data": "{type: image-folder, path: set, range: {lo: 0, hi: 1.0e+6}}",
        "process": "{type: flow}",
        "network": "{type: mlp}",
        "prediction": "velocity",
        "loss": "{type: denoising}",
        "trainer": "{type: standard, steps: 1}",
        "solver": "{type: euler, steps: 2}",
    }
    Path("a.yaml").write_text("diffcore: 1\n" + "".join(f"{key}: {value}\n" for key, value in spec.items()))
    done = CliRunner().invoke(main, ["check", "a.yaml"])
    assert done.exit_code == 0, done.output
    assert done.stdout == "a.yaml is sound\n"
    lines = done.stderr.splitlines()
    assert all(line.startswith("note: ") for line in lines)
    assert [line.partition(", ")[0] for line in lines] == [
        "note: set: 2 pictures are read; left out: 1 file that is no picture (1 .txt)",
        "note: data: as the network sees it",
    ]

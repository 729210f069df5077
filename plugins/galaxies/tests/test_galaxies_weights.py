"""Where weights are found, how they are read, and what is said where they are missing or damaged."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from diffcore_galaxies.score_net import GalaxyScore
from diffcore_galaxies.weights import MODELS, VARIABLE, find, load, read

import diffcore as dc

COMMAND = "pip install --no-deps galaxygrad==0.2.1"


def test_the_reader_gives_back_what_was_written(tmp_path, arrays, write):
    path = write(tmp_path / "a.eqx", arrays)
    found = read(path.read_bytes(), "a.eqx")
    assert len(found) == 55
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(found, arrays, strict=True))


@pytest.mark.parametrize("keep", [3, 100, 5000, -1])
def test_a_truncated_file_is_named_with_its_remedy(tmp_path, arrays, keep, write):
    content = write(tmp_path / "a.eqx", arrays).read_bytes()[:keep]
    with pytest.raises(dc.DataError, match=r"cut\.eqx is damaged \(array \d+ .*" + COMMAND):
        read(content, "cut.eqx")


def test_nothing_is_unpickled():
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(dc.DataError, match=r"damaged \(array 0 "):
        read(file.getvalue(), "a.eqx")


@pytest.mark.parametrize("bad", [np.array([1.0, np.nan]), np.array([np.inf]), np.array([1, 2])])
def test_values_must_be_finite_floats(tmp_path, bad, write):
    with pytest.raises(dc.DataError, match="no finite numbers"):
        read(write(tmp_path / "a.eqx", [bad]).read_bytes(), "a.eqx")


def build(path):
    return GalaxyScore(weights=str(path)).build((1, 32, 32), {})


def test_arrays_of_another_network_are_refused(tmp_path, arrays, write):
    with pytest.raises(dc.DataError, match="54 arrays, not 54 and t1 = 10"):
        build(write(tmp_path / "a.eqx", arrays[:-1]))
    with pytest.raises(dc.DataError, match="another network"):
        build(write(tmp_path / "b.eqx", [*arrays[:-1], np.array(1.0)]))
    wide = [*arrays[:4], np.zeros((512, 256), np.float32), *arrays[5:]]
    with pytest.raises(dc.DataError, match=r"blocks\.0\.patch_mixer\.0\.weight is \(512, 256\), this network has \(512, 64\)"):
        build(write(tmp_path / "c.eqx", wide))


def test_a_named_path_comes_before_the_variable_and_that_before_the_package(tmp_path, seeded, monkeypatch):
    file = MODELS["hsc32"].file
    other = tmp_path / "other"
    other.mkdir()
    (other / file).write_bytes(b"")
    monkeypatch.setenv(VARIABLE, str(other))
    assert find("hsc32", str(seeded)) == seeded / file == find("hsc32", str(seeded / file))
    assert find("hsc32") == other / file
    with pytest.raises(dc.DataError, match=f"eqx_ZTF_ScoreNet32.*environment variable {VARIABLE}.*{COMMAND}"):
        find("ztf32")
    with pytest.raises(dc.DataError, match="field 'weights'"):
        find("hsc32", str(tmp_path / "nowhere"))


def test_without_the_package_one_line_says_what_to_run(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "galaxygrad", raising=False)
    with pytest.raises(dc.DataError, match=f"which is not installed: fetch them with `{COMMAND}`$"):
        GalaxyScore().build((1, 32, 32), {})


def test_the_package_is_found_but_not_imported_and_its_hash_is_checked(tmp_path, arrays, monkeypatch, write):
    package = tmp_path / "galaxygrad"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('was imported')")
    write(package / MODELS["hsc32"].file, arrays)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "galaxygrad", raising=False)
    assert find("hsc32") == package / MODELS["hsc32"].file
    with pytest.raises(dc.DataError, match=f"other SHA-256.*{COMMAND}"):
        load("hsc32")
    with pytest.raises(dc.DataError, match=r"holds no eqx_ZTF_ScoreNet32\.eqx .other versions"):
        find("ztf32")

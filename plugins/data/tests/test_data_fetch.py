"""The fetcher, on small archives made here: what it accepts, what it refuses, and that nothing half-written stays."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import attrs
import numpy as np
import pytest
from diffcore_data import __main__ as cli
from diffcore_data import cache, catalogue, decode
from diffcore_data.archives import read_members
from diffcore_data.catalogue import Package
from diffcore_data.fetch import fetch
from PIL import Image

import diffcore as dc

TRAIN, TEST, SHAPE = 7, 3, (1, 4, 5)
NAMES = {
    "train_x": "train-images-idx3-ubyte",
    "train_label": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_label": "t10k-labels-idx1-ubyte",
}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def to_idx(values: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes((0, 0, 8, values.ndim)) + sizes + values.astype(np.uint8).tobytes()


def tar_of(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def ar_of(members: dict[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"train": TRAIN, "test": TEST}
    x = {f"{split}_x": rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8) for split, n in sizes.items()}
    return x | {f"{split}_label": rng.integers(0, 10, n) for split, n in sizes.items()}


@pytest.fixture
def contents(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: to_idx(arrays[key][:, 0] if key.endswith("x") else arrays[key]) for key, name in NAMES.items()}


@pytest.fixture
def tarball(contents: dict[str, bytes], tmp_path: Path) -> Path:
    file = tmp_path / "toy-1.0.0.tgz"
    file.write_bytes(tar_of({f"package/data/{name}": data for name, data in contents.items()}))
    return file


@pytest.fixture
def package(contents: dict[str, bytes], tarball: Path) -> Package:
    return Package(
        name="toy",
        command=("npm", "pack", "toy"),
        archive_sha256=sha(tarball.read_bytes()),
        files={f"package/data/{name}": sha(data) for name, data in contents.items()},
        decode=decode.mnist,
        shape=SHAPE,
        sizes=(TRAIN, TEST),
        licence="none",
        source="made here",
    )


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(folder: Path) -> list[str]:
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]


def test_tarball_is_decoded_and_cached(package: Package, tarball: Path, arrays: dict[str, np.ndarray], cache_folder: Path):
    fetch(package, tarball)
    assert written(cache_folder) == ["data/toy.npz"]
    for split in ("train", "test"):
        x, label = cache.load("toy", split)
        np.testing.assert_array_equal(x, arrays[f"{split}_x"])
        np.testing.assert_array_equal(label, arrays[f"{split}_label"])


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w"])
def test_debian_package_is_read_without_dpkg(package, contents, arrays, tmp_path: Path, mode: str):
    names = {f"usr/share/datasets/{name}.gz": data for name, data in contents.items()}
    data = tar_of({f"./{name}": gzip.compress(data) for name, data in names.items()}, mode)
    deb = tmp_path / "toy.deb"
    suffix = mode.partition(":")[2]
    deb.write_bytes(ar_of({"debian-binary": b"2.0\n", "control.tar": b"odd", f"data.tar.{suffix}": data}))
    fetch(attrs.evolve(package, archive_sha256=None, files={name: sha(data) for name, data in names.items()}), deb)
    np.testing.assert_array_equal(cache.load("toy", "train")[0], arrays["train_x"])


def test_cifar_pictures_hold_one_image_a_row(tmp_path: Path):
    rng = np.random.default_rng(1)
    names = ("data_batch_1.png", "data_batch_2.png", "test_batch.png")
    images = {name: rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8) for name in names}
    files = {}
    for name, x in images.items():
        buffer = io.BytesIO()
        Image.fromarray(x.transpose(0, 2, 3, 1).reshape(4, 1024, 3)).save(buffer, "PNG")
        files[f"package/{name}"] = buffer.getvalue()
    labels = {"train_lables.json": list(range(8)), "test_lables.json": [3, 1, 2, 0]}
    found = decode.cifar(files | {f"package/{name}": json.dumps(v).encode() for name, v in labels.items()})
    np.testing.assert_array_equal(found["train_x"], np.concatenate([images["data_batch_1.png"], images["data_batch_2.png"]]))
    np.testing.assert_array_equal(found["test_x"], images["test_batch.png"])
    assert found["train_label"].tolist() == list(range(8))
    assert found["test_label"].tolist() == [3, 1, 2, 0]


def test_wrong_archive_hash_is_refused(package: Package, tarball: Path, cache_folder: Path):
    tarball.write_bytes(tarball.read_bytes() + b"\0")
    with pytest.raises(dc.DataError, match=f"toy-1.0.0.tgz: SHA-256 is .*, expected {package.archive_sha256}"):
        fetch(package, tarball)
    assert written(cache_folder) == []


def test_wrong_file_hash_is_refused(package: Package, tarball: Path, cache_folder: Path):
    name = "package/data/train-labels-idx1-ubyte"
    with pytest.raises(dc.DataError, match=f"{name} in toy-1.0.0.tgz: SHA-256"):
        fetch(attrs.evolve(package, files={**package.files, name: "0" * 64}), tarball)
    assert written(cache_folder) == []


@pytest.mark.parametrize(
    ("kind", "share"), [("tgz", 0.0), ("tgz", 0.02), ("tgz", 0.5), ("tgz", 0.9), ("deb", 0.02), ("deb", 0.5), ("deb", 0.99)]
)
def test_truncated_archive_is_refused(package, tarball: Path, cache_folder: Path, tmp_path: Path, kind: str, share: float):
    whole = tarball.read_bytes()
    if kind == "deb":
        whole = ar_of({"debian-binary": b"2.0\n", "data.tar.gz": whole})
    file = tmp_path / f"cut.{kind}"
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(dc.DataError, match=f"cut.{kind} .*fetch it again"):
        fetch(attrs.evolve(package, archive_sha256=None), file)
    assert written(cache_folder) == []


def test_archive_without_the_file_is_refused(tarball: Path):
    with pytest.raises(dc.DataError, match=r"toy-1.0.0.tgz holds no file 'package/absent'"):
        read_members(tarball, ["package/absent"])


def test_other_counts_and_shapes_are_refused(package: Package, tarball: Path, cache_folder: Path):
    with pytest.raises(dc.DataError, match=r"toy test: images \(3, 1, 4, 5\) .* expected 4 images"):
        fetch(attrs.evolve(package, sizes=(TRAIN, TEST + 1)), tarball)
    with pytest.raises(dc.DataError, match=r"toy train: images \(7, 1, 4, 5\) .* expected 7 images \(1, 5, 4\)"):
        fetch(attrs.evolve(package, shape=(1, 5, 4)), tarball)
    assert written(cache_folder) == []


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\x08", b"\0\0\x0d\x01\0\0\0\1\0", b"\0\0\x08\x03\0\0\0\2", b"\0\0\x08\x01\0\0\0\3ab"]
)
def test_damaged_idx_is_refused(data: bytes):
    with pytest.raises(dc.DataError, match=r"numbers (is not an IDX file|holds)"):
        decode.idx(data, "numbers")


def test_interrupted_write_leaves_nothing_half_written(arrays, cache_folder: Path, monkeypatch: pytest.MonkeyPatch):
    def half(file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    cache.store("old", arrays)
    monkeypatch.setattr(cache.np, "savez", half)
    with pytest.raises(KeyboardInterrupt):
        cache.store("new", arrays)
    with pytest.raises(KeyboardInterrupt):
        cache.store("old", arrays)
    assert written(cache_folder) == ["data/old.npz"]
    np.testing.assert_array_equal(cache.load("old", "train")[0], arrays["train_x"])


def test_absent_set_says_what_to_run():
    with pytest.raises(dc.DataError, match=r"run `python -m diffcore_data fetch fashion-mnist` once") as error:
        cache.load("fashion-mnist", "train")
    assert "\n" not in str(error.value)


def test_damaged_cache_says_what_to_run(package: Package, tarball: Path):
    file = fetch(package, tarball)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(dc.DataError, match=r"toy.npz is damaged .*: run `python -m diffcore_data fetch toy` again"):
        cache.load("toy", "train")


def test_pickled_cache_is_not_loaded(cache_folder: Path):
    (cache_folder / "data").mkdir(parents=True)
    np.savez(cache.path("toy"), train_x=np.array([{}], object), train_label=np.zeros(1))
    with pytest.raises(dc.DataError, match="damaged"):
        cache.load("toy", "train")


def test_missing_client_says_how_to_go_on(package: Package):
    with pytest.raises(dc.DataError, match=r"comes through no-such-client, which is not installed: .*--from FILE"):
        fetch(attrs.evolve(package, command=("no-such-client", "pack")))


def test_failing_client_is_reported_with_its_last_line(package: Package):
    client = (sys.executable, "-c", "import sys; sys.exit('first\\nnot reachable')")
    with pytest.raises(dc.DataError, match=r"failed \(not reachable\)"):
        fetch(attrs.evolve(package, command=client))


def test_client_leaves_the_archive(package: Package, tarball: Path, arrays: dict[str, np.ndarray]):
    client = (sys.executable, "-c", f"import shutil; shutil.copy({str(tarball)!r}, '.')")
    fetch(attrs.evolve(package, command=client))
    np.testing.assert_array_equal(cache.load("toy", "test")[0], arrays["test_x"])


def test_command_line(package: Package, tarball: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    client = (sys.executable, "-c", "raise SystemExit('must not run')")
    monkeypatch.setitem(catalogue.PACKAGES, "toy", attrs.evolve(package, command=client))
    assert cli.main(["fetch", "toy"]) == 2
    assert cli.main(["fetch", "toy", "--from", str(tarball)]) == 0
    assert capsys.readouterr().out.startswith("toy: 7 + 3 images (1, 4, 5), train mean 0.")
    assert cli.main(["fetch", "toy"]) == 0, "a set that is there is not fetched again"
    assert cli.main(["fetch", "--list"]) == 0
    assert "toy            cached" in capsys.readouterr().out


def test_command_line_names_what_can_be_fetched(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["fetch", "emnist"]) == 2
    assert capsys.readouterr().err == "error: no set 'emnist' to fetch; these can be: fashion-mnist, mnist, cifar-10\n"


@pytest.mark.parametrize("arguments", [["fetch"], ["fetch", "--list"], ["fetch", "--list", "cifar10"]])
def test_without_a_name_the_sets_are_listed(capsys, arguments):
    assert cli.main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(cli.PACKAGES)

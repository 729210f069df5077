"""A folder of the user's own pictures."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import diffcore as dc
from diffcore_data import pictures
from diffcore_data.folder import Survey, survey
from diffcore_data.pictures import Colour, Picture
from diffcore_data.table import Table
from diffcore_data.values import check_range

BYTES = dc.Range(lo=0, hi=255)
FULL = 2**16 - 1
"""Full scale of 16 bits."""


@dc.component
class ImageFolder(dc.Data):
    """Pictures of one size in any format that Pillow opens, shape (3, H, W), (1, H, W) or (4, H, W), held in memory.

    Pictures directly in the folder have no class; pictures in sub-folders have the sub-folder (in order of name) as class. Hidden
    folders and those without pictures are none. What is left out is counted in a note.

    Pictures are turned as their file says. Transparent ones are composed on `background`, x = a c + (1 - a) b for opacity a,
    unless their opacity is kept as a fourth channel (`colour: rgba`). Of several frames the first is read, and colour profiles
    are not applied: a note counts both. Grey pictures of 16 bits keep all levels, 65535 as 255 (x = 255 raw / 65535), unless a
    `range` says what they span, for instance {lo: 0, hi: 4095}; those of more bits need one.
    """

    source: ClassVar[str] = "your own files; x_model = 2 (x - lo) / (hi - lo) - 1"
    example: ClassVar[Mapping[str, Any]] = {"path": "pictures"}

    path: str = dc.param(doc="the folder")
    colour: Colour = dc.param(default="rgb", doc="three channels, one, or three and the opacity; pictures are converted")
    background: tuple[int, int, int] = dc.param(default=(255, 255, 255), ge=0, le=255, doc="what shows through (not with rgba)")
    range: dc.Range = dc.param(default=BYTES, doc="smallest and largest value of a pixel; only deep pictures need another")

    @cached_property
    def _survey(self) -> Survey:
        return survey(dc.user_folder(self.path))

    def open(self) -> Table:
        """All pictures, decoded. Raises `DataError` where one cannot be read or differs from the first in size or depth."""
        return self._first(len(self._survey.files))

    def outline(self) -> Unread:
        """The first picture, and how many there are of which classes."""
        with warnings.catch_warnings():  # what is worth a note is known of all of them only
            warnings.simplefilter("ignore", dc.DataWarning)
            return Unread(self, self._first(1), len(self._survey.files))

    def _first(self, count: int) -> Table:
        found = self._survey
        x = self._in_range(read_all(found.files[:count], self.colour, self.background))
        return Table.of(x, np.array(found.labels[:count]) if found.names else None, found.names)

    def _in_range(self, x: np.ndarray) -> np.ndarray:
        """Pixels in the declared range; of 16 bits and without another range, their full scale becomes 255."""
        if x.dtype == np.uint8 and self.range == BYTES:
            return x
        low, high = float(x.min()), float(x.max())
        remedy = f"declare what they span (data.range: {{lo: {min(low, 0):g}, hi: {_full_scale(high):g}}})"
        if self.range != BYTES:
            check_range(torch.from_numpy(x), self.range, self.path)
        elif pictures.read(self._survey.files[0], self.colour, self.background).pixels.dtype != np.uint16:
            raise dc.DataError(
                f"{self.path}: the pictures have more than 16 bits a pixel, with values from {low:g} to {high:g}; {remedy}"
            )
        else:
            x *= np.float32(255 / FULL)
            if high < FULL / 2:
                dc.note(
                    f"{self.path}: the pictures have 16 bits a pixel and go to {high:g} of {FULL}; if they hold fewer, {remedy}"
                )
        return x

    @property
    def has_opacity(self) -> bool:
        """Whether opacity is kept."""
        return self.colour == "rgba"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the sub-folders that hold pictures."""
        return self._survey.names


class Unread:
    """Pictures of which one is decoded, and all others when another is asked for. A `dc.Source`."""

    def __init__(self, data: ImageFolder, first: Table, size: int) -> None:
        self.data, self.first = data, first
        self.event, self.size, self.classes = first.event, size, first.classes

    @cached_property
    def _whole(self) -> Table:
        return self.data.open()

    def batch(self, ids: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Those of the folder. Raises `DataError` as `ImageFolder.open` does."""
        return (self._whole if ids.any() else self.first).batch(ids)


def _full_scale(high: float) -> float:
    """The largest value of the fewest whole bits that hold `high`."""
    return 2 ** int(high).bit_length() - 1 if high > 1 else 1


def read_all(files: Sequence[Path], colour: Colour, background: Sequence[int]) -> np.ndarray:
    """Pictures (N, C, H, W), in memory once. Raises `DataError` naming the first that differs from the first one."""
    first = pictures.read(files[0], colour, background)
    dtype = np.dtype(np.uint8 if first.pixels.dtype == np.uint8 else np.float32)
    dc.require_memory(len(files) * first.pixels.size * dtype.itemsize, f"{len(files)} pictures like {files[0]}")
    x = np.empty((len(files), *first.pixels.shape), dtype)
    left = Counter[str]()
    for i, file in enumerate(files):
        picture = pictures.read(file, colour, background) if i else first
        _check_like(picture, first, file, files[0])
        x[i] = picture.pixels
        left.update(picture.left_out)
    if left:
        told = ", ".join(f"{what} ({count})" for what, count in sorted(left.items()))
        others = f" and the {len(files) - 1} after it" if len(files) > 1 else ""
        dc.note(f"{files[0]}{others}: left out, with the number of files: {told}")
    return x


def _check_like(picture: Picture, first: Picture, file: Path, model: Path) -> None:
    (_, height, width), (_, h, w) = first.pixels.shape, picture.pixels.shape
    if (h, w) != (height, width):
        raise dc.DataError(f"{file} is {w} x {h} pixels, {model} is {width} x {height}; resize them to one size first")
    if picture.pixels.dtype != first.pixels.dtype:
        depths = [8 * p.pixels.itemsize for p in (picture, first)]
        raise dc.DataError(f"{file} has {depths[0]} bits a pixel, {model} has {depths[1]}; convert them to one depth first")

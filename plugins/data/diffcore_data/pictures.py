"""Reads pictures: what a file says of depth, rotation, transparency and palette is kept, or the file is refused."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import attrs
import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

import diffcore as dc

Colour = Literal["rgb", "grey", "rgba"]
NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that Pillow knows by name only, or hands to other programs."""
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Modes of one channel of more than 8 bits."""
EXACT = 2**24
"""Up to here float32 holds every integer."""
FRAMES, PROFILE = "further frames", "a colour profile that is not sRGB"
"""What of a file may be left out."""
MODES = {"rgb": "RGB", "grey": "L", "rgba": "RGBA"}


@attrs.frozen
class Picture:
    """Pixels (C, H, W), uint8, uint16 or (of more bits) float32, and what of the file is left out."""

    pixels: np.ndarray
    left_out: frozenset[str]


@cache
def formats() -> dict[str, str]:
    """Suffix -> format, of all that Pillow opens itself (MPO, of cameras, as JPEG)."""
    return {suffix: name for suffix, name in Image.registered_extensions().items() if name in {*_openers(), "MPO"}}


def _openers() -> list[str]:
    Image.init()
    return [name for name in Image.OPEN if name not in NO_PICTURES]


def read(file: Path, colour: Colour, background: Sequence[int]) -> Picture:
    """One picture, upright, transparency composed on the background unless the colour is 'rgba'.

    Raises `DataError` naming the file where it cannot be decoded whole, is larger than memory, or would lose depth.
    """
    with dc.reading(file, "a picture"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dc.require_memory(file.stat().st_size, str(file))
        content = file.read_bytes()
        with _opened(content) as image:
            _refuse_oversize(image, file)
            _refuse_lost_depth(image, content, file)
            left = {FRAMES: getattr(image, "is_animated", False), PROFILE: _is_foreign(image.info.get("icc_profile"))}
            pixels = _arranged(ImageOps.exif_transpose(image), colour, background, file)
            return Picture(pixels, frozenset(what for what, there in left.items() if there))


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=_openers())
    except UnidentifiedImageError:  # its own words name the buffer
        raise UnidentifiedImageError("empty" if not content else "of no format that is known here") from None


def _is_foreign(profile: bytes | None) -> bool:
    if not profile:
        return False
    try:
        return "srgb" not in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).lower()
    except Exception:
        return True


def _refuse_oversize(image: Image.Image, file: Path) -> None:
    width, height = image.size
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and width * height > most:
        raise dc.DataError(f"{file} declares {width} x {height} pixels, more than {most}; cut or resize it")
    dc.require_memory(4 * width * height, str(file))


def _arranged(image: Image.Image, colour: Colour, background: Sequence[int], file: Path) -> np.ndarray:
    """Pixels (C, H, W) of an upright image."""
    if image.mode in DEEP:
        return _deep(image, colour, file)
    if colour != "rgba" and image.has_transparency_data:
        ground = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    image = image.convert("RGB") if image.mode == "LAB" else image  # from which Pillow converts no further
    return np.atleast_3d(np.asarray(image.convert(MODES[colour]))).transpose(2, 0, 1)


def _deep(image: Image.Image, colour: Colour, file: Path) -> np.ndarray:
    """One channel of more than 8 bits, as it is; three equal ones for 'rgb'."""
    if colour == "rgba" or "transparency" in image.info:
        raise dc.DataError(f"{file} has more than 8 bits a pixel, which is read as 'grey' or 'rgb' without transparency")
    values = np.asarray(image)
    pixels = values.astype(np.uint16 if values.dtype.kind == "u" else np.float32)
    if values.dtype.kind in "iu" and np.abs(values.astype(np.int64)).max() > EXACT:
        raise dc.DataError(f"{file} holds integers beyond {EXACT}, which float32 does not tell apart; scale them")
    if not np.isfinite(pixels).all():
        raise dc.DataError(f"{file} holds NaN or infinite pixels; fill them, or leave the picture out")
    return np.repeat(pixels[None], 3 if colour == "rgb" else 1, 0)


# --- depth that Pillow would drop -------------------------------------------------------------------------------------


def _refuse_lost_depth(image: Image.Image, content: bytes, file: Path) -> None:
    """Pillow reads several channels of more than 8 bits as 8, without a word."""
    if image.mode not in DEEP and (_raw_depth(image) or _coded_depth(image, content)):
        raise dc.DataError(
            f"{file} has more than 8 bits in each of its channels, of which Pillow keeps 8; convert it to 8 bits, or save all "
            f"pictures as an array for the data set 'array'"
        )


def _raw_depth(image: Image.Image) -> bool:
    """Whether the pixels are stored as 16 bits: by the layout of PNG, TIFF and SGI, by the largest value of PPM."""
    arguments = [tile[3] for tile in getattr(image, "tile", ())]
    words = [a if isinstance(a, tuple) else (a,) for a in arguments]
    if image.format == "PPM":
        return any(isinstance(word, int) and word > 255 for row in words for word in row)
    return any(isinstance(word, str) and re.search(r";16[BLNRS]", word) for row in words for word in row)


def _coded_depth(image: Image.Image, content: bytes) -> bool:
    """Whether JPEG 2000 or AVIF say that a channel has more than 8 bits."""
    if image.format == "JPEG2000":
        box, stream = content.find(b"ihdr"), content.find(b"\xff\x4f\xff\x51")
        depths = content[box + 14 : box + 15] if box >= 0 else content[stream + 42 : stream + 43]
        return any(depth != 255 and (depth & 127) + 1 > 8 for depth in depths)
    at = content.find(b"av1C") if image.format == "AVIF" else -1
    return at >= 0 and bool(content[at + 6] & 64)

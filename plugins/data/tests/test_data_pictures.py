"""Pictures of every suffix and mode: what a file says is kept, or it is refused; and which folders are classes."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffcore_data import pictures
from diffcore_data.image_folder import ImageFolder, read_all
from PIL import Image, ImageCms, features

import diffcore as dc

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 16, 24, 3), dtype=np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(16)[:, None] * 9 + 40, np.arange(24)[None] * 7 + 20, 90), -1).astype(np.uint8)
WHITE = (255, 255, 255)
PICTURE = Image.fromarray(PIXELS[0])
LOSSLESS = {"BMP", "DIB", "PCX", "PNG", "PPM", "TIFF", "TGA", "SGI", "IM", "QOI", "DDS", "ICNS", "PSD", "SUN"}
SUFFIXES = sorted(pictures.formats())


def read(file: Path, colour: pictures.Colour = "rgb", background: tuple[int, int, int] = WHITE) -> np.ndarray:
    return pictures.read(file, colour, background).pixels


def writable(suffix: str) -> bool:
    return (
        suffix != ".pfm"
        and pictures.formats()[suffix] in Image.SAVE
        and pictures.formats()[suffix] not in ("XBM", "MSP", "BLP", "ICO", "ICNS")
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning:PIL")
@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if writable(s)])
def test_every_suffix_is_read(tmp_path: Path, suffix: str):
    name = pictures.formats()[suffix]
    file = tmp_path / f"a{suffix.upper()}"
    more = {"TGA": {"compression": "tga_rle"}, "AVIF": {"quality": 95}, "JPEG": {"quality": 95}}.get(name, {})
    image = Image.fromarray(SMOOTH if name not in LOSSLESS else PIXELS[0])
    image = (
        image.convert("L") if name == "PALM" or suffix in (".pgm", ".bw") else image.convert("1") if suffix == ".pbm" else image
    )
    try:
        image.save(file, format=name, **more)
    except (OSError, KeyError) as error:
        pytest.skip(f"this Pillow does not write it: {error}")
    source = ImageFolder(path=str(tmp_path), range=dc.Range(lo=0, hi=256)).open()
    found = source.batch(torch.tensor([0]))[0][0].permute(1, 2, 0).numpy()
    expected = np.asarray(image.convert("RGB"), np.float32)
    np.testing.assert_allclose(found, expected, atol=0 if name in LOSSLESS or name == "PPM" else 60, err_msg=name)
    np.testing.assert_allclose(found.mean(), expected.mean(), atol=4)


def test_no_suffix_is_one_that_pillow_only_knows_by_name():
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".jp2", ".mpo"} <= set(SUFFIXES)
    assert not {".eps", ".pdf", ".h5", ".wmf", ".mpg", ".svg", ".txt", ".npz"} & set(SUFFIXES)


def rgba(alpha: np.ndarray) -> np.ndarray:
    return np.concatenate([PIXELS[0], alpha[..., None]], -1)


ALPHA = RNG.integers(0, 256, (16, 24)).astype(np.uint8)
ALPHA[:4], ALPHA[4:8] = 0, 255


def composed(colours: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    share = alpha[..., None] / 255
    return colours * share + (1 - share) * np.array(background)


@pytest.mark.parametrize("background", [WHITE, (0, 0, 0), (10, 200, 90)])
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "tga"])
def test_transparency_is_composed_on_the_background(tmp_path: Path, suffix: str, background: tuple[int, int, int]):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(rgba(ALPHA)).save(file, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    found = read(file, background=background).transpose(1, 2, 0)
    np.testing.assert_allclose(found, composed(PIXELS[0], ALPHA, background), atol=1)
    np.testing.assert_array_equal(found[:4], np.broadcast_to(background, (4, 24, 3)))
    np.testing.assert_array_equal(found[4:8], PIXELS[0, 4:8])
    luma = composed(PIXELS[0], ALPHA, background) @ (0.299, 0.587, 0.114)
    np.testing.assert_allclose(read(file, "grey", background)[0], luma, atol=2)
    np.testing.assert_array_equal(read(file, "rgba", background).transpose(1, 2, 0), rgba(ALPHA))


def grey_and_alpha() -> tuple[Image.Image, np.ndarray]:
    grey = PIXELS[1, ..., 0]
    return Image.merge("LA", [Image.fromarray(grey), Image.fromarray(ALPHA)]), composed(
        grey[..., None].repeat(3, -1), ALPHA, WHITE
    )


def palette(transparent: bool) -> tuple[Image.Image, np.ndarray]:
    index = RNG.integers(0, 4, (16, 24)).astype(np.uint8)
    colours = np.array([[250, 10, 0], [0, 200, 30], [5, 6, 7], [90, 90, 240]], np.uint8)
    image = Image.frombytes("P", (24, 16), index.tobytes())
    image.putpalette(colours.ravel().tolist())
    if transparent:
        image.info["transparency"] = 2
        return image, composed(colours[index], np.where(index == 2, 0, 255), WHITE)
    return image, colours[index]


def keyed_colour() -> tuple[Image.Image, np.ndarray]:
    pixels = PIXELS[2].copy()
    pixels[:5] = (1, 2, 3)
    image = Image.fromarray(pixels)
    image.info["transparency"] = (1, 2, 3)
    return image, composed(pixels, np.where((pixels == (1, 2, 3)).all(-1), 0, 255), WHITE)


def black_and_white() -> tuple[Image.Image, np.ndarray]:
    bits = PIXELS[3, ..., 0] > 127
    return Image.fromarray(bits), (bits * 255)[..., None].repeat(3, -1)


def cyan_and_so_on() -> tuple[Image.Image, np.ndarray]:
    ink = RNG.integers(0, 256, (16, 24, 4)).astype(np.uint8)
    k = 255 - ink[..., 3:].astype(float)
    return Image.frombytes("CMYK", (24, 16), ink.tobytes()), (255 - ink[..., :3]) * k / 255


MODES: dict[str, Callable[[], tuple[Image.Image, np.ndarray]]] = {
    "RGB": lambda: (PICTURE, PIXELS[0]),
    "L": lambda: (Image.fromarray(PIXELS[0, ..., 1]), PIXELS[0, ..., 1:2].repeat(3, -1)),
    "LA": grey_and_alpha,
    "1": black_and_white,
    "P": lambda: palette(False),
    "P, transparent": lambda: palette(True),
    "RGB, one colour transparent": keyed_colour,
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_png(tmp_path: Path, mode: str):
    image, expected = MODES[mode]()
    image.save(tmp_path / "a.png", **({"transparency": image.info["transparency"]} if "transparency" in image.info else {}))
    np.testing.assert_allclose(read(tmp_path / "a.png").transpose(1, 2, 0), expected, atol=1)


@pytest.mark.parametrize("colour", ["rgb", "grey", "rgba"])
@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colour_models_are_converted(tmp_path: Path, mode: str, colour: pictures.Colour):
    """A grey of lightness 50 is about 119 in sRGB, and 128 of the linear models."""
    grey = {"CMYK": (0, 0, 0, 127), "YCbCr": (128, 128, 128), "LAB": (128, 128, 128)}[mode]
    Image.new(mode, (4, 4), grey).save(tmp_path / "a.tif")
    found = read(tmp_path / "a.tif", colour)
    assert len(found) == {"rgb": 3, "grey": 1, "rgba": 4}[colour]
    np.testing.assert_allclose(found[:3], 119 if mode == "LAB" else 128, atol=3)


def test_printing_colours(tmp_path: Path):
    image, expected = cyan_and_so_on()
    image.save(tmp_path / "a.tif")
    np.testing.assert_allclose(read(tmp_path / "a.tif").transpose(1, 2, 0), expected, atol=2)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_as_their_file_says(tmp_path: Path, orientation: int, suffix: str):
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90,
    }[orientation](SMOOTH)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(SMOOTH).save(
        tmp_path / f"a.{suffix}", exif=exif, **{"jpg": {"quality": 95}, "webp": {"lossless": True}}.get(suffix, {})
    )
    np.testing.assert_allclose(read(tmp_path / f"a.{suffix}").transpose(1, 2, 0), upright, atol=12)


@pytest.mark.parametrize(("suffix", "levels"), [("png", 4096), ("tif", 65536), ("jp2", 4096)])
def test_deep_grey_pictures_keep_every_level(tmp_path: Path, suffix: str, levels: int):
    if suffix == "jp2" and not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    ramp = np.linspace(0, levels - 1, 4096).reshape(64, 64).astype(np.uint16)
    for i in range(2):
        Image.fromarray(ramp[:: 1 - 2 * i].copy()).save(tmp_path / f"{i}.{suffix}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plain = ImageFolder(path=str(tmp_path), colour="grey").open()
    assert any(f"hi: {levels - 1}" in str(each.message) for each in caught) == (levels < 65536)
    np.testing.assert_allclose(plain.batch(torch.tensor([0]))[0][0, 0].numpy(), ramp * (255 / 65535), rtol=1e-6)
    assert len(plain.x.unique()) == 4096
    for colour, channels in (("grey", 1), ("rgb", 3)):
        data = ImageFolder(path=str(tmp_path), colour=colour, range=dc.Range(lo=0, hi=levels - 1))
        raw, _ = data.open().batch(torch.tensor([0, 1]))
        np.testing.assert_array_equal(raw.numpy(), np.stack([np.stack([r] * channels) for r in (ramp, ramp[::-1])]))
        assert (float(data.encode(raw).min()), float(data.encode(raw).max())) == (-1, 1)
    with pytest.raises(dc.DataError, match="outside its declared range"):
        ImageFolder(path=str(tmp_path), range=dc.Range(lo=0, hi=1000)).open()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_picture_with_pixels_that_are_no_numbers_is_named(tmp_path: Path, value: float):
    for name in "abc":
        Image.fromarray(np.full((4, 4), value if name == "b" else 0.5, np.float32)).save(tmp_path / f"{name}.tif")
    with pytest.raises(dc.DataError, match=r"b\.tif holds NaN or infinite pixels; fill them, or leave the picture out"):
        ImageFolder(path=str(tmp_path), colour="grey", range=dc.Range(lo=0, hi=1)).open()


@pytest.mark.parametrize("suffix", ["tiff", "pfm"])
def test_floating_point_pictures_keep_their_values(tmp_path: Path, suffix: str):
    values = RNG.normal(size=(8, 8)).astype(np.float32)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    with pytest.raises(dc.DataError, match=r"more than 16 bits a pixel.*declare what they span \(data.range: "):
        ImageFolder(path=str(tmp_path), colour="grey").open()
    source = ImageFolder(path=str(tmp_path), colour="grey", range=dc.Range(lo=-5, hi=5)).open()
    np.testing.assert_array_equal(source.batch(torch.tensor([0]))[0][0, 0].numpy(), values)


@pytest.mark.parametrize("sign", [1, -1])
def test_whole_numbers_beyond_float32_are_refused(tmp_path: Path, sign: int):
    file, values = tmp_path / "x.tiff", np.array([[0, sign * 2**24]], np.int32)
    Image.fromarray(values).save(file)
    assert read(file, "grey").tolist() == [values.tolist()]
    Image.fromarray(values + sign).save(file)
    with pytest.raises(dc.DataError, match="integers beyond 16777216"):
        read(file, "grey")


def png16(channels: int, colour_type: int) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write."""
    rows = b"".join(b"\0" + RNG.integers(0, 65536, (8 * channels,)).astype(">u2").tobytes() for _ in range(8))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, colour_type, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def tiff16(order: str) -> bytes:
    """A TIFF of 16-bit RGB."""
    tags = [
        (256, 4, 8),
        (257, 4, 8),
        (258, 3, 122),
        (259, 3, 1),
        (262, 3, 2),
        (273, 4, 128),
        (277, 3, 3),
        (278, 4, 8),
        (279, 4, 384),
    ]
    body = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    for tag, kind, value in tags:
        counted = 3 if tag == 258 else 1
        packed = struct.pack(order + ("I" if kind == 4 or counted > 1 else "H"), value).ljust(4, b"\0")
        body += struct.pack(order + "HHI", tag, kind, counted) + packed
    return (body + b"\0" * 4).ljust(122, b"\0") + struct.pack(order + "HHH", 16, 16, 16) + bytes(384)


DEEP_COLOURS = {
    "rgb.png": png16(3, 2),
    "rgba.png": png16(4, 6),
    "la.png": png16(2, 4),
    "rgb.ppm": b"P6 4 2 4095\n" + RNG.integers(0, 4096, 24).astype(">u2").tobytes(),
    "little.tif": tiff16("<"),
    "big.tif": tiff16(">"),
}


@pytest.mark.parametrize("name", DEEP_COLOURS)
def test_colours_of_which_pillow_keeps_8_of_16_bits_are_refused(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(DEEP_COLOURS[name])
    Image.open(tmp_path / name).load()  # which Pillow takes without a word
    with pytest.raises(dc.DataError, match="more than 8 bits in each of its channels, of which Pillow keeps 8"):
        ImageFolder(path=str(tmp_path), colour="rgb").open()


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
@pytest.mark.parametrize("suffix", ["jp2", "j2k"])
def test_jpeg_2000_tells_its_depth(tmp_path: Path, suffix: str):
    buffer = io.BytesIO()
    PICTURE.save(buffer, "JPEG2000", **({"no_jp2": True} if suffix == "j2k" else {}), irreversible=False)
    content = bytearray(buffer.getvalue())
    (tmp_path / f"a.{suffix}").write_bytes(content)
    assert read(tmp_path / f"a.{suffix}").shape == (3, 16, 24)
    box, stream = content.find(b"ihdr"), content.find(b"\xff\x4f\xff\x51")
    content[box + 14 if box >= 0 else stream + 42] = 11
    (tmp_path / f"a.{suffix}").write_bytes(content)
    with pytest.raises(dc.DataError, match=r"of which Pillow keeps 8|cannot be read"):
        read(tmp_path / f"a.{suffix}")


def test_depths_and_sizes_are_not_mixed(tmp_path: Path):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(dc.DataError, match=r"b.png has 8 bits a pixel, .*a.png has 16"):
        ImageFolder(path=str(tmp_path), range=dc.Range(lo=0, hi=65535)).open()


def test_further_frames_are_counted(tmp_path: Path):
    frames = [Image.fromarray(p) for p in PIXELS]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.tif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "c.png")
    with pytest.warns(
        dc.DataWarning, match=r"a.png and the 2 after it: left out, with the number of files: further frames \(2\)$"
    ):
        source = ImageFolder(path=str(tmp_path)).open()
    np.testing.assert_array_equal(source.x.numpy(), np.stack([PIXELS[0].transpose(2, 0, 1)] * 3))


def test_colour_profiles_are_counted(tmp_path: Path):
    for name, profile in (("a", "sRGB"), ("b", "LAB"), ("c", None)):
        PICTURE.save(
            tmp_path / f"{name}.png", icc_profile=profile and ImageCms.ImageCmsProfile(ImageCms.createProfile(profile)).tobytes()
        )
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes())
    with pytest.warns(dc.DataWarning, match=r"a.png and the 3 after it: .*: a colour profile that is not sRGB \(1\)$"):
        source = ImageFolder(path=str(tmp_path)).open()
    np.testing.assert_array_equal(source.x.numpy(), np.stack([PIXELS[0].transpose(2, 0, 1)] * 4))


def test_a_picture_larger_than_memory_is_refused_by_its_header(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png16(1, 0)[:16] + struct.pack(">II", 60_000, 60_000) + png16(1, 0)[24:])
    with pytest.raises(dc.DataError, match=r"a.png .*(60000 x 60000|exceeds limit|cannot be read)"):
        ImageFolder(path=str(tmp_path)).open()


def test_a_folder_larger_than_memory_is_refused_after_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    PICTURE.save(tmp_path / "a.png")
    monkeypatch.setattr("diffcore.learning.files.free_memory", lambda: 100_000)
    with pytest.raises(dc.DataError, match=r"1000 pictures like .*a.png needs 1.15 MB of memory, and this machine has 100 kB"):
        read_all([tmp_path / "a.png"] * 1000, "rgb", WHITE)


def test_pixels_are_held_once(tmp_path: Path):
    import tracemalloc

    Image.fromarray(RNG.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(tmp_path / "0.bmp")
    tracemalloc.start()
    x = read_all([tmp_path / "0.bmp"] * 100, "rgb", WHITE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * x.nbytes


# --- folders ----------------------------------------------------------------------------------------------------------


def build(root: Path, *names: str) -> Path:
    """Files by their place; what ends in / is a folder, what Pillow does not open is text."""
    for i, name in enumerate(names):
        file = root / name
        (file if name.endswith("/") else file.parent).mkdir(parents=True, exist_ok=True)
        if file.suffix in (".png", ".webp", ".bmp"):
            Image.fromarray(PIXELS[i % 6]).save(file)
        elif not name.endswith("/"):
            file.write_text("text")
    return root


@pytest.mark.parametrize(
    "debris",
    [
        ".ipynb_checkpoints/0.png",
        "__MACOSX/._0.png",
        "__MACOSX/cat/0.png",
        "cat/Thumbs.db",
        "cat/._0.png",
        "desktop.ini",
        ".DS_Store",
    ],
)
def test_debris_is_no_class_and_no_word(tmp_path: Path, debris: str):
    data = ImageFolder(path=str(build(tmp_path, "cat/0.png", "cat/1.png", "dog/2.png", debris)))
    source = data.open()
    assert data.class_names == ("cat", "dog")
    assert source.classes == {"label": 2}
    assert source.batch(torch.arange(3))[1]["label"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a/0.png", "b/1.png", "empty/"], r"1 folder without a picture, which is no class \(empty\)"),
        (
            ["a/0.png", "b/1.png", "b/notes.txt", "c/x.svg"],
            r"2 files that are no pictures \(1 .txt, 1 .svg\); 1 folder .* \(c\)",
        ),
        (
            ["0.png", "1.png", "labels.csv", "x.csv", "README"],
            r"2 pictures are read; left out: 3 files that are no pictures \(2 .csv, 1 README\)",
        ),
    ],
)
def test_what_is_left_out_is_said_in_one_line(tmp_path: Path, names: list[str], says: str):
    data = ImageFolder(path=str(build(tmp_path, *names)))
    with pytest.warns(dc.DataWarning, match=says) as caught:
        source = data.open()
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert len(data.class_names) == source.classes.get("label", 0)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["0.png", "cat/1.png"], r"holds pictures \(0.png\) and sub-folders of pictures \(cat: 1\); put every picture"),
        (
            ["train/a/0.png", "train/b/1.png", "val/a/2.png"],
            r"more than one level down \(train/a: 1, train/b: 1, val/a: 1\); a class",
        ),
        (["cat/0.png", "dog/1.png", "dog/more/2.png"], r"more than one level down \(dog/more: 1\) beside 2 that are not"),
        (["notes.txt", "x/model.svg"], r"no pictures among its 2 files \(1 .txt, 1 .svg\)"),
        (["x/"], "holds no pictures; those are"),
        ([".hidden/0.png"], "holds no pictures; those are"),
    ],
)
def test_other_layouts_are_refused_by_name(tmp_path: Path, names: list[str], says: str):
    with pytest.raises(dc.DataError, match=says):
        ImageFolder(path=str(build(tmp_path, *names))).open()


def test_links_are_followed_but_not_in_circles(tmp_path: Path):
    build(tmp_path, "real/0.png", "set/b/1.png")
    os.symlink(tmp_path / "real", tmp_path / "set" / "a")
    os.symlink(tmp_path / "set", tmp_path / "set" / "b" / "round")
    assert ImageFolder(path=str(tmp_path / "set")).class_names == ("a", "b")


def test_a_name_that_is_no_text_is_still_a_class(tmp_path: Path):
    odd = os.fsdecode(b"b\xff")
    try:
        build(tmp_path, "a/0.png", f"{odd}/1.png")
    except OSError:
        pytest.skip("this file system takes no such name")
    data = ImageFolder(path=str(tmp_path))
    assert data.class_names == ("a", "b\N{REPLACEMENT CHARACTER}")
    assert data.open().classes == {"label": 2}


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_damaged_picture_is_read_or_refused_in_one_line(tmp_path: Path, name: str, outcomes: Callable[..., Any]):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / f"a.{name.lower()}"
    PICTURE.save(file, name, **({"exif": exif} if name in ("PNG", "JPEG", "WEBP", "TIFF") else {}))
    whole = read(file)
    found = [picture for picture in outcomes(lambda: read(file), file, 250) if not isinstance(picture, str)]
    assert all(picture.dtype in (np.uint8, np.uint16, np.float32) for picture in found)
    assert len(found) < 240
    if name == "PNG":  # which has checksums
        assert all(np.array_equal(picture, whole) for picture in found)


def test_messages_name_the_file_and_not_our_buffers(tmp_path: Path):
    for content, says in ((b"", "empty"), (b"no picture", "of no format that is known here")):
        (tmp_path / "a\x1b[2J.png").write_bytes(content)
        with pytest.raises(
            dc.DataError, match=rf"a\\x1b\[2J\.png cannot be read as a picture \(UnidentifiedImageError: {says}\)"
        ):
            ImageFolder(path=str(tmp_path)).open()


def test_frames_of_the_one_picture_are_noted_without_others(tmp_path: Path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    with pytest.warns(dc.DataWarning, match=r"a\.webp: left out, with the number of files: further frames \(1\)$"):
        ImageFolder(path=str(tmp_path)).open()

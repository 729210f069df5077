"""What pictures are drawn on: sheets of images, figures, animations. Needs the extra `diffcore[report]`."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffcore.declare.errors import PluginError
from diffcore.run.marks import MARK
from diffcore.run.report.escaping import figure_text, font_file

_PACKAGES = {"jinja2": "jinja2", "matplotlib": "matplotlib", "PIL": "pillow"}
GAP = 2
TILE = 48
"""Pixels: the space between images, and the size that small images are magnified to about."""
FONT = 11
INK = 122
"""The grey of text in pictures: it stands out on white as on black."""


def require_packages() -> None:
    """Raise `PluginError` where packages of the extra are missing: before long work, not after it."""
    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise PluginError(f"pictures and reports need {', '.join(missing)}: pip install 'diffcore[report]'")


def png_grid(x: Tensor, columns: int, heads: Sequence[str] = ()) -> bytes:
    """A PNG of images (N, 1 or 3, H, W) in [0, 1], row by row on a transparent ground; heads: a text above every column."""
    return _png(sheet(x, columns, heads))


def animated(pages: Sequence[Any], milliseconds: int = 150) -> bytes:
    """The GIF of pictures of one size, on white."""
    buffer, pages = io.BytesIO(), [_on_white(each) for each in pages]
    times = [milliseconds] * (len(pages) - 1) + [max(1000, milliseconds)]
    pages[0].save(buffer, "GIF", save_all=True, append_images=list(pages[1:]), duration=times, loop=0, comment=MARK)
    return buffer.getvalue()


def _on_white(image: Any) -> Any:
    from PIL import Image

    if image.mode not in ("LA", "RGBA"):
        return image
    ground = Image.new(image.mode.removesuffix("A"), image.size, "white")
    ground.paste(image.convert(ground.mode), mask=image.getchannel("A"))
    return ground


def magnified(height: int, width: int, count: int = 2) -> int:
    """How many pixels the side of a pixel of small images gets; one alone is shown larger."""
    return max(1, round((TILE if count > 1 else 8 * TILE) / max(height, width)))


def sheet(x: Tensor, columns: int, heads: Sequence[str] = ()) -> Any:
    """A Pillow image of images in [0, 1], row by row, transparent between them."""
    require_packages()
    from PIL import Image

    count, channels, height, width = x.shape
    columns = min(columns, count)
    rows, scale = -(-count // columns), magnified(height, width, count)
    pixels = torch.zeros(channels + 1, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP)
    for i, image in enumerate(x.clamp(0, 1)):
        top, left = (i // columns) * (height + GAP) + GAP, (i % columns) * (width + GAP) + GAP
        pixels[:, top : top + height, left : left + width] = torch.cat([image, torch.ones(1, height, width)])
    made = Image.fromarray(_pixels(pixels))
    made = made.resize((made.width * scale, made.height * scale), Image.Resampling.NEAREST)
    return _headed(made, heads, (width + GAP) * scale, GAP * scale) if any(heads) else made


def _headed(made: Any, heads: Sequence[str], width: int, left: int) -> Any:
    """The sheet below its heads, which are turned upright where the widest is wider than a column."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(font_file(), FONT)
    texts = [figure_text(head).replace(r"\$", "$")[:24] for head in heads]
    widest = max(round(font.getlength(text)) for text in texts)
    turned = widest > width - left
    high = (widest if turned else FONT) + 6
    ink = (INK,) * (len(made.getbands()) - 1)
    whole = Image.new(made.mode, (made.width, made.height + high), (*ink, 0))
    whole.paste(made, (0, high))
    for i, text in enumerate(texts):
        strip = Image.new("L", (widest + 2, FONT + 4))
        ImageDraw.Draw(strip).text((0, 0), text, fill=255, font=font)
        strip = strip.transpose(Image.Transpose.ROTATE_90) if turned else strip
        place = left + i * width + max(0, (width - left - strip.width) // 2), high - strip.height - 1
        whole.paste((*ink, 255), (*place, place[0] + strip.width, place[1] + strip.height), strip)
    return whole


def png_image(x: Tensor) -> bytes:
    """A PNG of one image (1, 3 or 4, H, W) in [0, 1], a pixel for each pixel; the fourth channel is opacity."""
    from PIL import Image

    return _png(Image.fromarray(_pixels(x)))


def _pixels(x: Tensor) -> Any:
    array = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return array[:, :, 0] if x.shape[0] == 1 else array


def _png(image: Any) -> bytes:
    """The bytes of a PNG, which say who made it."""
    from PIL.PngImagePlugin import PngInfo

    buffer, about = io.BytesIO(), PngInfo()
    about.add_text("Software", MARK)
    image.save(buffer, "PNG", optimize=True, pnginfo=about)
    return buffer.getvalue()


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A matplotlib figure and its axes, without pyplot's global state."""
    require_packages()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def png(figure: Any) -> bytes:
    """The PNG of a figure, in 64 colours: a quarter of the bytes of one in all."""
    return _png(page(figure).quantize(64))


def page(figure: Any) -> Any:
    """The Pillow image of a figure."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")

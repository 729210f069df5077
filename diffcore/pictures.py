"""Pictures of samples: PNG bytes of image grids, scatter plots and trajectories. Needs the extra `diffcore[report]`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffcore.errors import PluginError
from diffcore.solver import Frame

if TYPE_CHECKING:
    from diffcore.data import Range

WAIT = "pictures need more packages: pip install 'diffcore[report]'"


def picture(x: Tensor, value_range: Range | None, columns: int) -> bytes | None:
    """Images (N, 1 or 3, H, W) as a grid, points (N, 2) as a scatter plot; None for anything else. x in the data's range."""
    if x.ndim == 4 and x.shape[1] in (1, 3):
        lo, hi = (value_range.lo, value_range.hi) if value_range else (float(x.min()), float(x.max()))
        return png_grid((x.detach().cpu().float() - lo) / max(hi - lo, 1e-12), columns)
    if x.ndim == 2 and x.shape[1] == 2:
        return png_scatter(x.detach().cpu(), value_range)
    return None


def png_grid(x: Tensor, columns: int, gap: int = 2, scale: int = 2) -> bytes:
    """A PNG of images in [0, 1], row by row."""
    try:
        from PIL import Image
    except ImportError:
        raise PluginError(WAIT) from None
    count, channels, height, width = x.shape
    rows = -(-count // columns)
    sheet = torch.ones(channels, rows * (height + gap) + gap, columns * (width + gap) + gap)
    for i, image in enumerate(x.clamp(0, 1)):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[:, top : top + height, left : left + width] = image
    pixels = (sheet * 255).round().to(torch.uint8).permute(1, 2, 0)
    array = pixels[:, :, 0].numpy() if channels == 1 else pixels.numpy()
    made = Image.fromarray(array)
    made = made.resize((made.width * scale, made.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    made.save(buffer, "PNG")
    return buffer.getvalue()


def png_scatter(x: Tensor, value_range: Range | None) -> bytes:
    """A PNG of points in the plane, in the data's range where one is declared."""
    figure, axes = new_figure(4, 4)
    axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=3, alpha=0.5, linewidths=0)
    axes.set_aspect("equal")
    if value_range is not None:
        axes.set(xlim=(value_range.lo, value_range.hi), ylim=(value_range.lo, value_range.hi))
    return png(figure)


def trajectory(frames: Sequence[Frame], columns: int = 11) -> bytes | None:
    """States (upper rows of each pair) and what was known of x_0 (lower rows) for images; paths for points of the plane."""
    first = frames[0].x
    if not isinstance(first, Tensor):
        return None
    if first.ndim == 4 and first.shape[1] in (1, 3):
        chosen = [frames[round(i * (len(frames) - 1) / (columns - 1))] for i in range(columns)]
        tiles: list[Tensor] = []
        for sample in range(min(5, len(first))):
            tiles += [_shown(f.x[sample]) for f in chosen]
            tiles += [_shown(f.x0.mean[sample] if f.x0 is not None else torch.zeros_like(f.x[sample])) for f in chosen]
        return png_grid(torch.stack(tiles), columns)
    if first.ndim == 2 and first.shape[1] == 2:
        return _paths(torch.stack([f.x for f in frames]).cpu())
    return None


def _shown(x: Tensor) -> Tensor:
    return ((x.detach().cpu().float() / max(1.0, float(x.std()) * 2)).clamp(-1, 1) + 1) / 2


def _paths(x: Tensor) -> bytes:
    figure, axes = new_figure(5, 5)
    axes.plot(x[:, :, 0].numpy(), x[:, :, 1].numpy(), color="0.6", linewidth=0.4)
    axes.scatter(x[0, :, 0].numpy(), x[0, :, 1].numpy(), s=6, label="noise")
    axes.scatter(x[-1, :, 0].numpy(), x[-1, :, 1].numpy(), s=6, label="samples")
    axes.set_aspect("equal")
    axes.legend(loc="upper right", fontsize=8)
    return png(figure)


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A matplotlib figure and its axes, without pyplot's global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PluginError(WAIT) from None
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def png(figure: Any) -> bytes:
    """The PNG of a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()

"""Pictures of samples: PNG bytes of image grids, scatter plots and trajectories. Needs the extra `diffcore[report]`."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffcore.errors import PluginError
from diffcore.solver import Frame
from diffcore.tree import State

if TYPE_CHECKING:
    from diffcore.data import Range

_PACKAGES = {"jinja2": "jinja2", "matplotlib": "matplotlib", "PIL": "pillow"}


def require_packages() -> None:
    """Raise `PluginError` where packages of the extra are missing: before long work, not after it."""
    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise PluginError(f"pictures and reports need {', '.join(missing)}: pip install 'diffcore[report]'")


def are_images(x: State) -> bool:
    """Whether samples are images (N, 1 or 3, H, W)."""
    return isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] in (1, 3)


def are_points(x: State) -> bool:
    """Whether samples are points (N, 2) of the plane."""
    return isinstance(x, Tensor) and x.ndim == 2 and x.shape[1] == 2


def picture(x: Tensor, span: Range, columns: int) -> bytes:
    """Images (N, 1 or 3, H, W) as a grid, points (N, 2) as a scatter plot; `span` is black to white, or both axes."""
    x = x.detach().cpu().float()
    return png_grid((x - span.lo) / (span.hi - span.lo), columns) if are_images(x) else png_scatter(x, span)


def png_grid(x: Tensor, columns: int, gap: int = 2, scale: int = 2) -> bytes:
    """A PNG of images in [0, 1], row by row."""
    require_packages()
    from PIL import Image

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


def png_scatter(x: Tensor, span: Range) -> bytes:
    """A PNG of points in the plane; says how many lie outside its axes."""
    figure, axes = new_figure(4, 4)
    axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=3, alpha=0.5, linewidths=0)
    axes.set_aspect("equal")
    axes.set(xlim=(span.lo, span.hi), ylim=(span.lo, span.hi))
    outside = int(((x < span.lo) | (x > span.hi)).any(1).sum())
    axes.set_title(f"{outside} of {len(x)} lie outside" if outside else " ", fontsize=8)
    return png(figure)


def trajectory(frames: Sequence[Frame], columns: int = 11) -> bytes:
    """Images on their way: states (upper row of each pair) and what was known of x_0 (lower row)."""
    chosen = [frames[round(i * (len(frames) - 1) / (columns - 1))] for i in range(columns)]
    tiles: list[Tensor] = []
    for sample in range(min(5, len(frames[0].x))):
        tiles += [_shown(f.x[sample]) for f in chosen]
        tiles += [_known(f, sample) for f in chosen]
    return png_grid(torch.stack(tiles), columns)


def _known(frame: Frame, sample: int) -> Tensor:
    """The posterior mean of an image; grey where there is none of its shape."""
    mean = getattr(frame.x0, "mean", None)
    fits = isinstance(mean, Tensor) and mean.shape == frame.x.shape
    return (
        _shown(mean[sample]) if isinstance(mean, Tensor) and fits else torch.full_like(frame.x[sample], 0.5, dtype=torch.float32)
    )


def _shown(x: Tensor) -> Tensor:
    x = x.detach().cpu()
    if not x.is_floating_point():  # tokens: from black to white
        return x.float() / max(1, int(x.max()))
    return ((x.float() / max(1.0, float(x.float().std()) * 2)).clamp(-1, 1) + 1) / 2


def paths(frames: Sequence[Frame]) -> bytes:
    """Points of the plane on their way."""
    x = torch.stack([f.x for f in frames]).cpu()
    figure, axes = new_figure(5, 5)
    axes.plot(x[:, :, 0].numpy(), x[:, :, 1].numpy(), color="0.6", linewidth=0.4)
    axes.scatter(x[0, :, 0].numpy(), x[0, :, 1].numpy(), s=6, label="noise")
    axes.scatter(x[-1, :, 0].numpy(), x[-1, :, 1].numpy(), s=6, label="samples")
    axes.set_aspect("equal")
    axes.legend(loc="upper right", fontsize=8)
    return png(figure)


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A matplotlib figure and its axes, without pyplot's global state."""
    require_packages()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def png(figure: Any) -> bytes:
    """The PNG of a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()

"""Pictures of samples on their way from noise to data: one PNG, or an animation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffcore.numerics.solver import Frame
from diffcore.run.report.canvas import animated, new_figure, page, png, png_grid, sheet
from diffcore.run.report.pictures import are_images, as_images

COLUMNS = 11
"""Times shown in one picture."""
PAGES = 60
"""Times shown in an animation."""


def have_picture(frames: Sequence[Frame]) -> bool:
    """Whether these states can be drawn on their way."""
    x = frames[0].x
    if not all(isinstance(frame.x, Tensor) and frame.x.shape == x.shape for frame in frames):
        return False  # latents on their way to an image are no picture together
    return are_images(x) or (isinstance(x, Tensor) and x.is_floating_point() and x.ndim in (2, 3) and x.numel() > 0)


def picture(frames: Sequence[Frame]) -> bytes:
    """Images: states (upper row of each pair) and what was known of x_0 (lower row). Points and tables: lines in the plane of
    their first two entries. Signals: one of them at several times, below each other."""
    x = frames[0].x
    return trajectory(frames) if are_images(x) else png(_lines(frames) if x.ndim == 2 else _waves(frames))


def name(frames: Sequence[Frame]) -> str:
    """What the picture is called: `trajectory` of states at several times, `paths` of lines."""
    return "paths" if frames[0].x.ndim == 2 and not are_images(frames[0].x) else "trajectory"


def animation(frames: Sequence[Frame]) -> bytes:
    """A GIF of the states."""
    chosen = _chosen(frames, PAGES)
    if are_images(frames[0].x):
        return animated([sheet(_shown(f.x[:25]), 5) for f in chosen])
    reach = float(torch.stack([f.x.abs().max() for f in chosen]).max())
    return animated([page(_state(f.x.detach().cpu().float(), reach)) for f in chosen])


def _chosen(frames: Sequence[Frame], most: int) -> list[Frame]:
    """Frames at equal distances, the first and the last among them."""
    count = min(most, len(frames))
    return [frames[round(i * (len(frames) - 1) / max(1, count - 1))] for i in range(count)]


def trajectory(frames: Sequence[Frame]) -> bytes:
    """Images on their way: states (upper row of each pair) and what was known of x_0 (lower row)."""
    chosen, tiles = _chosen(frames, COLUMNS), list[Tensor]()
    for i in range(min(5, len(_images(frames[0].x)))):
        tiles += [_shown(f.x)[i] for f in chosen]
        tiles += [_known(f)[i] for f in chosen]
    return png_grid(torch.stack(tiles), len(chosen))


def _known(frame: Frame) -> Tensor:
    """The posterior mean of images; grey where there is none of their shape."""
    mean = getattr(frame.x0, "mean", None)
    fits = isinstance(mean, Tensor) and mean.shape == frame.x.shape
    return _shown(mean) if isinstance(mean, Tensor) and fits else torch.full_like(_shown(frame.x), 0.5)


def _images(x: Tensor) -> Tensor:
    images = as_images(x)
    return x if images is None else images


def _shown(x: Tensor) -> Tensor:
    """Images in [0, 1]: tokens from black to white, else about two standard deviations of each either way."""
    x = _images(x.detach().cpu())
    if not x.is_floating_point():
        return x.float() / max(1, int(x.max()))
    scale = (x.float().flatten(1).std(1, correction=0) * 2).clamp(min=1).view(-1, 1, 1, 1)
    return ((x.float() / scale).clamp(-1, 1) + 1) / 2


def _plane(x: Tensor) -> Tensor:
    """The first two entries (the only one twice)."""
    return x.detach().cpu().float()[:, [0, min(1, x.shape[1] - 1)]]


def _lines(frames: Sequence[Frame]) -> Any:
    """Points of the plane on their way."""
    x = torch.stack([_plane(f.x) for f in frames])
    figure, axes = new_figure(5, 5)
    axes.plot(x[:, :, 0].numpy(), x[:, :, 1].numpy(), color="0.6", linewidth=0.4)
    axes.scatter(x[0, :, 0].numpy(), x[0, :, 1].numpy(), s=6, label="noise")
    axes.scatter(x[-1, :, 0].numpy(), x[-1, :, 1].numpy(), s=6, label="samples")
    axes.set_aspect("equal")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return figure


def _waves(frames: Sequence[Frame]) -> Any:
    """The first signal at several times, each a little lower than the one before."""
    chosen = [f.x[0].detach().cpu().float() for f in _chosen(frames, COLUMNS)]
    gap = 2 * max(float(x.abs().max()) for x in chosen)
    figure, axes = new_figure(6, 6)
    for i, x in enumerate(chosen):
        axes.plot((x - i * gap).T.numpy(), linewidth=0.8, color=f"{0.7 * (1 - i / max(1, len(chosen) - 1)):.2f}")
    axes.set(yticks=[], xlabel="noise (above) to sample (below)")
    return figure


def _state(x: Tensor, reach: float) -> Any:
    """One state, on axes that are the same at all times."""
    figure, axes = new_figure(4, 4)
    axes.set(ylim=(-reach, reach))
    if x.ndim == 3:
        axes.plot(x[0].T.numpy(), linewidth=0.8)
        return figure
    axes.scatter(*_plane(x).T.numpy(), s=3, alpha=0.5, linewidths=0)
    axes.set(xlim=(-reach, reach))
    return figure

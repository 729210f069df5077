"""Pictures of samples: images, points, tables, signals, tokens, volumes; and how far two sets from the same noise are apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffcore.numerics.tree import State
from diffcore.run.report.canvas import GAP, magnified, new_figure, png, png_grid

if TYPE_CHECKING:
    from diffcore.learning.data import Range

CHANNELS = 8
"""Samples (C, L) of at most so many channels are signals; with more they are shown as images of C lines."""
SLICES = 8
"""Slices shown of a volume (or frames of a video)."""
AXES = 4
"""Entries of a table that are drawn against each other."""
LINES = 12
"""Signals in a picture."""
TOKENS = 64
"""Rows of tokens in a picture."""
STRIDE = 1.06
"""From one box of a plot to the next, in sides of a box."""
DOTS = 20_000
PIXELS = 4_000_000
"""Most points, and about the most pixels, of one picture."""


def as_images(x: State) -> Tensor | None:
    """Samples as images (M, 1 or 3, H, W); None where they are none.

    Channels other than 1 or 3 stand side by side, and so do slices of volumes (N, C, D, H, W); tokens (N, L) are one image.
    """
    if not isinstance(x, Tensor) or x.is_complex() or not x.numel():
        return None
    if x.ndim == 5:
        return as_images(_slices(x))
    if x.ndim == 4:
        return x if x.shape[1] in (1, 3) else x.transpose(1, 2).flatten(2).unsqueeze(1)
    if x.ndim == 3 and (x.shape[1] > CHANNELS or not x.is_floating_point()):
        return x.unsqueeze(1)
    return x[None, None, :TOKENS] if x.ndim == 2 and not x.is_floating_point() else None


def _slices(x: Tensor) -> Tensor:
    """(N, C, D, H, W) as (N, C, H, S W), at most `SLICES` of its D slices."""
    chosen = torch.linspace(0, x.shape[2] - 1, min(SLICES, x.shape[2])).round().long()
    return x[:, :, chosen].movedim(2, 3).flatten(3)


def opaque(x: Tensor, span: Range) -> Tensor:
    """Colours and opacity (N, 4, H, W) in `span` as colours over white: a c + (1 - a) white."""
    opacity = ((x[:, 3:] - span.lo) / (span.hi - span.lo)).clamp(0, 1)
    return opacity * x[:, :3] + (1 - opacity) * span.hi


def are_images(x: State) -> bool:
    """Whether samples are shown as images."""
    return as_images(x) is not None


def are_points(x: State) -> bool:
    """Whether samples are points (N, 2) of the plane."""
    return _is_table(x) and x.shape[1] == 2


def _is_table(x: State) -> bool:
    return isinstance(x, Tensor) and x.ndim == 2 and x.is_floating_point() and x.numel() > 0


def _is_signals(x: State) -> bool:
    return isinstance(x, Tensor) and x.ndim == 3 and x.is_floating_point() and x.numel() > 0 and x.shape[1] <= CHANNELS


def has_picture(x: State) -> bool:
    """Whether there is a picture of such samples."""
    return are_images(x) or _is_table(x) or _is_signals(x)


def most(x: State) -> int:
    """How many samples like these a picture shows at most."""
    images = as_images(x)
    if images is None:
        return LINES if _is_signals(x) else DOTS
    height, width = images.shape[2:]
    return TOKENS if x.ndim == 2 else max(1, PIXELS // ((height + GAP) * (width + GAP) * magnified(height, width) ** 2))


def picture(x: State, span: Range, columns: int, heads: Sequence[str] = ()) -> bytes:
    """A PNG of samples that have a picture, of the first `most` of them; `span` is black to white, or the axes.

    Images as a grid with `heads` above its columns, points as a scatter plot, tables as plots of their first entries against
    each other, signals (N, C, L) as lines.
    """
    x = x[: most(x)].detach().cpu()
    images = as_images(x)
    if images is not None:
        return png_grid((images.float() - span.lo) / (span.hi - span.lo), columns, heads if len(images) == len(x) else ())
    if _is_signals(x):
        return png(_signals(x.float(), span))
    return png(_points(x.float(), span) if are_points(x) else _table(x.float(), span))


def _points(x: Tensor, span: Range) -> Any:
    """Points in the plane; says how many lie outside the axes."""
    figure, axes = new_figure(4, 4)
    axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=3, alpha=0.5, linewidths=0)
    axes.set_aspect("equal")
    axes.set(xlim=(span.lo, span.hi), ylim=(span.lo, span.hi))
    _tell_outside(axes, x, span)
    return figure


def _tell_outside(axes: Any, x: Tensor, span: Range) -> None:
    outside = int(((x < span.lo) | (x > span.hi)).flatten(1).any(1).sum())
    axes.set_title(f"{outside} of {len(x)} lie outside" if outside else " ", fontsize=8)


def _table(x: Tensor, span: Range) -> Any:
    """Histograms of the first entries, and every two of them against each other, in boxes of the same axes."""
    shown, entries = min(AXES, x.shape[1]), x.shape[1]
    x = (x[:, :shown] - span.lo) / (span.hi - span.lo)
    x = torch.where((x < 0) | (x > 1), torch.nan, x)
    figure, axes = _boxes(shown, shown, 1.6 * shown + 0.5, 1.6 * shown + 0.5)
    for i, j in product(range(shown), repeat=2):
        left, low = j * STRIDE, -i * STRIDE
        if i == j:
            counts = torch.histc(x[:, i][~x[:, i].isnan()], 40, 0, 1)
            heights, edges = counts / counts.max().clamp(min=1) + low, torch.linspace(left, left + 1, 41)
            axes.stairs(heights.numpy(), edges.numpy(), baseline=low, color="C0")
        else:
            axes.scatter((x[:, j] + left).numpy(), (x[:, i] + low).numpy(), s=2, alpha=0.5, linewidths=0, color="C0")
    which = f"entries 1 to {shown} of {entries}, " if entries > 1 else ""
    axes.set_title(f"{which}from {span.lo:.3g} to {span.hi:.3g}", fontsize=8)
    return figure


def _signals(x: Tensor, span: Range, behind: Tensor | None = None) -> Any:
    """A box for each signal, its channels as lines of their own colours; `behind`: others in grey."""
    across = min(4, len(x))
    down = -(-len(x) // across)
    figure, axes = _boxes(down, across, 9, 1.4 * down + 0.3)
    steps = torch.linspace(0, 1, x.shape[2])
    for i, lines in enumerate(x):
        left, low = i % across * STRIDE, -(i // across) * STRIDE
        for wave in () if behind is None else behind[i]:
            axes.plot((steps + left).numpy(), (_placed(wave, span) + low).numpy(), color="0.75", linewidth=2)
        for channel, wave in enumerate(lines):
            axes.plot((steps + left).numpy(), (_placed(wave, span) + low).numpy(), color=f"C{channel}", linewidth=0.8)
    axes.set_title(f"every box from {span.lo:.3g} to {span.hi:.3g}", fontsize=8)
    return figure


def _placed(values: Tensor, span: Range) -> Tensor:
    """Values from `span` to [0, 1]; those outside stay at its ends."""
    return ((values - span.lo) / (span.hi - span.lo)).clamp(0, 1)


def _boxes(down: int, across: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure of unit boxes in one pair of axes: many small axes would take seconds. Box (i, j) begins at STRIDE (j, -i)."""
    figure, axes = new_figure(width, height)
    axes.set_axis_off()
    for i, j in product(range(down), range(across)):
        left, low = j * STRIDE, -i * STRIDE
        axes.plot([left, left + 1, left + 1, left, left], [low, low, low + 1, low + 1, low], color="0.6", linewidth=0.6)
    axes.set(xlim=(-0.02, (across - 1) * STRIDE + 1.02), ylim=(-(down - 1) * STRIDE - 0.02, 1.02))
    return figure, axes


# --- two sets from the same noise -------------------------------------------------------------------------------------


def apart(x: Tensor, main: Tensor, span: Range) -> float:
    """How far samples are from others of the same noise: the rms difference as a share of `span`, of tokens the share that
    differs."""
    if not x.is_floating_point():
        return float((x != main).double().mean())
    return float(((x - main).double() / (span.hi - span.lo)).square().mean().sqrt())


def swing(x: Tensor, main: Tensor, span: Range) -> float:
    """The difference, as a share of `span`, that all but 0.5 % of the entries stay below."""
    return float(torch.quantile(((x - main).double().abs() / (span.hi - span.lo)).flatten()[: 2**20], 0.995))


def difference(x: Tensor, main: Tensor, span: Range, columns: int, full: float) -> bytes:
    """A PNG of samples beside others of the same noise: images as their difference (grey: none, black and white: +-`full` of
    the span), points as ways from the one to the other, signals over each other."""
    x, main = (each[: most(x)].detach().cpu().float() for each in (x, main))
    images, others = as_images(x), as_images(main)
    if images is not None and others is not None:
        return png_grid(0.5 + (images - others) / (span.hi - span.lo) / (2 * max(full, 1e-12)), columns)
    return png(_signals(x, span, main) if _is_signals(x) else _moves(x, main, span))


def _moves(x: Tensor, main: Tensor, span: Range) -> Any:
    """The first two entries of points, with a line to where the others are."""
    first, second = (each[:500, [0, -1 if each.shape[1] == 1 else 1]] for each in (main, x))
    figure, axes = new_figure(4, 4)
    axes.plot(*torch.stack([first, second]).unbind(2), color="0.6", linewidth=0.6)
    axes.scatter(*second.T.numpy(), s=4, linewidths=0)
    axes.set_aspect("equal")
    axes.set(xlim=(span.lo, span.hi), ylim=(span.lo, span.hi))
    _tell_outside(axes, second, span)
    return figure

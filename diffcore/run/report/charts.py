"""The figures of a report, as SVG: quality against calls, the loss. They hold no text of the user's; its legend does.

Ink follows the reader's light or dark mode; series have colours that stand out on both. Needs the extra `diffcore[report]`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from diffcore.run.report.canvas import new_figure

INK = {"light": "#1b1f24", "dark": "#e6edf3"}
COLOURS = ("#1a73d9", "#c45500", "#258a40", "#8a5cf0", "#d03b8c", "#97711a", "#0f8299", "#e0443c")
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"))
"""How matplotlib names a marker, and the character that is like it."""


@attrs.frozen
class Key:
    """A line of a legend: what it says, its colour (none for ink) and its marker."""

    text: str
    colour: str = ""
    marker: str = "●"


@attrs.frozen
class Chart:
    """A figure as the address of an SVG, and its legend."""

    image: str
    keys: Sequence[Key]


@attrs.frozen
class Point:
    """A value at a number of calls, with its spread."""

    calls: float
    value: float
    spread: float = 0.0


def quality(
    series: Mapping[str, Sequence[Point]], real: Sequence[float], within: tuple[float | None, float | None] = (None, None)
) -> Chart:
    """Values against network calls, a line for each solver, and dotted lines for what real data reaches.

    within: the bounds of the metric; neither bars nor the axis go beyond them. The axis is logarithmic where values differ much
    and all that is drawn is above zero.
    """
    figure, axes = new_figure(5, 3)
    keys = [_line(axes, i, name, points, within) for i, (name, points) in enumerate(series.items())]
    for level in real:
        axes.axhline(level, color=INK["light"], linestyle=":", linewidth=1.2)
    points = [point for line in series.values() for point in line]
    ends = [*real, *(point.value - _bar(point, within)[0] for point in points)]
    if min(ends) > 0 and max(point.value for point in points) > 20 * min(point.value for point in points):
        _logarithmic(axes)
    _bounded(axes, within)
    axes.set_xlabel("network calls")
    return Chart(_svg(figure), [*keys, *([Key("real data", marker="┄")] if real else [])])


def _line(axes: Any, i: int, name: str, points: Sequence[Point], within: tuple[float | None, float | None]) -> Key:
    colour, (marker, like) = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
    points = sorted(points, key=lambda point: point.calls)
    bars = list(zip(*(_bar(point, within) for point in points), strict=True))
    calls, values = [point.calls for point in points], [point.value for point in points]
    axes.errorbar(calls, values, yerr=bars, color=colour, marker=marker, markersize=5, capsize=2, clip_on=False)
    return Key(name, colour, like)


def _bar(point: Point, within: tuple[float | None, float | None]) -> tuple[float, float]:
    """How far a bar goes down and up: a spread, but not beyond the bounds."""
    low, high = within
    down = point.spread if low is None else min(point.spread, max(0.0, point.value - low))
    return down, point.spread if high is None else min(point.spread, max(0.0, high - point.value))


def _bounded(axes: Any, within: tuple[float | None, float | None]) -> None:
    (low, high), (least, greatest) = axes.get_ylim(), within
    axes.set_ylim(low if least is None else max(low, least), high if greatest is None else min(high, greatest))


def _logarithmic(axes: Any) -> None:
    """Powers of ten in plain figures."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def losses(series: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> Chart:
    """Losses against training steps: pale what was logged, above it the average."""
    figure, axes = new_figure(7, 3)
    keys: list[Key] = []
    for i, (name, (steps, values)) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(steps, values, linewidth=0.6, alpha=0.4, color=colour)
        axes.plot(*smooth(steps, values), linewidth=1.8, color=colour, marker="o" if len(steps) == 1 else "")
        keys.append(Key(name, colour, "━"))
    positive = [value for _, values in series.values() for value in values if value > 0]
    if len(positive) == sum(len(values) for _, values in series.values()) and max(positive) > 20 * min(positive):
        _logarithmic(axes)
    axes.set(xlabel="training step", ylabel="loss")
    return Chart(_svg(figure), keys)


def smooth(steps: Sequence[int], values: Sequence[float], share: float = 0.1, count: int = 200) -> tuple[Any, Any]:
    """Steps and the average of a noisy series there: at step s a straight line through the values within about `share` s of
    it, either way, weighted by a bell.

    A line that is fitted, unlike a running average, does not lag behind a series that falls, and has no bias at the ends.
    """
    import numpy as np

    s, v = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    at = s[np.unique(np.linspace(0, len(s) - 1, count).round().astype(int))]
    gap = float(np.median(np.diff(s))) if len(s) > 1 else 1.0
    d = s[None] - at[:, None]
    w = np.exp(-0.5 * (d / np.maximum(share * at, gap)[:, None]) ** 2)
    s0, s1, s2, t0, t1 = w.sum(1), (w * d).sum(1), (w * d * d).sum(1), w @ v, (w * d) @ v
    area = s0 * s2 - s1**2
    fitted = np.where(area > 1e-9 * s0 * s2, (s2 * t0 - s1 * t1) / np.where(area > 0, area, 1), t0 / s0)
    return at, np.clip(fitted, v.min(), v.max())


def _svg(figure: Any) -> str:
    """The address of a figure whose background is the page's and whose ink follows light and dark mode."""
    import matplotlib

    for axes in figure.axes:
        _ink(axes)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "diffcore"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    style = f"<style>svg{{--ink:{INK['light']}}}@media(prefers-color-scheme:dark){{svg{{--ink:{INK['dark']}}}}}</style>"
    text = buffer.getvalue().replace(INK["light"], "var(--ink)").replace("<defs>", style + "<defs>", 1)
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def _ink(axes: Any) -> None:
    """Axes in ink, with a faint grid."""
    ink = INK["light"]
    axes.tick_params(which="both", colors=ink)
    axes.grid(visible=True, color=ink, alpha=0.12, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    for part in (*axes.spines.values(), axes.xaxis.label, axes.yaxis.label):
        part.set_color(ink)

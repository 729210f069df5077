"""The pictures and texts of a run: its samples, real data, how solvers differ, samples on their way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from torch import Tensor

from diffcore.numerics.tree import State
from diffcore.run import checkpoint
from diffcore.run.measuring import reference
from diffcore.run.report import ways
from diffcore.run.report.escaping import file_name
from diffcore.run.report.exports import columns, heads_of, labels_of, span
from diffcore.run.report.pictures import apart, as_images, difference, has_picture, picture, swing

if TYPE_CHECKING:
    from diffcore.learning.data import Range
    from diffcore.run.pipeline import Pipeline
    from diffcore.run.samples import Samples

ROWS = 4
"""Rows of images in a picture of a run."""


@attrs.frozen
class Shown:
    """The samples that a picture shows, in the range of the data, and their classes."""

    raw: State
    labels: Sequence[int] = ()


def first(made: Samples) -> Shown:
    """As many samples as a report shows at once: a few rows of images, or all points."""
    raw = _some(made.pipeline, made.raw())
    return Shown(raw, labels_of(made.cond)[: len(raw)] if isinstance(raw, Tensor) else ())


def _some(pipeline: Pipeline, raw: State) -> State:
    return raw[: ROWS * columns(pipeline)] if as_images(raw) is not None else raw


def real(pipeline: Pipeline) -> State:
    """As many real samples as the spec makes, in the data's range."""
    found, declared = reference(pipeline, pipeline.spec.sampling.n)[0], pipeline.spec.data.value_range
    return found if declared is None else declared.to_raw(found)


def draw(pipeline: Pipeline, shown: Shown, path: Path, within: Range | None = None) -> None:
    """A PNG of samples, where there is a picture of them."""
    if has_picture(shown.raw):
        made = picture(shown.raw, within or span(pipeline, shown.raw), columns(pipeline), heads_of(pipeline, shown.labels))
        checkpoint.write_aside(path, made)


def draw_real(pipeline: Pipeline, folder: Path) -> None:
    """`reference.png` or `reference.txt`: real data beside the samples."""
    found = real(pipeline)
    draw(pipeline, Shown(_some(pipeline, found)), folder / "reference.png")
    write_texts(pipeline, found, folder / "reference.txt")


def write_texts(pipeline: Pipeline, raw: State, path: Path) -> None:
    """A text file of samples that are text, one line each."""
    texts = pipeline.spec.data.texts(raw)
    if texts is not None:
        checkpoint.write_aside(path, "".join(f"{text}\n" for text in texts).encode())


def name_pictures(pipeline: Pipeline, rows: Sequence[dict[str, Any]], shown: Sequence[Shown]) -> None:
    """Give every row of a table its `picture` (empty where there is none; `plot`: not of pixels), and all but the first their
    `difference` from the samples of the first, which came from the same noise: its size, a sentence, a picture."""
    main = shown[0].raw
    pictured = has_picture(main)
    within = span(pipeline, main) if pictured else None
    for row, one in zip(rows, shown, strict=True):
        name = f"samples/{file_name(row['label'])}-{row['steps']}-steps"
        row["picture"], row["difference"] = f"{name}.png" if pictured else "", None
        row["plot"] = pictured and as_images(main) is None
        if within is not None and one is not shown[0]:
            size = apart(one.raw, main, within)
            row["difference"] = {"size": size, "text": _said(size, main), "picture": f"{name}-difference.png" if size else ""}


def _said(size: float, main: Tensor) -> str:
    if not size:
        return "equal to the main samples"
    if not main.is_floating_point():
        return f"{100 * size:.2g} % of the entries differ from the main samples"
    return f"differs from the main samples by {100 * size:.2g} % of the range (rms)"


def draw_rows(pipeline: Pipeline, rows: Sequence[dict[str, Any]], shown: Sequence[Shown], folder: Path) -> None:
    """The pictures that `name_pictures` named; the differences of all rows at one scale."""
    main, drawn = shown[0].raw, [(row, one) for row, one in zip(rows, shown, strict=True) if row["picture"]]
    within = span(pipeline, main) if drawn else None
    full = max((swing(one.raw, main, within) for _, one in drawn[1:]), default=0.0) if within else 0.0
    for row, one in drawn:
        draw(pipeline, one, folder / row["picture"], within)
        if within and row["difference"] and row["difference"]["picture"]:
            made = difference(one.raw, main, within, columns(pipeline), full)
            checkpoint.write_aside(folder / row["difference"]["picture"], made)


def draw_way(pipeline: Pipeline, folder: Path) -> None:
    """`trajectory.png`, states of images and signals along the main solver's run, or `paths.png` of points."""
    count = 200 if len(pipeline.source.shape) == 1 else 10
    frames = pipeline.sample_ids(range(count), 0, pipeline.usual_conditions(count), keep_frames=True).frames
    if ways.have_picture(frames):
        checkpoint.write_aside(folder / f"{ways.name(frames)}.png", ways.picture(frames))

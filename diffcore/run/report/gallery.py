"""How samples are shown, and the pictures and texts of a run: its samples, real data, how solvers differ, the way of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from torch import Tensor

from diffcore.declare.errors import DataError
from diffcore.learning.data import Range
from diffcore.numerics.tree import State
from diffcore.run import checkpoint
from diffcore.run.measuring import reference
from diffcore.run.report import ways
from diffcore.run.report.escaping import file_name
from diffcore.run.report.pictures import apart, as_images, difference, has_picture, opaque, picture, swing

if TYPE_CHECKING:
    from diffcore.run.pipeline import Pipeline
    from diffcore.run.samples import Samples

ROWS = 4
"""Rows of images in a picture of a run."""
HEADS = 20
"""Most columns that stand for classes."""


# --- how samples are shown ---------------------------------------------------------------------------------------------


@attrs.frozen
class Shown:
    """The samples that a picture shows, in the range of the data, and their classes."""

    raw: State
    labels: Sequence[int] = ()


def first(made: Samples) -> Shown:
    """As many samples as are shown at once: a few rows of images, or all points."""
    raw = _some(made.pipeline, visible(made.pipeline, made.raw()))
    return Shown(raw, labels_of(made.cond)[: len(raw)] if isinstance(raw, Tensor) else ())


def _some(pipeline: Pipeline, raw: State) -> State:
    return raw[: ROWS * columns(pipeline)] if as_images(raw) is not None else raw


def visible(pipeline: Pipeline, raw: State) -> State:
    """Samples as they are looked at: images with opacity over white, all others as they are."""
    data = pipeline.spec.data
    return opaque(raw, data.value_range) if data.has_opacity and isinstance(data.value_range, Range) else raw


def drawn(pipeline: Pipeline, shown: Shown, within: Range | None = None) -> bytes:
    """A PNG of samples that have a picture; within: the values it shows, else those of `span`."""
    return picture(shown.raw, within or span(pipeline, shown.raw), columns(pipeline), heads_of(pipeline, shown.labels))


def columns(pipeline: Pipeline) -> int:
    """Columns of a grid of samples, so that all of a column are of one class where classes are cycled."""
    count = next(iter(pipeline.source.classes.values())) if len(pipeline.source.classes) == 1 else 0
    return count * max(1, 10 // count) if 0 < count <= HEADS else 10


def class_name(pipeline: Pipeline, condition: str, number: int) -> str:
    """The name of a class, else `label-3`; of the class that stands for none, `label-none`."""
    names = pipeline.spec.data.class_names if condition == "label" else ()
    if number == pipeline.source.classes.get(condition):
        return f"{condition}-none"
    return names[number] if number < len(names) else f"{condition}-{number}"


def heads_of(pipeline: Pipeline, labels: Sequence[int]) -> list[str]:
    """What stands above the columns of a grid: the class of each column that holds one class only."""
    across, condition = columns(pipeline), next(iter(pipeline.source.classes), "")
    found = [set(labels[i::across]) for i in range(min(across, len(labels)))]
    return [class_name(pipeline, condition, *held) if len(held) == 1 else "" for held in found]


def labels_of(cond: Mapping[str, Tensor]) -> list[int]:
    """The classes of samples under one condition; none where there are several conditions, or none."""
    return next(iter(cond.values())).tolist() if len(cond) == 1 and all(map(is_class, cond.values())) else []


def is_class(value: Tensor) -> bool:
    """Whether the rows of a condition are classes."""
    return value.ndim == 1 and not value.is_floating_point()


def span(pipeline: Pipeline, raw: Tensor) -> Range:
    """The values that pictures show: the declared range, else what real data spans, so that no outlier sets the axes, and
    what the samples span where the data is not there."""
    declared = pipeline.spec.data.value_range
    if isinstance(declared, Range):
        return declared
    try:
        real = reference(pipeline, 1000)[0]
    except DataError:
        real = raw
    lo, hi = float(real.min()), float(real.max())
    margin = 0.05 * (hi - lo) or 1.0
    return Range(lo=lo - margin, hi=hi + margin)


# --- the pictures of a run ---------------------------------------------------------------------------------------------


def real(pipeline: Pipeline) -> State:
    """As many real samples as a picture of samples shows, in the data's range."""
    spec = pipeline.spec
    count = max(spec.sampling.n, spec.evaluation.n if spec.metrics else 0)
    return spec.data.to_raw(reference(pipeline, count)[0])


def draw(pipeline: Pipeline, shown: Shown, path: Path, within: Range | None = None) -> None:
    """A PNG of samples, where there is a picture of them."""
    if has_picture(shown.raw):
        checkpoint.write_aside(path, drawn(pipeline, shown, within))


def draw_real(pipeline: Pipeline, folder: Path) -> None:
    """`reference.png` or `reference.txt`: real data beside the samples."""
    found = real(pipeline)
    draw(pipeline, Shown(_some(pipeline, visible(pipeline, found))), folder / "reference.png")
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
    main, pictured = shown[0].raw, [(row, one) for row, one in zip(rows, shown, strict=True) if row["picture"]]
    within = span(pipeline, main) if pictured else None
    full = max((swing(one.raw, main, within) for _, one in pictured[1:]), default=0.0) if within else 0.0
    for row, one in pictured:
        draw(pipeline, one, folder / row["picture"], within)
        if within and row["difference"] and row["difference"]["picture"]:
            made = difference(one.raw, main, within, columns(pipeline), full)
            checkpoint.write_aside(folder / row["difference"]["picture"], made)


def draw_way(pipeline: Pipeline, folder: Path) -> None:
    """`trajectory.png`, states of images and signals along the main solver's run, or `paths.png` of points."""
    count, group = 200 if len(pipeline.source.event.shape) == 1 else 10, pipeline.group_of(None, 0)
    count = -(-count // group) * group
    frames = pipeline.sample_ids(range(count), 0, pipeline.usual_conditions(count), keep_frames=True).frames
    if ways.have_picture(frames):
        checkpoint.write_aside(folder / f"{ways.name(frames)}.png", ways.picture(frames))

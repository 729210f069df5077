"""Pipelines and samples as a notebook shows them: small HTML that needs nothing else."""

from __future__ import annotations

import base64
import importlib.util
import io
import sys
from html import escape
from typing import TYPE_CHECKING, Any

from diffcore.declare.component import Base
from diffcore.declare.errors import DiffcoreError
from diffcore.numerics.fields import count_parameters
from diffcore.run.fitting import label
from diffcore.run.report.escaping import terminal
from diffcore.run.report.gallery import drawn, first
from diffcore.run.report.pictures import has_picture

if TYPE_CHECKING:
    from diffcore.run.pipeline import Pipeline
    from diffcore.run.samples import Samples

TEXTS = 12
"""Lines shown of samples that are text."""


def html(made: Samples) -> str:
    """Samples as a picture or lines of text, with what they cost; where they are neither, what they are."""
    about, texts = escape(repr(made)), made.pipeline.spec.data.texts(made.raw())
    if texts is not None:
        return f"<pre>{escape(chr(10).join(texts[:TEXTS]))}</pre><div>{about}</div>"
    data = _png(made)
    shown = f'<img alt="samples" style="max-width: 100%" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
    return f"{shown}<div>{about}</div>" if data else f"<pre>{about}</pre>"


def show(made: Samples) -> None:
    """Show samples: in a notebook beneath the cell, else in the system's viewer of pictures, or as text."""
    kernel: Any = sys.modules.get("IPython")
    texts, data = made.pipeline.spec.data.texts(made.raw()), _png(made)
    if kernel is not None and kernel.get_ipython() is not None:
        kernel.display.display(made)
    elif texts is None and data:
        from PIL import Image

        Image.open(io.BytesIO(data)).show()
    else:
        print("\n".join(map(terminal, texts[:TEXTS])) if texts else repr(made))


def _png(made: Samples) -> bytes:
    """The picture of the first samples; empty where they have none, or nothing to draw it with is installed."""
    shown = first(made)
    if not has_picture(shown.raw) or importlib.util.find_spec("matplotlib") is None or importlib.util.find_spec("PIL") is None:
        return b""
    return drawn(made.pipeline, shown)


def parts_of(pipeline: Pipeline) -> list[tuple[str, str]]:
    """The parts of a pipeline by section: what they are, and how large."""
    spec, classes = pipeline.spec, pipeline.source.classes
    under = "".join(f", {count} classes of {name}" for name, count in classes.items())
    found = [
        ("data", f"{_label(pipeline, spec.data)}: {pipeline.source.event}{under}"),
        ("process", _label(pipeline, spec.process)),
        ("network", f"{_label(pipeline, spec.network)}: {count_parameters(pipeline.net):,} weights"),
        ("prediction", spec.prediction),
        ("loss", _label(pipeline, spec.loss)),
        ("guidance", " + ".join(_label(pipeline, part) for part in spec.guidance)),
        ("solver", f"{_label(pipeline, spec.solver)}: {spec.solver.steps} steps"),
        ("device", str(pipeline.device)),
    ]
    return [(section, text) for section, text in found if text]


def _label(pipeline: Pipeline, part: Base) -> str:
    try:
        found = label(pipeline.registry, part)
    except DiffcoreError:  # a component of the user's own that no plugin offers
        found = type(part).__name__
    return terminal(found if len(found) <= 80 else found[:77] + "...")


def in_a_line(pipeline: Pipeline) -> str:
    """A pipeline by its name and its parts."""
    return f"Pipeline({terminal(pipeline.spec.name)}: {'; '.join(f'{section} {text}' for section, text in parts_of(pipeline))})"


def table_of_parts(pipeline: Pipeline) -> str:
    """The parts of a pipeline as an HTML table."""
    rows = "".join(f"<tr><th>{escape(section)}</th><td>{escape(text)}</td></tr>" for section, text in parts_of(pipeline))
    return f"<table><caption>{escape(pipeline.spec.name)}</caption>{rows}</table>"

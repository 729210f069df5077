"""`report.html`: one self-contained page about one or several runs, made from their directories alone."""

from __future__ import annotations

import base64
import difflib
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from diffcore.declare.errors import CheckpointError
from diffcore.run.record import read_lock, read_metrics, read_rows, read_text
from diffcore.run.report import charts
from diffcore.run.report.canvas import require_packages
from diffcore.run.report.charts import Chart, Point
from diffcore.run.report.escaping import block, terminal

TEXTS = 24
"""Lines of text shown of samples that are text."""
LARGEST = 8 * 2**20
"""Bytes of the largest picture that a page takes in."""
PICTURES = ("reference", "samples", "trajectory", "paths")


@attrs.frozen(kw_only=True)
class Shown:
    """One run as the template sees it."""

    name: str
    rows: list[dict[str, Any]]
    trained: str
    spec: str
    changed: str
    lock: dict[str, Any]
    losses: list[dict[str, Any]]
    reference: str
    samples: str
    trajectory: str
    paths: str
    texts: dict[str, str]

    @property
    def main(self) -> str:
        """The picture of the samples that all others are compared with: those of the first row."""
        return self.rows[0]["image"] or self.samples

    @property
    def plotted(self) -> bool:
        """Whether its pictures are plots, and not pixels."""
        return bool(self.rows[0].get("plot"))

    @property
    def others(self) -> list[dict[str, Any]]:
        """The rows that are shown by how they differ from the first."""
        return [row for row in self.rows[1:] if row.get("difference")]

    @property
    def word(self) -> str:
        """The name as a word of a command."""
        return shlex.quote(self.name)

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        """Of every metric that has a direction: its name, and in a sentence the best row and how it stands to real data."""
        return [(name, verdict(self.rows, name)) for name in metric_names([self]) if _better(self.rows, name)]


def build(folders: Mapping[str, Path]) -> str:
    """The page about run directories by the names they are shown under.

    Raises `PluginError` where the extra `diffcore[report]` is missing, `CheckpointError` for an unfinished or damaged run.
    """
    require_packages()
    import jinja2

    runs = [_read(name, folder) for name, folder in folders.items()]
    here = Path(__file__).parent
    template, style = ((here / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html.j2", "css"))
    environment = jinja2.Environment(
        autoescape=True, finalize=_plain, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    metrics = metric_names(runs)
    return environment.from_string(template).render(
        title=" and ".join(run.name for run in runs),
        runs=runs,
        metrics=metrics,
        style=style,
        loss=_losses(runs),
        charts=[(name, _better_of(runs, name), chart) for name in metrics if (chart := _quality(runs, name))],
    )


def _plain(value: Any) -> Any:
    """A text of the user's without characters that move others; markup of the page's own stays."""
    return block(value) if type(value) is str else value


# --- what a directory holds -------------------------------------------------------------------------------------------


def inside(folder: Path, name: str) -> Path:
    """A file of a run directory by its name there. Raises `CheckpointError` where the name, or a link, leads out of it: the
    directory may be somebody else's, and nothing but its own files goes into a page."""
    path = folder / name
    try:
        real = path.resolve()
        sound = not Path(name).is_absolute() and ".." not in Path(name).parts and real.is_relative_to(folder.resolve())
        sound = sound and (path.is_file() or not path.exists())
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, or links in a circle
        sound = False
    if not sound:
        raise _bad(folder, f"{name!r} is no file within that directory")
    return path


def _bad(folder: Path, cause: str) -> CheckpointError:
    where = terminal(str(folder))
    return CheckpointError(f"the run {where} is damaged: {cause}; write its report again: diffcore evaluate {where}")


def inline_file(folder: Path, name: str) -> str:
    """A PNG file of a run directory as a data address; empty where there is none.

    Raises `CheckpointError` for a file outside of it, one that is no PNG, and one that is too large for a page.
    """
    if not name or not (path := inside(folder, name)).exists():
        return ""
    if path.stat().st_size > LARGEST:
        raise _bad(folder, f"{name!r} is larger than the {LARGEST // 2**20} MiB that fit a page")
    data = path.read_bytes()
    if not _is_png(data):
        raise _bad(folder, f"{name!r} is damaged or no PNG picture")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _is_png(data: bytes) -> bool:
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.verify()
    except Exception:  # whatever a decoder says of damaged bytes
        return False
    return True


def _read(name: str, folder: Path) -> Shown:
    rows = read_rows(inside(folder, "evaluation.json").parent)
    for row in rows:
        row["image"], row["ran"] = inline_file(folder, str(row.get("picture") or "")), row.get("ran", "")
        row["difference"] = _difference(folder, row.get("difference"))
    spec = read_text(inside(folder, "spec.yaml"))
    measured = read_text(inside(folder, "evaluation.yaml"), f"run: diffcore evaluate {folder}")
    changes = difflib.unified_diff(spec.splitlines(), measured.splitlines(), "spec.yaml", "evaluation.yaml", n=2, lineterm="")
    return Shown(
        name=name,
        rows=rows,
        trained=trained(spec, str(folder / "spec.yaml")),
        spec=spec,
        changed="\n".join(changes),
        lock=read_lock(inside(folder, "lock.json").parent),
        losses=read_metrics(inside(folder, "metrics.jsonl")),
        texts={kind: text for kind in ("samples", "reference") if (text := _first_lines(folder, f"samples/{kind}.txt"))},
        **{kind: inline_file(folder, f"samples/{kind}.png") for kind in PICTURES},
    )


def _difference(folder: Path, found: Any) -> dict[str, str] | None:
    """The sentence and the picture that say how the samples of a row differ from the first."""
    if not isinstance(found, Mapping):
        return None
    return {"text": str(found.get("text", "")), "image": inline_file(folder, str(found.get("picture") or ""))}


def _first_lines(folder: Path, name: str) -> str:
    """The first lines of a text, long ones cut; empty where there is none."""
    path = inside(folder, name)
    if not path.exists():
        return ""
    with path.open("rb") as file:
        held = file.read(2**16).decode(errors="replace")
    return "\n".join(held.splitlines()[:TEXTS])


def trained(spec: str, name: str) -> str:
    """What was trained, from the text of a spec: `unet on mnist-5k, process flow, 1600 steps of denoising`."""
    from diffcore.specs.reader import parse

    root = parse(spec, name)

    def part(section: str, field: str = "type") -> str:
        found = root.children.get(section)
        return str(found.child(field)) if found else "?"

    steps = part("trainer", "steps")
    work = "no training" if steps == "0" else f"{steps} steps of {part('loss')}"
    return f"{part('network')} on {part('data')}, process {part('process')}, {work}"


# --- what the numbers say ---------------------------------------------------------------------------------------------


def metric_names(runs: Sequence[Shown]) -> list[str]:
    """The metrics of all rows, each once."""
    return list(dict.fromkeys(name for run in runs for row in run.rows for name in row["metrics"]))


def _measured(rows: Sequence[Mapping[str, Any]], name: str) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(row, what was measured) of one metric, where it is a finite number."""
    for row in rows:
        found = row["metrics"].get(name)
        if found and math.isfinite(found["value"]):
            yield row, found


def _better(rows: Sequence[Mapping[str, Any]], name: str) -> Literal["lower", "higher", ""]:
    return next((found["better"] for _, found in _measured(rows, name)), "")


def _better_of(runs: Sequence[Shown], name: str) -> str:
    return next((found for run in runs if (found := _better(run.rows, name))), "")


def verdict(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """The best row of a metric and how it stands to real data, in a sentence; the fewest calls among equals."""
    sign = 1 if _better(rows, name) == "lower" else -1
    row, found = min(_measured(rows, name), key=lambda pair: (sign * pair[1]["value"], pair[0]["calls"]))
    return f"best is {row['label']} in {_count(row['calls'], 'call')}: {found['value']:.3g}{_against_real(found)}"


def _against_real(found: Mapping[str, Any]) -> str:
    """How a value stands to the floor, by the direction of its metric."""
    value, floor, higher = found["value"], found["floor"], found["better"] == "higher"
    if floor is None:
        return ""
    behind = floor - value if higher else value - floor
    if behind <= 0:
        return f"; not distinguishable from real data ({floor:.3g}) at {found['n']} samples"
    if behind <= (found["spread"] or 0.0):
        return f"; within one spread of real data ({floor:.3g})"
    if higher or floor <= 0:
        return f"; distinguishable from real data, which {'reach' if higher else 'have'} {floor:.3g}"
    return f"; distinguishable from real data: {value / floor:.2g} times their {floor:.3g}"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


def budgets(runs: Sequence[Shown], name: str) -> dict[str, list[tuple[float, Mapping[str, Any]]]]:
    """Label of the solver -> [(calls, measured)] of one metric, over the rows made for a budget."""
    series: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for run in runs:
        for row, found in _measured(run.rows, name):
            if row["budget"] is not None:
                label = row["label"] if len(runs) == 1 else f"{run.name}: {row['label']}"
                series.setdefault(label, []).append((row["calls"], found))
    return series


def _quality(runs: Sequence[Shown], name: str) -> Chart | None:
    series = budgets(runs, name)
    measured = [found for points in series.values() for _, found in points]
    if not measured:
        return None
    low, high = measured[0].get("within") or (None, None)
    points = {
        label: [Point(calls, found["value"], found["spread"] or 0.0) for calls, found in line] for label, line in series.items()
    }
    return charts.quality(points, sorted({found["floor"] for found in measured if found["floor"] is not None}), (low, high))


def _losses(runs: Sequence[Shown]) -> Chart | None:
    series: dict[str, tuple[list[int], list[float]]] = {}
    for run in runs:
        for key in sorted({key for row in run.losses for key in row if key.startswith("loss")}):
            rows = [row for row in run.losses if isinstance(row.get(key), (int, float)) and math.isfinite(row[key])]
            if rows:
                label = key if len(runs) == 1 else f"{run.name}: {key}"
                series[label] = [row["step"] for row in rows], [float(row[key]) for row in rows]
    return charts.losses(series) if series else None

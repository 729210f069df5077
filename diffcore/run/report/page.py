"""`report.html`: one self-contained page about one or several runs, made from their directories alone."""

from __future__ import annotations

import base64
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from diffcore.declare.errors import counted
from diffcore.run.record import damaged, inside, measure_again, read_lock, read_metrics, read_rows, read_text
from diffcore.run.report import charts
from diffcore.run.report.canvas import require_packages
from diffcore.run.report.charts import Chart, Point
from diffcore.run.report.escaping import block, word

TEXTS = 24
"""Lines of text shown of samples that are text."""
LARGEST = 8 * 2**20
"""Bytes of the largest picture that a page takes in."""
PICTURES = ("reference", "trajectory", "paths")


@attrs.frozen(kw_only=True)
class Shown:
    """One run as the template sees it. `main`: the picture of the samples that all others are compared with, those of the first
    row; all pictures are data addresses, or empty."""

    name: str
    rows: list[dict[str, Any]]
    trained: str
    spec: str
    changed: str
    lock: dict[str, Any]
    losses: list[dict[str, Any]]
    main: str
    reference: str
    trajectory: str
    paths: str
    texts: dict[str, str]

    @property
    def plotted(self) -> bool:
        """Whether its pictures are plots, and not pixels."""
        return self.rows[0]["plot"]

    @property
    def others(self) -> list[dict[str, Any]]:
        """The rows that are shown by how they differ from the first."""
        return [row for row in self.rows[1:] if row["difference"]]

    @property
    def word(self) -> str:
        """The name as a word of a command."""
        return word(self.name)

    @property
    def meanings(self) -> list[tuple[str, str]]:
        """Of every metric its name, and in a sentence which way is good, what it was computed against, what it can be."""
        return [(name, _meaning(found)) for name, found in self.rows[0]["metrics"].items()]

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
        counted=counted,
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


def inline_file(folder: Path, name: str) -> str:
    """A PNG file of a run directory as a data address; empty where there is none.

    Raises `CheckpointError` for a file outside of it, one that is no PNG, and one that is too large for a page.
    """
    if not name or not (path := inside(folder, name, measure_again(folder))).exists():
        return ""
    if path.stat().st_size > LARGEST:
        raise damaged(folder, f"{name!r} is larger than the {LARGEST // 2**20} MiB that fit a page", measure_again(folder))
    data = path.read_bytes()
    if not _is_png(data):
        raise damaged(folder, f"{name!r} is damaged or no PNG picture", measure_again(folder))
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
    rows = read_rows(folder)
    for row in rows:
        row["ran"], row["plot"], row["difference"] = row.get("ran", ""), row.get("plot", False), row.get("difference")
        if row["difference"]:
            row["difference"] = {**row["difference"], "image": inline_file(folder, row["difference"]["picture"])}
    spec, measured = read_text(folder / "spec.yaml"), read_text(folder / "evaluation.yaml", measure_again(folder))
    changes = difflib.unified_diff(spec.splitlines(), measured.splitlines(), "spec.yaml", "evaluation.yaml", n=2, lineterm="")
    return Shown(
        name=name,
        rows=rows,
        trained=trained(spec, str(folder / "spec.yaml")),
        spec=spec,
        changed="\n".join(changes),
        lock=read_lock(folder),
        losses=read_metrics(folder / "metrics.jsonl"),
        main=inline_file(folder, rows[0].get("picture", "")) or inline_file(folder, "samples/samples.png"),
        texts={kind: text for kind in ("samples", "reference") if (text := _first_lines(folder, f"samples/{kind}.txt"))},
        **{kind: inline_file(folder, f"samples/{kind}.png") for kind in PICTURES},
    )


def _first_lines(folder: Path, name: str) -> str:
    """The first lines of a text, long ones cut; empty where there is none."""
    path = inside(folder, name, measure_again(folder))
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
    work = "no training" if steps == "0" else f"{steps} step{'s' if steps != '1' else ''} of {part('loss')}"
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


def _meaning(found: Mapping[str, Any]) -> str:
    low, high = found.get("within") or (None, None)
    said = [f"{found['better']} is better"] if found["better"] else []
    said += [f"against {found['against']}"] if found["against"] else []
    said += [f"at {end} {bound:.4g}" for end, bound in (("least", low), ("most", high)) if bound is not None]
    return ", ".join(said)


def _better(rows: Sequence[Mapping[str, Any]], name: str) -> Literal["lower", "higher", ""]:
    return next((found["better"] for _, found in _measured(rows, name)), "")


def _better_of(runs: Sequence[Shown], name: str) -> str:
    return next((found for run in runs if (found := _better(run.rows, name))), "")


def verdict(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """The best row of a metric and how it stands to real data, in a sentence; the fewest calls among equals."""
    sign, all_found = 1 if _better(rows, name) == "lower" else -1, list(_measured(rows, name))
    row, found = min(all_found, key=lambda pair: (sign * pair[1]["value"], pair[0]["calls"]))
    if len(all_found) == len(rows) > 1 and _is_constant([other for _, other in all_found]):
        return f"{found['value']:.3g} whatever the solver{_against_real(found)}"
    return f"best is {row['label']} in {counted(row['calls'], 'call')}: {found['value']:.3g}{_against_real(found)}"


def _is_constant(measured: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a metric is the same everywhere: it is about the model, and not about samples."""
    return len(measured) > 1 and len({found["value"] for found in measured}) == 1


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
    """The chart of a metric; None where it does not depend on calls."""
    series = budgets(runs, name)
    measured = [found for points in series.values() for _, found in points]
    if not measured or _is_constant(measured):
        return None
    lows, highs = zip(*(found.get("within") or (None, None) for found in measured), strict=True)
    within = None if None in lows else min(lows), None if None in highs else max(highs)
    points = {
        label: [Point(calls, found["value"], found["spread"] or 0.0) for calls, found in line] for label, line in series.items()
    }
    return charts.quality(points, sorted({found["floor"] for found in measured if found["floor"] is not None}), within)


def _losses(runs: Sequence[Shown]) -> Chart | None:
    series: dict[str, tuple[list[int], list[float]]] = {}
    for run in runs:
        for key in sorted({key for row in run.losses for key in row if key.startswith("loss")}):
            rows = [row for row in run.losses if isinstance(row.get(key), (int, float)) and math.isfinite(row[key])]
            if rows:
                label = key if len(runs) == 1 else f"{run.name}: {key}"
                series[label] = [row["step"] for row in rows], [float(row[key]) for row in rows]
    return charts.losses(series) if series else None

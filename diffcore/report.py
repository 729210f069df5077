"""`report.html`: one self-contained page about one or several runs, made from their directories alone."""

from __future__ import annotations

import base64
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from diffcore.pictures import new_figure, png, require_packages
from diffcore.record import inside, read_lock, read_metrics, read_rows, read_text

TEXTS = 24
"""Lines of text shown of samples that are text."""


@attrs.frozen(kw_only=True)
class Shown:
    """One run as the template sees it."""

    name: str
    rows: list[dict[str, Any]]
    spec: str
    changed: str
    lock: dict[str, Any]
    losses: list[dict[str, Any]]
    reference: str
    samples: str
    trajectory: str
    paths: str
    texts: dict[str, str]


def build(folders: Mapping[str, Path]) -> str:
    """The page about run directories by the names they are shown under.

    Raises `PluginError` where the extra `diffcore[report]` is missing, `CheckpointError` for an unfinished or damaged run.
    """
    require_packages()
    import jinja2

    runs = [_read(name, folder) for name, folder in folders.items()]
    template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    metrics = _metric_names(runs)
    return environment.from_string(template).render(
        title=" and ".join(run.name for run in runs),
        runs=runs,
        metrics=metrics,
        loss=inline(_loss_curve(runs)) if any(run.losses for run in runs) else "",
        charts=[(name, inline(_quality(runs, name))) for name in metrics if _budgets(runs, name)],
    )


def _read(name: str, folder: Path) -> Shown:
    rows = read_rows(folder)
    for row in rows:
        picture = inside(folder, row.get("picture", ""))
        row["image"] = inline_file(picture) if picture else ""
    spec, measured = read_text(folder / "spec.yaml"), read_text(folder / "evaluation.yaml", f"run: diffcore evaluate {folder}")
    lines = difflib.unified_diff(spec.splitlines(), measured.splitlines(), "spec.yaml", "evaluation.yaml", n=2, lineterm="")
    pictures = {kind: inline_file(folder / "samples" / f"{kind}.png") for kind in ("reference", "samples", "trajectory", "paths")}
    files = {kind: folder / "samples" / f"{kind}.txt" for kind in ("samples", "reference")}
    return Shown(
        name=name,
        rows=rows,
        spec=spec,
        changed="\n".join(lines),
        lock=read_lock(folder),
        losses=read_metrics(folder / "metrics.jsonl"),
        texts={kind: "\n".join(read_text(file).splitlines()[:TEXTS]) for kind, file in files.items() if file.exists()},
        **pictures,
    )


def inline(data: bytes) -> str:
    """PNG bytes as a data address."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def inline_file(path: Path) -> str:
    """A PNG file as a data address; empty where there is none."""
    return inline(path.read_bytes()) if path.exists() else ""


def _metric_names(runs: Sequence[Shown]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for row in run.rows for name in row["metrics"]))


def _loss_curve(runs: Sequence[Shown]) -> bytes:
    figure, axes = new_figure(6, 3)
    for run in runs:
        keys = sorted({k for row in run.losses for k in row if k.startswith("loss")})
        for key in keys:
            steps = [row["step"] for row in run.losses if key in row]
            values = [row[key] for row in run.losses if key in row]
            axes.plot(steps, values, linewidth=0.5, alpha=0.4)
            axes.plot(steps, _smooth(values), linewidth=1.5, label=f"{run.name} {key}")
    axes.set_xlabel("training step")
    axes.set_ylabel("loss")
    axes.legend(fontsize=8)
    return png(figure)


def _smooth(values: Sequence[float], weight: float = 0.9) -> list[float]:
    smoothed: list[float] = []
    for value in values:
        smoothed.append(weight * smoothed[-1] + (1 - weight) * value if smoothed else value)
    return smoothed


def _budgets(runs: Sequence[Shown], name: str) -> dict[str, list[tuple[float, Mapping[str, Any]]]]:
    """Label of the solver -> [(calls, measured)] of one metric, over the rows made for a budget."""
    series: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for run in runs:
        for row in run.rows:
            if row["budget"] is not None and name in row["metrics"]:
                label = row["label"] if len(runs) == 1 else f"{run.name}: {row['label']}"
                series.setdefault(label, []).append((row["calls"], row["metrics"][name]))
    return series


def _quality(runs: Sequence[Shown], name: str) -> bytes:
    figure, axes = new_figure(5, 3.2)
    series = _budgets(runs, name)
    floors = [m["floor"] for points in series.values() for _, m in points if m["floor"] is not None]
    for label, points in series.items():
        points = sorted(points, key=lambda p: p[0])
        calls, values = [p[0] for p in points], [p[1]["value"] for p in points]
        axes.errorbar(calls, values, yerr=[p[1]["spread"] or 0.0 for p in points], marker="o", capsize=2, label=label)
    if floors:
        axes.axhline(sum(floors) / len(floors), color="0.4", linestyle=":", label="floor: real against real")
    values = [m["value"] for points in series.values() for _, m in points]
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    axes.set_xlabel("network calls")
    axes.set_ylabel(name)
    axes.legend(fontsize=7)
    return png(figure)

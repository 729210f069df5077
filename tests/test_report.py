"""The report: what it says is true for every direction of a metric, whatever the user's names are, on every screen."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import random
import re
import shlex
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib import cbook

import diffcore as dc
from diffcore.cli import main
from diffcore.run import measuring
from diffcore.run.report import canvas, charts, escaping
from diffcore.run.report import page as report
from diffcore.run.report.charts import Point
from diffcore.specs.faults import Faults
from diffcore.specs.loading import load_tree

SPEC = """\
diffcore: 1
name: hand-made
data: {type: two-moons}
process: {type: flow}
network: {type: mlp}
loss: {type: denoising}
trainer: {type: standard, steps: 30}
solver: {type: heun, steps: 4}
"""
PNG = canvas.png_grid(torch.zeros(1, 1, 4, 4), 1)


def measured(value, better="lower", floor=None, spread=0.01, n=100, within=(None, None)):
    return {"value": value, "n": n, "spread": spread, "floor": floor, "against": "200 of it", "better": better, "within": within}


def row(label, calls, budget=None, picture="", **metrics):
    cost = {"steps": calls, "calls": calls, "nfe": float(calls), "seconds": 0.5, "n": 100, "ran": "", "plot": False}
    return {"solver": label, "label": label, "budget": budget, "picture": picture, "difference": None, "metrics": metrics, **cost}


def write_run(folder: Path, rows, losses=((10, 2.0), (20, 1.0))):
    """A run directory as a run leaves it, without the run."""
    (folder / "samples").mkdir(parents=True)
    for name in ("spec.yaml", "evaluation.yaml"):
        (folder / name).write_text(SPEC)
    (folder / "lock.json").write_text(json.dumps(LOCK))
    (folder / "evaluation.json").write_text(json.dumps(rows))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "loss": v}) + "\n" for s, v in losses))
    return folder


LOCK = {
    "python": "3.11",
    "platform": "Linux",
    "torch": "2.13",
    "device": "cpu",
    "threads": 1,
    "processes": 1,
    "seed": 0,
    "evaluation_seed": 1,
    "distributions": {},
    "requires": {},
}
ROWS = [
    row("heun", 8, accuracy=measured(0.7, "higher", 0.9, within=(0.0, 1.0)), distance=measured(0.2, floor=0.05)),
    row("ddim", 5, 5, accuracy=measured(0.5, "higher", 0.9, within=(0.0, 1.0)), distance=measured(0.4, floor=0.05)),
    row("ddim", 10, 10, accuracy=measured(0.99, "higher", 0.9, 0.1, within=(0.0, 1.0)), distance=measured(0.04, floor=0.05)),
]


class Page(HTMLParser):
    """The tags of a page, each with the tags that it is in; its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tags: list[tuple[str, dict[str, str | None], list[tuple[str, dict[str, str | None]]]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), list(self.open)))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, "tags are nested"

    def handle_data(self, data):
        if "style" not in [tag for tag, _ in self.open]:
            self.text += data


@pytest.fixture
def page(tmp_path):
    rows = [dict(each, picture="samples/a.png") for each in ROWS]
    rows[1]["difference"] = {"size": 0.1, "text": "differs by 10 %", "picture": "samples/d.png"}
    folder = write_run(tmp_path / "run", rows)
    for name in ("a", "d", "reference", "trajectory"):
        (folder / "samples" / f"{name}.png").write_bytes(PNG)
    return report.build({"run": folder})


@pytest.fixture
def figures(monkeypatch):
    made = []
    monkeypatch.setattr(charts, "_svg", lambda figure: made.append(figure) or "")
    return made


# --- what it says -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (measured(0.668, "higher", 0.884), "distinguishable from real data, which reach 0.884"),
        (measured(0.95, "higher", 0.884), "not distinguishable from real data (0.884) at 100 samples"),
        (measured(0.88, "higher", 0.884), "within one spread of real data (0.884)"),
        (measured(0.4, "lower", 0.1), "distinguishable from real data: 4 times their 0.1"),
        (measured(0.1, "lower", 0.1), "not distinguishable from real data (0.1) at 100 samples"),
        (measured(0.105, "lower", 0.1), "within one spread of real data (0.1)"),
        (measured(0.4, "lower", -0.1), "distinguishable from real data, which have -0.1"),
        (measured(-3.0, "higher", -2.0), "distinguishable from real data, which reach -2"),
        (measured(0.5, "lower", None), "best is a in 5 calls: 0.5"),
    ],
)
def test_a_verdict_follows_the_direction_of_its_metric(found, said):
    sentence = report.verdict([row("a", 5, m=found)], "m")
    assert sentence.endswith(said)
    assert ("not distinguishable" in sentence) == said.startswith("not ")


def test_the_best_row_is_the_largest_where_higher_is_better():
    assert report.verdict(ROWS, "accuracy").startswith("best is ddim in 10 calls: 0.99")
    assert report.verdict(ROWS, "distance").startswith("best is ddim in 10 calls: 0.04")
    worse = [row("a", 9, m=measured(0.3)), row("b", 1, m=measured(0.3)), row("c", 2, m=measured(float("nan")))]
    assert report.verdict(worse, "m").startswith("best is b in 1 call: 0.3")


def test_a_number_about_the_model_has_no_best_solver_and_no_chart(figures):
    same = [row(label, calls, calls, m=measured(0.3, "higher")) for label, calls in (("a", 4), ("b", 8))]
    assert report.verdict(same, "m") == "0.3 whatever the solver"
    assert report.verdict(same[:1], "m") == "best is a in 4 calls: 0.3"
    shown = SimpleNamespace(name="run", rows=same)
    assert report._quality([shown], "m") is None
    assert not figures
    same[1]["metrics"]["m"]["value"] = 0.31
    assert report.verdict(same, "m").startswith("best is b in 8 calls")
    assert report._quality([shown], "m") is not None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (measured(1.0, "", within=(None, 6.5)), "against 200 of it, at most 6.5"),
        (measured(1.0, "lower", within=(0.25, None)), "lower is better, against 200 of it, at least 0.25"),
        (dict(measured(1.0, "higher", within=(0, 1)), against=""), "higher is better, at least 0, at most 1"),
        (dict(measured(1.0, ""), against=""), ""),
    ],
)
def test_what_a_metric_means(found, said):
    assert report._meaning(found) == said


def test_axes_hold_what_every_row_may_reach(monkeypatch):
    told = []
    monkeypatch.setattr(charts, "quality", lambda points, real, within: told.append(within))
    rows = [row("a", i, i, m=measured(i + 1.0, within=(low, high))) for i, (low, high) in enumerate([(0.5, 9.0), (0.2, 3.0)])]
    report._quality([SimpleNamespace(name="run", rows=rows)], "m")
    rows[1]["metrics"]["m"]["within"] = (0.2, None)
    report._quality([SimpleNamespace(name="run", rows=rows)], "m")
    assert told == [(0.2, 9.0), (0.2, None)]


def test_the_page_says_what_was_trained_what_is_best_and_how_to_repeat_it(page):
    text = " ".join(Page(page).text.split())
    for said in (
        "mlp on two-moons, process flow, 30 steps of denoising",
        "accuracy: best is ddim in 10 calls: 0.99; not distinguishable",
        "at or above it where higher is better",
        "diffcore run spec.yaml --out run",
        "accuracy (higher is better)",
    ):
        assert said in text, said
    assert "<td>0.9</td><td>0.05</td>" in page, "the row of real data"


# --- figures ----------------------------------------------------------------------------------------------------------


def test_the_average_of_losses_does_not_lag_and_has_no_bias():
    noise = np.random.default_rng(0)
    steps = np.arange(10, 4001, 10)
    for mean in (0.5 + 0 * steps, 3.0 - steps / 2000, 0.2 + 2 * np.exp(-steps / 500.0)):
        at, line = charts.smooth(steps.tolist(), (mean + 0.05 * noise.standard_normal(len(steps))).tolist())
        wanted = np.interp(at, steps, mean)
        assert at[-1] == steps[-1]
        assert abs(line[-1] - wanted[-1]) < 0.03, "at the end"
        assert np.abs(line - wanted)[at > 400].max() < 0.04
        assert abs((line - wanted)[at > 400].mean()) < 0.01, "no lag to one side"


def test_the_average_follows_steps_and_not_lines_of_the_log():
    """Lines that are dense in one place count as much as they say about that place."""
    dense = [*range(1, 500), *range(500, 5000, 100)]
    at, line = charts.smooth(dense, [1.0 - step / 5000 for step in dense])
    np.testing.assert_allclose(line, 1.0 - at / 5000, atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_average_of_a_few_lines(count):
    at, line = charts.smooth(list(range(count)), [0.25] * count)
    np.testing.assert_allclose(line, 0.25)
    assert len(at) == count


def test_bars_and_axes_stay_within_the_bounds_of_a_metric(figures):
    series = {"a": [Point(5, 0.98, 0.1), Point(10, 1.0, 0.2), Point(20, 0.05, 0.3)]}
    chart = charts.quality(series, [0.99], (0.0, 1.0))
    (axes,) = figures[0].axes
    assert axes.get_ylim()[0] >= 0.0
    assert axes.get_ylim()[1] <= 1.0
    ends = np.concatenate([bar for lines in axes.collections for bar in lines.get_segments()])[:, 1]
    np.testing.assert_allclose(sorted(ends), [0.0, 0.35, 0.8, 0.88, 1.0, 1.0])
    assert [(key.text, key.marker) for key in chart.keys] == [("a", "●"), ("real data", "┄")]
    charts.quality({"a": [Point(5, 0.98, 0.1)]}, [], (0.0, None))
    assert figures[1].axes[0].get_ylim()[1] > 1.05


def test_an_axis_is_logarithmic_only_where_all_that_is_drawn_is_above_zero(figures):
    """Else a bar through zero would leave the figure, and a line of real data below zero would be missing."""
    far = [Point(5, 0.01, 0.001), Point(10, 0.5, 0.1)]
    for points, real, scale in ((far, [0.02], "log"), (far, [-0.003], "linear"), ([far[1], Point(20, 0.01, 0.02)], [], "linear")):
        charts.quality({"a": points}, real)
        axes = figures[-1].axes[0]
        assert axes.get_yscale() == scale
        ends = np.concatenate([bar for lines in axes.collections for bar in lines.get_segments()])[:, 1]
        assert axes.get_ylim()[0] <= min(ends)
        assert all(axes.get_ylim()[0] <= level <= axes.get_ylim()[1] for level in real)


def test_legends_are_outside_of_figures(figures):
    chart = charts.losses({"loss": ([1, 2], [3.0, 1.0]), "other": ([1, 2], [3.0, 0.0])})
    assert [key.text for key in chart.keys] == ["loss", "other"]
    assert figures[0].axes[0].get_legend() is None


def test_a_loss_that_was_logged_once_is_seen(figures):
    charts.losses({"loss": ([4], [1.0])})
    charts.losses({"loss": ([4, 8], [1.0, 2.0])})
    assert [figure.axes[0].lines[-1].get_marker() for figure in figures] == ["o", ""]


def test_figures_hold_ink_that_follows_the_mode_and_no_background():
    address = charts.quality({"a": [Point(5, 0.1), Point(9, 90.0)]}, [0.5]).image
    svg = base64.b64decode(address.partition("base64,")[2]).decode()
    assert "prefers-color-scheme:dark" in svg
    assert charts.INK["light"] not in svg.partition("</style>")[2]
    assert "var(--ink)" in svg.partition("</style>")[2]
    assert "#ffffff" not in svg
    assert ">100<" in svg, "powers of ten as plain text"


# --- the user's text --------------------------------------------------------------------------------------------------

HOSTILE = [
    "a $^$ b",
    "x$_$",
    "$\\frac{1}{2}$",
    "\\$",
    "_hidden",
    "__",
    "a^b_c",
    "<script>alert(1)</script>",
    '"><img src=x onerror=y>',
    "a\nb",
    "\x1b[31mred",
    "\u202efdp",
    "猫 🐈 \ue000",
    "{{ 7 * 7 }}",
    "&amp;",
    "'; rm -rf '",
    "-n",
    "%s%d",
    "a/../b".replace("/", "\u2215"),
]
NASTY = "$_^\\{}<>&\"'`%#~|\n\t\x00\x1b\x7f\u202e\u200b猫é"


def _words(count):
    choose = random.Random(0)
    return ["".join(choose.choices(NASTY + "ab", k=choose.randint(1, 12))) for _ in range(count)]


def test_text_in_figures_stands_as_it_is():
    from matplotlib.textpath import TextPath

    for text in [*HOSTILE, *_words(300)]:
        drawn = escaping.figure_text(text)
        assert not cbook.is_math_text(drawn)
        assert not drawn.startswith("_")
        TextPath((0, 0), drawn)
    assert escaping.figure_text("plain name-2") == "plain name-2"


def test_every_name_is_drawn_in_a_legend():
    figure, axes = canvas.new_figure(4, 12)
    names = [*HOSTILE, *_words(20)]
    for name in names:
        axes.plot([1, 2], label=escaping.figure_text(name))
    assert len(axes.legend().get_texts()) == len(names)
    assert canvas.png(figure).startswith(b"\x89PNG")


def test_heads_of_columns_may_hold_anything():
    for heads in (HOSTILE[:10], HOSTILE[9:]):
        assert canvas.png_grid(torch.zeros(len(heads), 1, 8, 8), len(heads), heads).startswith(b"\x89PNG")


def test_text_on_a_terminal_is_one_line_and_moves_nothing():
    for text in [*HOSTILE, *_words(300)]:
        told = escaping.terminal(text)
        assert told.isprintable()
        assert len(told.splitlines()) <= 1
        assert escaping.terminal(told) == told
    assert escaping.terminal("Läufe 猫") == "Läufe 猫"


def test_hostile_names_go_through_report_and_compare(tmp_path):
    folders = []
    for i, name in enumerate([*HOSTILE, *_words(8)]):
        safe = "".join(c for c in name if c not in "\x00/") or "empty"
        rows = [dict(each, label=name, ran=name, picture="samples/a.png") for each in ROWS]
        rows[2]["difference"] = {"size": 0.1, "text": name, "picture": ""}
        folders.append(write_run(tmp_path / str(i) / safe, rows))
        (folders[-1] / "samples" / "a.png").write_bytes(PNG)
    arguments = ["compare", *map(str, folders), "--out", str(tmp_path / "page.html")]
    shown = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert len([line for line in lines if "0.99 +- 0.1" in line]) == len(folders)
    assert all(line.isprintable() for line in lines)
    made = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not {"script"} & {tag for tag, _, _ in made.tags}
    assert not any(name.startswith("on") for _, attributes, _ in made.tags for name in attributes)
    assert all(line.isprintable() for line in made.text.splitlines())
    for name in (name for name in HOSTILE if name.isprintable() and "/" not in name):
        assert made.text.count(name) >= 3, name
        assert f"diffcore sample {escaping.word(name)} -n" in made.text


WORDS = [("a", "a"), ("-x", "./-x"), ("--help", "./--help"), ("a 'b' $c\n🙂", "a 'b' $c\n🙂"), ("/-x", "/-x")]


@pytest.mark.parametrize(("name", "wanted"), WORDS)
def test_the_name_of_a_file_is_one_word_of_a_command_and_no_option(name, wanted):
    assert shlex.split(escaping.word(name)) == [wanted]


@pytest.mark.parametrize(
    "name", ["run", "a/b", "a b", "it's", "a #b", "1", "null", "[a]", "a: b", "-x", "~", "$HOME", '"', "a\\b", "🙂"]
)
def test_a_field_that_is_set_to_a_file_is_that_file(name):
    option, text = shlex.split(escaping.setting("init", name))
    assert option == "--set"
    written = load_tree({"name": "x"}, [text], Faults()).child("init")
    assert Path(str(written)) == Path(name)


@pytest.mark.parametrize("text", ["ä" * 300, "🙂" * 300, "a" * 300, "é/" * 60, "x"])
def test_a_file_name_fits_every_file_system(text, tmp_path):
    name = escaping.file_name(text)
    assert len(name.encode()) <= 87
    assert name != escaping.file_name(text + text)
    (tmp_path / f"{name}.safetensors").touch()


# --- files of somebody else's run -------------------------------------------------------------------------------------


def _refused(folder):
    with pytest.raises(dc.CheckpointError) as raised:
        report.build({"run": folder})
    said = str(raised.value)
    assert "\n" not in said
    assert str(folder) in said
    return said


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret.png", "samples/../../secret.png", "samples/link.png", "samples", "x\0.png"]
)
def test_pictures_come_from_inside_the_run_only(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(PNG)
    folder = write_run(tmp_path / "run", [row("heun", 4, picture=name)])
    (folder / "samples" / "link.png").symlink_to(tmp_path / "secret.png")
    assert "no file within" in _refused(folder)
    (folder / "evaluation.json").write_text(
        json.dumps([dict(row("heun", 4), difference={"size": 1.0, "text": "", "picture": name})])
    )
    assert "no file within" in _refused(folder)


@pytest.mark.parametrize(
    "name",
    [
        "spec.yaml",
        "evaluation.yaml",
        "evaluation.json",
        "lock.json",
        "metrics.jsonl",
        "samples/samples.txt",
        "samples/reference.png",
        "samples/paths.png",
    ],
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_no_file_of_a_run_leads_elsewhere_or_waits(tmp_path, name, kind):
    folder = write_run(tmp_path / "run", ROWS)
    (folder / name).unlink(missing_ok=True)
    (tmp_path / "secret").write_text("a secret")
    (folder / name).symlink_to(tmp_path / "secret") if kind == "link" else os.mkfifo(folder / name)
    assert "no file within" in _refused(folder)


def test_a_picture_is_a_png_of_bounded_size(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", [row("heun", 4, picture="samples/a.png")])
    picture = folder / "samples" / "a.png"
    for data in (
        b"",
        b"secret",
        PNG[:40],
        PNG[:30] + b"\xff" + PNG[31:],
        b"\x89PNG\r\n\x1a\n" + b"0" * 100,
        b"GIF89a" + b"0" * 100,
    ):
        picture.write_bytes(data)
        assert "no PNG picture" in _refused(folder)
    picture.write_bytes(PNG)
    assert base64.b64encode(PNG).decode() in report.build({"run": folder})
    monkeypatch.setattr(report, "LARGEST", len(PNG) - 1)
    assert "larger than" in _refused(folder)


def test_a_link_within_a_run_is_followed(tmp_path):
    folder = write_run(tmp_path / "run", [row("heun", 4, picture="samples/b.png")])
    (folder / "samples" / "a.png").write_bytes(PNG)
    (folder / "samples" / "b.png").symlink_to("a.png")
    assert base64.b64encode(PNG).decode() in report.build({"run": folder})


def test_long_texts_are_cut(tmp_path):
    folder = write_run(tmp_path / "run", ROWS)
    (folder / "samples" / "samples.txt").write_text("word\n" * 10**6)
    page = report.build({"run": folder})
    assert page.count("word") == report.TEXTS
    assert len(page) < 200_000


# --- for every reader -------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else_and_no_script(page):
    found = Page(page)
    assert not {tag for tag, _, _ in found.tags} & {"script", "link", "iframe"}
    assert all(value.startswith("data:image/") for tag, given, _ in found.tags for key, value in given.items() if key == "src")
    assert not re.findall(r"url\(|@import|https?://", page)
    assert found.tags[0][1] == {"lang": "en"}


def test_headings_pictures_and_links_are_in_order(page):
    found = Page(page)
    levels = [int(tag[1]) for tag, _, _ in found.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(given.get("alt") for tag, given, _ in found.tags if tag == "img")
    ids = [given["id"] for _, given, _ in found.tags if "id" in given]
    links = [given["href"] for tag, given, _ in found.tags if tag == "a"]
    assert len(ids) == len(set(ids))
    assert sorted(links) == sorted(f"#{id}" for id in ids), "every section is in the contents"


def test_what_is_wide_scrolls_in_a_region_that_the_keyboard_reaches(page):
    for tag, _, around in Page(page).tags:
        if tag in ("table", "pre"):
            regions = [given for _, given in around if given.get("class") == "scroll"]
            assert len(regions) == 1
            assert regions[0]["tabindex"] == "0"
            assert regions[0]["aria-label"]


def test_samples_of_other_solvers_are_differences_and_the_main_ones_are_shown_once(page):
    images = [given["alt"] for tag, given, _ in Page(page).tags if tag == "img"]
    assert images[:3] == ["samples of run by heun", "real data of run", "difference of ddim, 5 calls, from the main samples"]
    assert sum("samples of" in alt for alt in images) == 1


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a, b):
    """WCAG 2.2, relative luminance and contrast ratio."""
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_figures_stand_out_in_both_modes():
    style = Path(report.__file__).with_name("report.css").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("prefers-color-scheme: dark"))
    for colours, mode in ((light, "light"), (dark, "dark")):
        assert all(
            _contrast(colours[ink], colours[ground]) >= 4.5 for ink in ("ink", "pale", "link") for ground in ("ground", "block")
        )
        assert colours["ink"] == charts.INK[mode]
        assert all(_contrast(colour, colours["ground"]) >= 3 for colour in charts.COLOURS)


# --- what ran ---------------------------------------------------------------------------------------------------------


def test_a_solver_that_chooses_is_reported_with_what_ran(monkeypatch):
    spec = {
        "diffcore": 1,
        "name": "chosen",
        "data": {"type": "two-moons"},
        "process": {"type": "flow"},
        "network": {"type": "mlp", "width": 8, "depth": 1},
        "loss": {"type": "denoising"},
        "trainer": {"type": "standard", "steps": 0},
        "solver": {"type": "auto", "nfe": 6},
        "evaluation": {"n": 4, "batch": 4},
    }
    pipeline = dc.assemble(spec)
    chosen = pipeline.registry.make("solver", {"type": "ddim", "eta": 0.5, "steps": 3, "grid": {"type": "karras"}})
    found, _ = measuring.measure(pipeline, chosen)
    assert found["ran"] == ""
    monkeypatch.setattr(pipeline, "ready", lambda solver: chosen)
    found, made = measuring.measure(pipeline, pipeline.solver)
    assert pipeline.solver.steps != 3
    assert found["steps"] == made.steps == found["calls"] == 3
    assert found["label"] == "auto(nfe=6)"
    assert found["ran"] == "ddim(eta=0.5)"
    assert runs_table([found]).splitlines()[1].split()[:4] == ["auto(nfe=6),", "ran", "ddim(eta=0.5)", "3"]


def runs_table(rows):
    from diffcore.cli.runs import print_rows

    with contextlib.redirect_stdout(io.StringIO()) as said:
        print_rows(rows)
    return said.getvalue()

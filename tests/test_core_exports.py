"""Samples as files: the same numbers in every format, batch by batch, completely or not at all; and in a notebook."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import re
import sys
import weakref
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import diffcore as dc
from diffcore.run import checkpoint, runs
from diffcore.run.report import canvas, exports, gallery, pictures, ways
from diffcore.run.samples import Samples
from diffcore.run.tensorfile import TensorFile

IMAGES = {
    "diffcore": 1,
    "name": "dots",
    "data": {"type": "digits-8x8"},
    "process": {"type": "flow"},
    "network": {"type": "unet", "width": 8, "multipliers": [1], "blocks": 1},
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 0},
    "solver": {"type": "euler", "steps": 2},
    "sampling": {"n": 12, "batch": 5},
}
POINTS = {**IMAGES, "data": {"type": "two-moons"}, "network": {"type": "mlp", "width": 8, "depth": 1}}


@pytest.fixture(scope="module")
def images():
    return dc.assemble(IMAGES)


@pytest.fixture(scope="module")
def points():
    return dc.assemble(POINTS)


class Plain(dc.Data):
    """Samples as they are, whatever they are."""

    def __init__(self, words=None):
        self.words = words

    def texts(self, raw):
        return self.words


def made_of(x, cond=None, words=None):
    """Samples of any kind, as a pipeline would hand them over."""
    classes = {name: int(value.max()) + 1 for name, value in (cond or {}).items()}
    pipeline = SimpleNamespace(spec=SimpleNamespace(data=Plain(words)), source=SimpleNamespace(classes=classes))
    pipeline.registry = dc.Registry.load()
    return Samples(x, cond or {}, 1.0, 1, 0.5, pipeline, 1)


def span(monkeypatch):
    monkeypatch.setattr(gallery, "span", lambda pipeline, raw: dc.Range(lo=-3.0, hi=3.0))


# --- streaming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz"])
def test_streamed_files_hold_what_the_whole_holds(images, tmp_path, name):
    whole = images.sample(12, seed=3)
    written = exports.write(images.batches(12, seed=3), tmp_path / name, 12)
    held = load_file(written.path) if name.endswith("safetensors") else dict(np.load(written.path))
    assert set(held) == {"x", "label"}
    assert torch.equal(torch.as_tensor(held["x"]), whole.raw())
    assert torch.equal(torch.as_tensor(held["label"]), whole.cond["label"])
    assert (written.n, written.shapes, written.steps, written.calls) == (12, "(1, 8, 8)", 2, 2)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_streamed_file_is_sealed_as_one_that_is_saved_at_once(images, tmp_path):
    made = images.sample(12, seed=3)
    exports.write(images.batches(12, seed=3), tmp_path / "streamed.safetensors", 12)
    checkpoint.save(tmp_path / "saved.safetensors", exports.named(made), {"calls": made.calls, "nfe": made.nfe})
    (streamed, meta), (saved, other) = (checkpoint.load(tmp_path / f"{name}.safetensors") for name in ("streamed", "saved"))
    assert meta == other
    assert all(torch.equal(streamed[key], saved[key]) for key in saved)


@pytest.mark.parametrize("out", ["a.safetensors", "a.npz", "a.csv", "folder"])
def test_no_more_than_two_batches_are_held(points, tmp_path, monkeypatch, out):
    """Counted are the states of all batches that are still alive when the next one is made."""
    alive: weakref.WeakSet = weakref.WeakSet()
    most, sample_ids = [], points.sample_ids

    def counted(*args, **kwargs):
        most.append(len(alive))
        result = sample_ids(*args, **kwargs)
        alive.add(result.x)
        return result

    monkeypatch.setattr(points, "sample_ids", counted)
    exports.write(points.batches(60, batch=5), tmp_path / out, 60)
    assert len(most) == 12
    assert max(most) <= 2


def test_batches_say_what_all_of_them_cost(points):
    parts = list(points.batches(12, seed=1, batch=5))
    assert [len(part) for part in parts] == [5, 5, 2]
    whole = points.sample(12, seed=1)
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    assert (parts[-1].steps, parts[-1].calls, parts[-1].nfe) == (whole.steps, whole.calls, whole.nfe) == (2, 2, 2.0)
    with pytest.raises(dc.SpecError, match="at least 1"):
        points.sample(0)


def test_steps_are_those_that_were_taken(points):
    """A solver with a loop of its own decides; a solver of a fixed grid takes as many as its grid has."""
    euler = points.registry.make("solver", "euler", steps=6)

    class Impatient(dc.Program):
        def frames(self, *args):
            yield from itertools.islice(euler.frames(*args), 4)

    field, x = points.field(), torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    for solver, steps in ((euler, 6), (Impatient(steps=6), 3)):
        assert [dc.sample(field, solver, x, keep_frames=kept).steps for kept in (False, True)] == [steps, steps]
        assert points.sample(3, solver=solver).steps == steps
    assert dc.sample(field, euler, x, grid=[1.0, 0.5, 0.0]).steps == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_every_type_of_number_is_kept(tmp_path, dtype):
    x = (torch.arange(24).reshape(6, 4) % 7).to(dtype)
    file = TensorFile(tmp_path / "t", {"x": x, "bits": x > 2, "one": x[:, 0]}, 6)
    for rows in x.split(4):
        file.append({"x": rows, "bits": rows > 2, "one": rows[:, 0]})
    file.close({"calls": 10**9})
    held, meta = checkpoint.load(tmp_path / "t")
    assert meta == {"calls": 10**9}
    assert all(torch.equal(held[k], v) and held[k].dtype == v.dtype for k, v in {"x": x, "bits": x > 2, "one": x[:, 0]}.items())
    with pytest.raises(dc.SpecError, match="complex"):
        TensorFile(tmp_path / "c", {"x": torch.zeros(2, dtype=torch.complex64)}, 2)


def test_trees_are_written_leaf_by_leaf(tmp_path):
    x = {"place": torch.ones(3, 2), "count": torch.zeros(3, dtype=torch.int64)}
    made = made_of(x, {"label": torch.arange(3)})
    names = {"x.place", "x.count", "label"}
    assert set(np.load(made.save(tmp_path / "a.npz"))) == set(load_file(made.save(tmp_path / "a.safetensors"))) == names
    with np.load(made.save(tmp_path / "each") / "00002-label-2.npz") as held:
        assert set(held) == {"x.place", "x.count"}
    for name in ("a.png", "a.csv", "a.gif", "a.txt"):
        with pytest.raises(dc.SpecError, match="name a"):
            made.save(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "a.safetensors", "each"}


# --- formats ----------------------------------------------------------------------------------------------------------


def test_a_folder_has_a_picture_for_each_image_by_number_and_class(images, tmp_path):
    made = images.sample(12)
    folder = made.save(tmp_path / "digits")
    names = images.spec.data.class_names
    assert sorted(p.name for p in folder.iterdir()) == [f"{i:05d}-{names[i % 10]}.png" for i in range(12)]
    shown = np.asarray(Image.open(folder / f"00011-{names[1]}.png"), dtype=float) / 255
    declared = images.spec.data.value_range
    wanted = (made.raw()[11, 0] - declared.lo) / (declared.hi - declared.lo)
    np.testing.assert_allclose(shown, wanted, atol=0.5 / 255 + 1e-6)


def test_class_names_are_safe_in_file_names(tmp_path):
    made = made_of(torch.rand(2, 3), {"label": torch.tensor([0, 1])})
    type(made.pipeline.spec.data).class_names = ("../../evil/\n", "cat")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        folder = made.save(tmp_path / "f")
    finally:
        del type(made.pipeline.spec.data).class_names
    assert len(list(folder.iterdir())) == 2
    assert all(re.fullmatch(r"[\w.,=+-]+\.npy", path.name) for path in folder.iterdir())


def test_a_folder_that_holds_files_is_left_alone(points, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("mine")
    with pytest.raises(dc.SpecError, match="holds files already"):
        points.sample(3).save(tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    assert len(list(points.sample(3).save(tmp_path / "empty").iterdir())) == 3
    with pytest.raises(dc.SpecError, match=r"must end in \.safetensors"):
        points.sample(3).save(tmp_path / "a.pkl")


def test_points_are_a_table(points, tmp_path):
    made = points.sample(7, seed=2)
    head, *rows = list(csv.reader(made.save(tmp_path / "a.csv").read_text().splitlines()))
    assert head == ["x0", "x1", *made.cond]
    np.testing.assert_array_equal(np.array(rows, dtype=np.float32)[:, :2], made.raw().numpy())
    with pytest.raises(dc.SpecError, match="no table"):
        made_of(torch.zeros(2, 1, 8, 8)).save(tmp_path / "b.csv")


def test_text_is_lines(tmp_path):
    made = made_of(torch.zeros(2, 3, dtype=torch.int64), words=["née", "b"])
    assert made.save(tmp_path / "a.txt").read_bytes() == "née\nb\n".encode()
    assert (made.save(tmp_path / "each") / "00000.txt").read_text(encoding="utf-8") == "née\n"


def test_an_animation_has_a_page_for_every_image(images, tmp_path):
    with Image.open(images.sample(4).save(tmp_path / "a.gif")) as film:
        assert film.n_frames == 4
    with pytest.raises(dc.SpecError, match="no animation"):
        made_of(torch.randn(4, 2)).save(tmp_path / "b.gif")


def test_a_picture_of_many_is_bounded_and_says_so(monkeypatch, tmp_path):
    span(monkeypatch)
    many = (made_of(torch.zeros(500, 3, 32, 32)) for _ in range(3))
    written = exports.write(many, tmp_path / "a.png", 20_000)
    shown = int(re.fullmatch(r"the first (\d+) of 20000 are shown", written.note)[1])  # pyright: ignore[reportOptionalSubscript]
    with Image.open(written.path) as image:
        assert image.width * image.height < 1.2 * pictures.PIXELS
        assert image.height == pytest.approx(shown / 10 * (32 + canvas.GAP) * 2, rel=0.01)
    assert written.path.stat().st_size < 2**20
    assert exports.write([made_of(torch.zeros(20, 3, 32, 32))], tmp_path / "b.png", 20).note == ""


@pytest.mark.parametrize("out", ["a.safetensors", "a.npz", "a.csv", "a.txt", "a.png", "folder"])
def test_nothing_is_left_of_what_fails(points, tmp_path, out):
    def broken():
        yield from points.batches(5)
        raise dc.RunError("the power is gone")

    old = tmp_path / "a.csv"
    old.write_text("old")
    with pytest.raises((dc.RunError, dc.SpecError)):
        exports.write(broken(), tmp_path / out, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert old.read_text() == "old"


# --- pictures of every kind of sample ---------------------------------------------------------------------------------

KINDS = {
    "grey": (20, 1, 8, 8),
    "colour": (20, 3, 8, 8),
    "two channels": (5, 2, 8, 8),
    "matrices": (5, 12, 9),
    "volumes": (4, 1, 20, 6, 6),
    "points": (50, 2),
    "scalars": (50, 1),
    "tables": (50, 7),
    "signals": (20, 2, 30),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sample_has_a_picture_and_a_difference(kind):
    x = torch.randn(*KINDS[kind], generator=torch.Generator().manual_seed(0))
    within = dc.Range(lo=-3.0, hi=3.0)
    assert pictures.has_picture(x)
    drawn = [pictures.picture(each, within, 10) for each in (x, x + 1.0)]
    assert drawn[0] != drawn[1]
    assert Image.open(io.BytesIO(drawn[0])).format == "PNG"
    assert pictures.difference(x, x, within, 10, 0.5) != pictures.difference(x, x + 1.0, within, 10, 0.5)


def test_tokens_have_a_picture_and_trees_none():
    tokens = torch.arange(60).reshape(6, 10)
    sheet = Image.open(io.BytesIO(pictures.picture(tokens, dc.Range(lo=0.0, hi=59.0), 10)))
    scale = canvas.magnified(6, 10, 1)
    shown = np.asarray(sheet.convert("L"))[canvas.GAP * scale :: scale, canvas.GAP * scale :: scale][:6, :10]
    np.testing.assert_allclose(shown, np.arange(60).reshape(6, 10) / 59 * 255, atol=0.51)
    assert not pictures.has_picture({"a": tokens})
    assert not pictures.has_picture(torch.zeros(3, 0))


def test_between_images_a_sheet_is_the_page_and_an_animation_white(tmp_path):
    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    sheet = Image.open(io.BytesIO(canvas.png_grid(x, 2, ("a", "b")))).convert("RGBA")
    colours = {pixel for _, pixel in sheet.getcolors(10_000) or () if pixel[3] == 255}
    assert {(0, 0, 0, 255), (255, 255, 255, 255)} <= colours
    assert sheet.getpixel((0, sheet.height - 1))[3] == 0
    assert any(pixel[:3] == (canvas.INK,) * 3 and pixel[3] > 128 for _, pixel in sheet.getcolors(10_000) or ())
    page = Image.open(io.BytesIO(canvas.animated([canvas.sheet(x, 2)]))).convert("RGB")
    assert page.getpixel((0, 0)) == (255, 255, 255)
    assert page.getpixel((page.width // 4, page.height // 2)) == (0, 0, 0)


class Veiled(Plain):
    """Images with opacity."""

    has_opacity = True
    value_range = dc.Range(lo=0.0, hi=255.0)


def test_images_with_opacity_are_shown_over_white_and_written_with_it(tmp_path):
    x = torch.full((2, 4, 4, 4), -1.0)
    x[:, 0], x[0, 3], x[1, 3] = 1.0, 1.0, -0.5  # red; opaque, and a quarter of it
    made = made_of(x)
    made.pipeline.spec.data = Veiled()
    assert gallery.visible(made.pipeline, made.raw())[:, :, 0, 0].tolist() == [[255, 0, 0], [255, 191.25, 191.25]]
    exports.write([made], tmp_path / "all.png", 2)
    sheet = Image.open(tmp_path / "all.png").convert("RGBA")
    assert {(255, 0, 0, 255), (255, 191, 191, 255)} <= {pixel for _, pixel in sheet.getcolors(10_000) or ()}
    exports.write([made], tmp_path / "all", 2)
    for name, opacity in (("00000", 255), ("00001", 64)):
        image = Image.open(tmp_path / "all" / f"{name}.png")
        assert (image.mode, image.getpixel((0, 0))) == ("RGBA", (255, 0, 0, opacity))
    made.pipeline.spec.data = Plain()
    assert gallery.visible(made.pipeline, made.raw()).shape[1] == 4


@pytest.mark.parametrize("colour", ["rgb", "rgba"])
def test_a_set_made_of_another_has_its_opacity(colour, tmp_path):
    folder = {"type": "image-folder", "path": str(tmp_path), "colour": colour}
    registry = dc.Registry.load()
    for spec in (
        folder,
        {"type": "standardised", "of": folder},
        {"type": "latent", "of": folder, "codec": "none.safetensors", "shape": [2, 2, 2]},
    ):
        assert registry.make("data", spec).has_opacity == (colour == "rgba"), spec["type"]


def test_a_difference_is_grey_where_there_is_none_and_white_where_it_is_largest():
    main = torch.zeros(2, 1, 4, 4)
    other = main.clone()
    other[1] = 0.6
    data = pictures.difference(other, main, dc.Range(lo=-1.0, hi=1.0), 2, 0.3)
    sheet = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    scale = canvas.magnified(4, 4)
    middle = sheet[(canvas.GAP + 2) * scale]
    assert middle[(canvas.GAP + 2) * scale] == 128
    assert middle[(2 * canvas.GAP + 4 + 2) * scale] == 255
    assert pictures.apart(other, main, dc.Range(lo=-1.0, hi=1.0)) == pytest.approx(0.3 / 2**0.5)
    assert pictures.apart(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 3, 9]]), dc.Range(lo=0.0, hi=9.0)) == 0.25


@pytest.mark.parametrize(("count", "across"), [(1, 10), (3, 9), (7, 7), (10, 10), (16, 16), (1000, 10)])
def test_columns_hold_one_class_each_where_there_are_few(count, across):
    pipeline = SimpleNamespace(
        source=SimpleNamespace(classes={"label": count}), spec=SimpleNamespace(data=SimpleNamespace(class_names=()))
    )
    assert gallery.columns(pipeline) == across  # pyright: ignore[reportArgumentType]
    cycled = (torch.arange(4 * across) % count).tolist()
    heads = gallery.heads_of(pipeline, cycled)  # pyright: ignore[reportArgumentType]
    if count <= gallery.HEADS:
        assert heads == [f"label-{i % count}" for i in range(across)]
    mixed = [number for row in range(2) for number in range(row, across + row)]
    assert gallery.heads_of(pipeline, mixed) == [""] * across  # pyright: ignore[reportArgumentType]


def test_the_table_of_an_evaluation_says_how_far_solvers_are_apart(points, tmp_path):
    main, same, other = (
        points.sample(9),
        points.sample(9),
        points.sample(9, solver=points.registry.make("solver", "heun", steps=9)),
    )
    rows = [{"label": name, "steps": 2} for name in ("main", "same", "other")]
    shown = [gallery.first(made) for made in (main, same, other)]
    gallery.name_pictures(points, rows, shown)
    gallery.draw_rows(points, rows, shown, tmp_path)
    assert rows[0]["difference"] is None
    assert rows[1]["difference"] == {"size": 0.0, "text": "equal to the main samples", "picture": ""}
    within = gallery.span(points, main.raw())
    wanted = float((other.x - main.x).double().square().mean().sqrt()) / (within.hi - within.lo)
    assert rows[2]["difference"]["size"] == pytest.approx(wanted)
    assert (tmp_path / rows[2]["difference"]["picture"]).exists()


@pytest.mark.parametrize("shape", [(6, 1, 8, 8), (6, 2), (6, 5), (6, 2, 16)])
def test_states_on_their_way_have_a_picture_and_an_animation(shape):
    noise = torch.Generator().manual_seed(0)
    frames = [dc.Frame(i, 1 - i / 3, torch.randn(*shape, generator=noise)) for i in range(4)]
    assert ways.have_picture(frames)
    assert Image.open(io.BytesIO(ways.picture(frames))).format == "PNG"
    with Image.open(io.BytesIO(ways.animation(frames))) as film:
        assert film.n_frames == 4


# --- in a notebook ----------------------------------------------------------------------------------------------------


def test_samples_and_pipelines_are_told_in_a_line(images):
    made = images.sample(12)
    assert repr(made).startswith("Samples((12, 1, 8, 8) float32, conditions label, 2 steps, 2 calls, ")
    assert repr(images.sample_ids([0, 1], 0, {"label": torch.zeros(2, dtype=torch.int64)})).startswith(
        "Result((2, 1, 8, 8) float32"
    )
    assert repr(dc.Frame(2, 0.25, torch.zeros(3, 4))) == "Frame(step 2, t = 0.25, (3, 4) float32, 0 calls)"
    assert "\n" not in repr(images)
    assert all(word in repr(images) for word in ("Pipeline(dots:", "digits-8x8", "flow", "unet", "euler", "10 classes of label"))
    assert images.solver is images.spec.solver
    assert images.data is images.spec.data


def test_a_notebook_shows_a_picture(images):
    page = images.sample(100)._repr_html_()
    data = base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])  # pyright: ignore[reportOptionalSubscript]
    assert Image.open(io.BytesIO(data)).format == "PNG"
    assert len(page) < 200_000
    assert "<table>" in images._repr_html_()


def test_a_notebook_escapes_what_it_shows(images):
    named = attrs.evolve(images.spec, name="<script>")
    other = dc.Pipeline(named, images.registry, "cpu")
    assert "<script>" not in other._repr_html_()
    text = made_of(torch.zeros(1, 2, dtype=torch.int64), words=["<b>\x1b"])
    assert "<b>" not in text._repr_html_()
    assert made_of({"a": torch.zeros(2, 2)})._repr_html_() == "<pre>Samples((2, 2) float32, 1 step, 1 call, 0.5 s)</pre>"


def test_show_falls_back_to_the_viewer_and_to_text(images, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(Image.Image, "show", lambda image: seen.append(image.size))
    images.sample(4).show()
    assert len(seen) == 1
    made_of({"a": torch.zeros(2, 2)}).show()
    assert capsys.readouterr().out.startswith("Samples((2, 2) float32")
    displayed = []
    kernel = SimpleNamespace(get_ipython=object, display=SimpleNamespace(display=displayed.append))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    made = images.sample(4)
    made.show()
    assert displayed == [made]


def test_a_trajectory_goes_where_it_is_named(points, tmp_path):
    from diffcore.run import benching

    rows, frames = benching.steps_of(points, points.registry.make("solver", "euler", steps=3), n=3)
    for name, kind in (("a.png", "PNG"), ("a.gif", "GIF")):
        assert benching.way_place(str(tmp_path / name), tmp_path) == tmp_path / name
        assert benching.write_steps(rows, frames, tmp_path / name) == [tmp_path / name]
        assert Image.open(io.BytesIO((tmp_path / name).read_bytes())).format == kind
    made = benching.write_steps(rows, frames, tmp_path / "folder")
    assert {path.name for path in made} == {"steps.png", "paths.png"}
    assert len(json.loads((tmp_path / "folder" / "steps.json").read_text())) == 3
    with pytest.raises(dc.SpecError, match=r"name a \.png file"):
        benching.way_place(str(tmp_path / "a.mp4"), tmp_path)


def test_a_run_of_signals_shows_them(tmp_path):
    """Samples, real data, how solvers differ, and the way, of data that are neither images nor points."""
    wave = torch.sin(torch.arange(16) * torch.linspace(0.2, 1.0, 40)[:, None])
    np.savez(tmp_path / "waves.npz", x=torch.stack([wave, -wave], 1).numpy())
    spec = {
        **POINTS,
        "data": {"type": "array", "path": str(tmp_path / "waves.npz"), "range": {"lo": -1.0, "hi": 1.0}},
        "trainer": {"type": "standard", "steps": 3, "batch": 8},
        "evaluation": {"n": 8, "batch": 8, "solvers": [{"type": "heun"}], "calls": [4]},
    }
    folder = runs.run(spec, tmp_path / "run")
    drawn = {path.name for path in (folder / "samples").glob("*.png")}
    assert {"samples.png", "reference.png", "trajectory.png", "euler-2-steps.png", "heun-2-steps-difference.png"} <= drawn
    page = (folder / "report.html").read_text()
    assert all(text in page for text in ("Samples</h2>", "Every solver</h2>", "On the way</h2>", "From noise (above)"))


@pytest.mark.parametrize(
    ("data", "endings"),
    [
        ({}, {".gif": "no animation", ".txt": "no text"}),
        ({"data": {"type": "digits-8x8"}, "network": {"type": "unet", "width": 8}}, {".csv": "no table", ".txt": "no text"}),
        (
            {
                "data": {"type": "binary-digits"},
                "process": {"type": "masked", "values": 2},
                "network": {"type": "token-transformer", "width": 16, "depth": 1, "heads": 2},
                "prediction": "logits",
                "loss": {"type": "masked-elbo"},
                "solver": {"type": "tau-leaping", "steps": 2},
            },
            {".txt": "no text"},
        ),
    ],
    ids=["points", "images", "tokens"],
)
def test_samples_that_do_not_go_into_a_file_are_refused_before_they_are_made(data, endings, tmp_path, monkeypatch):
    dc.assemble({**POINTS, **data}).save(tmp_path / "run")
    monkeypatch.setattr(dc.Pipeline, "batches", lambda *args, **fields: pytest.fail("there was sampling"))
    for ending, said in endings.items():
        with pytest.raises(dc.SpecError, match=said):
            runs.sample_run(tmp_path / "run", out=tmp_path / f"x{ending}")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]

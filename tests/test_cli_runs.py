"""`check`, `explain`, `schema`, `run`, `train`, `sample`, `evaluate`, `compare` on a spec that runs in a second."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

import diffcore
from diffcore.cli import main
from diffcore.run.report.page import _read, budgets
from diffcore.run.report.pictures import picture

SPEC = """\
diffcore: 1
name: tiny
data: {type: two-moons}
process: {type: flow}
network: {type: mlp}
loss: {type: denoising}
trainer: {type: standard, steps: 3, batch: 32}
solver: {type: heun, steps: 4}
sampling: {n: 16, batch: 16}
metrics: [{type: sliced-wasserstein}]
evaluation: {n: 32, batch: 32, solvers: [{type: euler}], calls: [2, 4]}
"""
BAD = """\
diffcore: 1
data: {type: two-mons}
process: {type: flow, speed: 3}
network: {type: mlp}
loss: {type: denoising}
solver:
  type: heun
  steps: -1
"""


def call(*arguments: object, code: int = 0) -> Result:
    shown = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert shown.exit_code == code, shown.output
    return shown


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the spec, and with a run of it."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "spec.yaml").write_text(SPEC)
    shown = call("run", folder / "spec.yaml", "--out", folder / "run")
    (folder / "said").write_text(shown.stdout)
    return folder


def test_check_says_that_a_sound_spec_is_sound(place: Path):
    assert call("check", place / "spec.yaml").stdout == f"{place / 'spec.yaml'} is sound\n"
    assert json.loads(call("check", place / "spec.yaml", "--json").stdout) == {"ok": True, "faults": [], "notes": []}


def test_what_a_run_made_is_told_as_json(place: Path):
    told = json.loads(call("run", place / "spec.yaml", "--out", place / "json", "--json").stdout)
    assert (told["run"], told["report"]) == (str(place / "json"), str(place / "json" / "report.html"))
    assert [row["calls"] for row in told["rows"]] == [
        row["calls"] for row in json.loads((place / "json" / "evaluation.json").read_text())
    ]
    told = json.loads(call("train", place / "spec.yaml", "--out", place / "json", "--json").stdout)
    assert Path(told["weights"]).exists()
    told = json.loads(call("sample", place / "json", "-n", 3, "--out", place / "three.npz", "--json").stdout)
    assert (told["n"], told["file"]) == (3, str(place / "three.npz"))
    told = json.loads(call("new", "plugin", "brand-new", "--kind", "solver", "--dir", place, "--json").stdout)
    assert (told["id"], told["kind"], Path(told["folder"]).is_dir()) == ("brand-new", "solver", True)


def test_check_names_every_fault_at_its_place(tmp_path: Path):
    spec = tmp_path / "bad.yaml"
    spec.write_text(BAD)
    said = call("check", spec, code=2)
    assert said.stdout == ""
    for place, message in [
        ("2:14", "did you mean 'two-moons'?"),
        ("3:23", "unknown field of process 'flow'"),
        ("8:10", "must be >= 1; got -1"),
    ]:
        (line,) = [line for line in said.stderr.splitlines() if line.startswith(f"{spec}:{place}: ")]
        assert message in line
    assert "3 faults" in said.stderr


def test_check_gives_the_same_faults_as_json(tmp_path: Path):
    spec = tmp_path / "bad.yaml"
    spec.write_text(BAD)
    told = json.loads(call("check", spec, "--json", code=2).stdout)
    assert not told["ok"]
    assert [(f["line"], f["column"], f["path"]) for f in told["faults"]] == [
        (2, 14, "data.type"),
        (3, 23, "process.speed"),
        (8, 10, "solver.steps"),
    ]


def test_check_finds_parts_that_do_not_fit(place: Path):
    shown = call("check", place / "spec.yaml", "--set", "prediction=eps", code=2)
    assert "'eps'" in shown.stderr
    told = json.loads(call("check", place / "spec.yaml", "--set", "prediction=eps", "--json", code=2).stdout)
    assert [(f["file"], f["path"]) for f in told["faults"]] == [("--set prediction=eps", "prediction")]


def test_explain_shows_the_final_grid_in_closed_form(place: Path):
    told = json.loads(call("explain", place / "spec.yaml", "--set", "solver.steps=5", "--json").stdout)
    assert (told["process"], told["solver"], told["steps"]) == ("flow", "heun", 5)
    assert told["calls"] == 2 * 5 - 1, "Heun's last step to t = 0 is Euler's"
    times = [row["t"] for row in told["grid"]]
    assert times[0] == 1
    assert times[-1] == 0
    assert times == sorted(times, reverse=True)
    for row in told["grid"]:
        assert row["alpha"] == pytest.approx(1 - row["t"], abs=1e-12)
        assert row["sigma"] == pytest.approx(row["t"], abs=1e-12)
        inside = 0 < row["t"] < 1
        assert row["lam"] == (pytest.approx(math.log((1 - row["t"]) / row["t"])) if inside else None)


def test_explain_as_a_table_has_a_line_per_node(place: Path):
    lines = call("explain", place / "spec.yaml").stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split() == ["STEP", "T", "ALPHA", "SIGMA", "LAM"])
    assert [line.split()[0] for line in lines[start + 1 :]] == ["0", "1", "2", "3", "4"]


def test_explain_says_where_every_value_is_from(place: Path):
    spec = place / "spec.yaml"
    told = json.loads(call("explain", spec, "--set", "solver.steps=5", "--origin", "--json").stdout)
    where = {v["path"]: (v["value"], v["origin"]) for v in told["origin"]}
    assert where["name"] == ("tiny", f"{spec}:2:7")
    assert where["solver.steps"] == (5, "--set solver.steps=5")
    assert where["seed"] == (0, "default")
    assert "solver.steps" in call("explain", spec, "--origin").stdout


def test_schema_is_valid_and_takes_the_spec(place: Path):
    schema = json.loads(call("schema").stdout)
    jsonschema.Draft7Validator.check_schema(schema)
    from diffcore.run.sections import load_spec
    from diffcore.specs import unstructure
    from diffcore.specs.registry import Registry

    registry = Registry.load()
    jsonschema.validate(unstructure(registry, load_spec(place / "spec.yaml", registry)), schema)
    grids = json.loads(call("schema", "--kind", "grids").stdout)
    jsonschema.validate({"type": "karras"}, grids)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"type": "heun"}, grids)


def test_run_prints_its_table_and_where_the_report_is(place: Path):
    said = (place / "said").read_text()
    rows = json.loads((place / "run" / "evaluation.json").read_text())
    assert [line.split()[:3] for line in said.splitlines()[1 : 1 + len(rows)]] == [
        [r["label"], str(r["steps"]), str(r["calls"])] for r in rows
    ]
    assert [(r["solver"], r["calls"]) for r in rows] == [("heun", 7), ("euler", 2), ("euler", 4)]
    assert f"report: {place / 'run' / 'report.html'}" in said


def test_sample_needs_nothing_but_the_run(place: Path):
    call("sample", place / "run", "-n", 5, "--out", place / "a.npz")
    call("sample", place / "run", "-n", 3, "--out", place / "b.safetensors")
    call("sample", place / "run", "-n", 3, "--seed", 1, "--out", place / "c.npz")
    five, other = np.load(place / "a.npz")["x"], np.load(place / "c.npz")["x"]
    three = load_file(place / "b.safetensors")["x"].numpy()
    assert five.shape == (5, 2)
    np.testing.assert_allclose(five[:3], three, rtol=0, atol=1e-5)  # sample i does not depend on how many there are
    assert np.abs(three - other).max() > 0.01


def test_sample_takes_the_spec_s_number_and_a_default_place(place: Path):
    shown = call("sample", place / "run", "--seed", 9)
    (made,) = (place / "run" / "samples").glob("seed-9.*")
    assert shown.stdout.startswith("16 samples of shape (2,), 7 network calls")
    assert str(made) in shown.stdout


def test_sample_takes_another_solver(place: Path):
    other = ["--set", "solver.type=euler", "--set", "solver.steps=3"]
    shown = call("sample", place / "run", "-n", 2, *other, "--out", place / "d.npz")
    assert "3 network calls" in shown.stdout


def test_samples_that_were_asked_for_differently_have_different_names(place: Path):
    folder = place / "run" / "samples"
    ways = [[], ["-n", 2], ["--set", "solver.steps=2"], ["--set", "solver={type: euler}"], ["--set", "solver={type: ddim}"]]
    made = [call("sample", place / "run", "--seed", 5, *words).stdout.rpartition(": ")[2].strip() for words in ways]
    assert [Path(file).parent for file in made] == [folder] * 5
    assert [Path(file).name for file in made[:3]] == [
        "seed-5.safetensors",
        "seed-5,n-2.safetensors",
        "seed-5,solver.steps=2.safetensors",
    ]
    assert len(set(made)) == 5
    assert all(Path(file).exists() for file in made)


@pytest.mark.parametrize("words", [["sample", "run", "-n", "1"], ["check", "spec.yaml"]])
def test_what_a_new_type_of_solver_drops_is_said_once_on_stderr(place: Path, words: list[str]):
    command = [sys.executable, "-m", "diffcore", *words, "--set", "solver.type=euler"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=place)
    assert shown.stderr.count("what was set for 'heun' is dropped: steps (4)") == 1
    assert "dropped" not in shown.stdout


def test_only_the_first_of_several_processes_speaks(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    assert call("sample", place / "run", "-n", 2, "--out", place / "f.npz").output == ""


def test_sample_refuses_a_condition_that_the_data_lacks(place: Path):
    shown = call("sample", place / "run", "--cond", "label=3", "--out", place / "e.npz", code=2)
    assert "no condition 'label'" in shown.stderr
    assert not (place / "e.npz").exists()


def test_sample_from_damaged_weights_is_one_message(place: Path, tmp_path: Path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((place / "run" / "weights.safetensors").read_bytes()[:-10])
    shown = call("sample", weights, code=2)
    assert str(weights) in shown.stderr
    assert "damaged" in shown.stderr


def test_evaluate_gives_the_table_of_the_run(place: Path):
    def values(rows: list[dict[str, Any]]) -> list[Any]:
        return [(r["solver"], r["calls"], r["metrics"]["SW2"]["value"]) for r in rows]

    before = json.loads((place / "run" / "evaluation.json").read_text())
    told = json.loads(call("evaluate", place / "run", "--json").stdout)
    assert [v[:2] for v in values(told)] == [v[:2] for v in values(before)]
    assert [v[2] for v in values(told)] == pytest.approx([v[2] for v in values(before)])


def test_fit_of_a_run_whose_solvers_need_none_says_so(place: Path):
    assert "no solver of" in call("calibrate", place / "run").stdout
    assert json.loads(call("calibrate", place / "run", "--json").stdout) == {}


def test_a_run_without_training_has_a_report_without_a_loss_curve(place: Path, tmp_path: Path):
    call("run", place / "spec.yaml", "--set", "trainer.steps=0", "--out", tmp_path / "still")
    page = (tmp_path / "still" / "report.html").read_text()
    assert "loss curve" not in page
    assert "loss curve" in (place / "run" / "report.html").read_text()


def test_evaluate_with_another_spec_says_so_beside_the_table(place: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    assert "Measured under another spec" not in (run / "report.html").read_text()
    call("evaluate", run, "--set", "evaluation.n=10")
    assert "n: 32" in (run / "spec.yaml").read_text()
    assert "n: 10" in (run / "evaluation.yaml").read_text()
    page = (run / "report.html").read_text()
    assert "Measured under another spec" in page
    assert "-  n: 32\n+  n: 10" in page


def test_compare_puts_runs_side_by_side(place: Path):
    call("train", place / "spec.yaml", "--out", place / "other", "--set", "trainer.steps=1")
    call("evaluate", place / "other")
    told = json.loads(call("compare", place / "run", place / "other", "--json").stdout)
    assert [row["run"] for row in told] == ["run"] * 3 + ["other"] * 3
    shown = call("compare", place / "run", place / "other", "--out", place / "both.html").stdout
    assert [line.split()[0] for line in shown.splitlines()[1:7]] == ["run"] * 3 + ["other"] * 3
    assert "<html" in (place / "both.html").read_text()


def test_a_terminal_without_unicode_reads_and_writes_the_same(place: Path, tmp_path: Path):
    shutil.copytree(place / "run", tmp_path / "Läufe")
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "diffcore", "compare", tmp_path / "Läufe", "--out", tmp_path / "page.html"]
    subprocess.run(command, check=True, capture_output=True, env=env)
    assert "<h1>Läufe</h1>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_compare_tells_runs_of_one_name_apart(place: Path, monkeypatch: pytest.MonkeyPatch):
    for above in ("a", "b"):
        shutil.copytree(place / "run", place / above / "run")
    told = json.loads(call("compare", place / "a" / "run", place / "b" / "run", "--out", place / "ab.html", "--json").stdout)
    assert list(dict.fromkeys(row["run"] for row in told)) == ["a/run", "b/run"]
    assert "<h1>a/run and b/run</h1>" in (place / "ab.html").read_text()
    monkeypatch.chdir(place / "run")
    assert {row["run"] for row in json.loads(call("compare", ".", place / "run", "--json").stdout)} == {"run"}


def test_compare_with_a_run_that_was_not_measured_says_what_to_do(place: Path):
    call("train", place / "spec.yaml", "--out", place / "bare", "--set", "trainer.steps=1")
    assert f"diffcore evaluate {place / 'bare'}" in call("compare", place / "bare", code=2).stderr


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("lock.json", ""),
        ("lock.json", "[1]"),
        ("lock.json", None),
        ("spec.yaml", None),
        ("metrics.jsonl", '{"step": 1, "loss": 2.0}\n3\n{"step": 2, "loss": 1.0}\n'),
        ("metrics.jsonl", '{"loss": 2.0}\n'),
        ("evaluation.json", ""),
        ("evaluation.json", "[]"),
        ("evaluation.json", "[1]"),
        ("evaluation.json", "{}"),
        ("evaluation.json", '[{"solver": "heun"}]'),
        ("evaluation.json", None),
    ],
)
def test_a_damaged_run_is_one_message_that_names_the_file(place: Path, tmp_path: Path, file: str, text: str | None):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    (run / file).unlink() if text is None else (run / file).write_text(text)
    said = call("compare", run, "--out", tmp_path / "page.html", code=2).stderr
    assert said.startswith(f"Error: {run / file} ")
    assert said.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_a_table_whose_metrics_are_no_numbers_is_damaged(place: Path, tmp_path: Path):
    shutil.copytree(place / "run", tmp_path / "run")
    rows = json.loads((place / "run" / "evaluation.json").read_text())
    for metrics in ({"SW2": 3}, {"SW2": {"value": 3}}, 3, None):
        (tmp_path / "run" / "evaluation.json").write_text(json.dumps([{**rows[0], "metrics": metrics}]))
        assert "evaluation.json is damaged" in call("compare", tmp_path / "run", code=2).stderr


@pytest.mark.parametrize("out", ["", " ", "{place}/spec.yaml", "{place}/spec.yaml/x", "/proc/diffcore/x"])
@pytest.mark.parametrize("command", ["run", "train"])
def test_a_folder_that_cannot_be_written_is_found_before_training(place: Path, command: str, out: str):
    words = ["--set", "trainer.steps=100000000", "--out", out.format(place=place)]
    assert call(command, place / "spec.yaml", *words, code=2).stderr.startswith("Error: --out ")


@pytest.mark.parametrize("out", ["", "{place}/run/weights.safetensors/a.npz", "/proc/diffcore.npz", "{place}/folder.npz"])
def test_a_file_that_cannot_be_written_is_found_before_sampling(place: Path, out: str):
    (place / "folder.npz").mkdir(exist_ok=True)
    words = ["-n", 100_000_000, "--out", out.format(place=place)]
    assert call("sample", place / "run", *words, code=2).stderr.startswith("Error: --out ")
    assert call("compare", place / "run", "--out", out.format(place=place), code=2).stderr.startswith("Error: --out ")


@pytest.mark.parametrize("command", ["compare", "evaluate"])
def test_a_weights_file_is_no_run(place: Path, command: str):
    assert "is not a run directory" in call(command, place / "run" / "weights.safetensors", code=2).stderr


def test_missing_packages_for_pictures_are_found_before_training(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ["--set", "trainer.steps=100000000"]
    said = call("run", place / "spec.yaml", "--out", tmp_path / "run", *words, code=2).stderr
    assert said == "Error: pictures and reports need matplotlib: pip install 'diffcore[report]'\n"
    assert not (tmp_path / "run").exists()
    call("train", place / "spec.yaml", "--out", tmp_path / "run")
    assert "diffcore[report]" in call("evaluate", tmp_path / "run", code=2).stderr


def test_a_picture_that_fails_costs_no_measurement(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise diffcore.RunError("no ink")

    monkeypatch.setattr("diffcore.run.report.gallery.picture", fail)
    assert "no ink" in call("run", place / "spec.yaml", "--out", tmp_path / "run", code=1).stderr
    assert len(json.loads((tmp_path / "run" / "evaluation.json").read_text())) == 3
    assert len(load_file(tmp_path / "run" / "samples" / "samples.safetensors")["x"]) == 16


def test_two_variants_of_a_solver_are_told_apart(place: Path, tmp_path: Path):
    solvers = "evaluation.solvers=[{type: ddim}, {type: ddim, eta: 1}]"
    shutil.copytree(place / "run", tmp_path / "run")
    said = call("evaluate", tmp_path / "run", "--set", solvers, "--set", "evaluation.calls=[4]").stdout
    rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [row["label"] for row in rows] == ["heun", "ddim", "ddim(eta=1)"]
    assert [line.split()[0] for line in said.splitlines()[1:]] == ["heun", "ddim", "ddim(eta=1)"]
    pictures = [tmp_path / "run" / row["picture"] for row in rows]
    assert len(set(pictures)) == 3
    assert pictures[1].read_bytes() != pictures[2].read_bytes()
    assert all(set(path.name) <= set(string.ascii_letters + string.digits + "._=-") for path in pictures)
    assert list(budgets([_read("run", tmp_path / "run")], "SW2")) == ["ddim", "ddim(eta=1)"]


def test_the_report_shows_real_data_beside_the_samples(place: Path, tmp_path: Path):
    page = (place / "run" / "report.html").read_text()
    assert "real data, drawn at random" in page
    assert base64.b64encode((place / "run" / "samples" / "reference.png").read_bytes()).decode() in page
    assert "is the same metric between two sets of real data of that size" in page
    assert "Each pair of rows" not in page, "there are no images"
    assert "Each line is one sample" in page
    assert "Every solver" in page
    shutil.copytree(place / "run", tmp_path / "run")
    call("evaluate", tmp_path / "run", "--set", "evaluation.solvers=[]", "--set", "evaluation.calls=[]")
    assert "Every solver" not in (tmp_path / "run" / "report.html").read_text(), "it would be the samples once more"


def test_outliers_do_not_set_the_axes_of_points():
    figures: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffcore.run.report.pictures.png", lambda figure: figures.append(figure) or b"")
        for x in (torch.zeros(5, 2), torch.tensor([[0.0, 0.5], [40.0, 0.0], [0.0, -90.0]])):
            picture(x, diffcore.Range(lo=-2.0, hi=3.0), 10)
    assert [(f.axes[0].get_xlim(), f.axes[0].get_ylim()) for f in figures] == [((-2.0, 3.0), (-2.0, 3.0))] * 2
    assert [f.axes[0].get_title().strip() for f in figures] == ["", "2 of 3 lie outside"]


def test_a_run_that_diverges_is_exit_code_1(place: Path):
    extra = ["--set", "trainer.lr=100", "--set", "trainer.warmup=0", "--set", "trainer.clip=null"]
    shown = call("train", place / "spec.yaml", "--out", place / "nan", "--set", "trainer.steps=20", *extra, code=1)
    assert "step" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_control_c_leaves_a_checkpoint_from_which_the_same_command_goes_on(place: Path, tmp_path: Path):
    out, steps = tmp_path / "run", 200
    words = ["train", str(place / "spec.yaml"), "--set", f"trainer.steps={steps}", "--set", "trainer.log_every=1"]
    command = [*words, "--out", str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-m", "diffcore", *command], stderr=subprocess.PIPE, text=True, env=env) as running:
        while not (out / "metrics.jsonl").exists() and running.poll() is None:
            time.sleep(0.005)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert f"interrupted; resume with: {shlex.join(['diffcore', *command])}" in said
    assert "Traceback" not in said
    (saved,) = (out / "checkpoints").glob("step-*.safetensors")
    assert 0 < int(saved.stem.removeprefix("step-")) < steps
    for folder in (out, tmp_path / "unstopped"):
        subprocess.run([sys.executable, "-m", "diffcore", *words, "--out", str(folder)], env=env, check=True, capture_output=True)
    stopped, unstopped = (load_file(folder / "weights.safetensors") for folder in (out, tmp_path / "unstopped"))
    assert all(torch.equal(stopped[name], unstopped[name]) for name in unstopped)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{type: flow}", "{type:flow}", "write a space after the colon of 'type:flow'"),
        ("solver:", "sampler:", "sampler: unknown field of a spec; did you mean 'solver'?"),
        ("network:", "prediction: noise\nnetwork:", "did you mean 'eps'?"),
        ("{n: 16, batch: 16}", "{cond: {y: [1.0, 2.0]}}", "vectors are given in Python only: sample(cond={'y': ...})"),
    ],
)
def test_what_is_meant_is_said(tmp_path: Path, old: str, new: str, said: str):
    assert old in SPEC
    (tmp_path / "spec.yaml").write_text(SPEC.replace(old, new))
    assert said in call("check", tmp_path / "spec.yaml", code=2).stderr


def test_the_fields_there_are_are_listed_once(tmp_path: Path):
    (tmp_path / "spec.yaml").write_text(SPEC + "".join(f"zq{i}: 1\n" for i in range(60)))
    said = call("check", tmp_path / "spec.yaml", code=2).stderr
    assert said.count("unknown field of a spec") == 60
    assert said.count("fields: diffcore, name, seed") == 1


@pytest.mark.parametrize("command", ["train", "check", "explain"])
def test_a_run_is_no_spec_but_holds_one(place: Path, command: str):
    assert (
        f"is a folder; the spec of a run is in it: {place / 'run' / 'spec.yaml'}" in call(command, place / "run", code=2).stderr
    )


def test_the_spec_of_a_run_says_where_it_goes_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    said = call("train", place / "run" / "spec.yaml").stderr
    assert f"is of the run {place / 'run'}, and runs/tiny is another; to go on there: --out {place / 'run'}" in said
    assert "note: " not in call("train", "runs/tiny/spec.yaml").stderr


def test_weights_of_another_width_are_one_line(place: Path, tmp_path: Path):
    made = call("train", place / "spec.yaml", "--out", tmp_path, f"--set=init={place / 'run'}", "--set=network.width=9", code=2)
    assert re.search(r"has shape \[\d+, 64\] there, \[9, 64\] here; set the network to the size of those weights", made.stderr)
    assert "torch.Size" not in made.stderr

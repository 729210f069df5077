"""A run directory has one owner and needs nothing that is no part of its result: stopped, foreign, renamed, uninstalled."""

from __future__ import annotations

import copy
import errno
import hashlib
import os
import re
import resource
import shutil
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffcore_data import pictures
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import diffcore as dc
from diffcore.cli import main
from diffcore.learning import distributed
from diffcore.learning.trainer import Report
from diffcore.run import checkpoint, ownership, record, runs, weights
from diffcore.run.metadata import Known

SPEC: dict[str, Any] = {
    "diffcore": 1,
    "name": "small",
    "data": {"type": "two-moons"},
    "process": {"type": "flow"},
    "network": {"type": "mlp", "width": 8, "depth": 1},
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 12, "batch": 8, "warmup": 0, "checkpoint_every": 4, "log_every": 1},
    "solver": {"type": "euler", "steps": 2},
    "sampling": {"n": 4},
    "evaluation": {"n": 8},
}


@pytest.fixture(scope="module")
def registry():
    return dc.Registry.load()


def with_(**sections: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SPEC), **sections}


def trainer(**fields: Any) -> dict[str, Any]:
    return {**SPEC["trainer"], **fields}


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder below one, and what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


class KilledError(Exception):
    """The process ends here."""


class Killing:
    """A progress display that ends the process after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def start(self, total, label, done=0):
        pass

    def update(self, step, **numbers):
        if step == self.step:
            raise KilledError

    def close(self):
        pass


def killed(folder: Path, registry: dc.Registry, spec: dict[str, Any] = SPEC, step: int = 10) -> Path:
    with pytest.raises(KilledError):
        runs.train(spec, folder, registry=registry, progress=Killing(step))
    return folder


@pytest.fixture(scope="module")
def finished(registry, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    runs.train(SPEC, folder, registry=registry)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


# --- one owner --------------------------------------------------------------------------------------------------------


def held_by_another(folder: Path) -> tuple[threading.Thread, threading.Event]:
    """A thread that owns the folder: for the lock, another owner."""
    ready, done = threading.Event(), threading.Event()

    def hold() -> None:
        with ownership.owned(folder):
            ready.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert ready.wait(60)
    return thread, done


def test_whoever_comes_second_is_refused_and_changes_nothing(registry, run):
    thread, done = held_by_another(run)
    before = tree(run)
    try:
        for work in (
            lambda: runs.train(SPEC, run, registry=registry),
            lambda: runs.run(SPEC, run, registry=registry),
            lambda: runs.evaluate_run(run),
            lambda: runs.calibrate_run(run),
            lambda: dc.assemble(SPEC, registry=registry).train(run),
            lambda: dc.assemble(SPEC, registry=registry).save(run),
        ):
            with pytest.raises(dc.CheckpointError, match=rf"is in use by process {os.getpid()} on .*; wait for it"):
                work()
        assert tree(run) == before
        assert runs.sample_run(run, out=run.parent / "s.npz").n == 4  # reading is free
    finally:
        done.set()
        thread.join()
    runs.train(SPEC, run, registry=registry)


def test_the_lock_of_a_killed_process_holds_nobody_up(registry, run):
    (run / ".lock").write_text("1 elsewhere\n")
    runs.train(SPEC, run, registry=registry)


LEFT = {
    "all": (),
    "without checkpoints": ("checkpoints",),
    "weights alone": ("checkpoints", "spec.yaml", "lock.json", "metrics.jsonl"),
    "checkpoints alone": ("weights.safetensors", "spec.yaml", "lock.json"),
}


@pytest.mark.parametrize("gone", LEFT.values(), ids=LEFT)
@pytest.mark.parametrize("changed", [{"seed": 5}, {"trainer": trainer(lr=0.5, steps=0)}], ids=["seed", "no steps"])
def test_a_run_of_another_spec_is_refused_and_changes_nothing(registry, run, gone, changed):
    for name in (*gone, ".lock"):
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    before = tree(run)
    for work in (
        lambda: runs.train(with_(**changed), run, registry=registry),
        lambda: dc.assemble(with_(**changed), registry=registry).train(run),
        lambda: dc.assemble(with_(**changed), registry=registry).save(run),
    ):
        with pytest.raises(dc.CheckpointError, match=r"belongs to another spec \((seed: 0 -> 5|trainer.lr: 0.001 -> 0.5)"):
            work()
        assert tree(run) == before


def test_where_only_the_spec_can_be_read_it_says_whose_the_results_are(registry, run):
    shutil.rmtree(run / "checkpoints")
    (run / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(dc.CheckpointError, match="belongs to another spec"):
        runs.train(with_(seed=5), run, registry=registry)
    runs.train(SPEC, run, registry=registry)
    assert dc.Pipeline.load(run, registry=registry).step == 12


def test_weights_whose_checkpoints_are_gone_are_not_lost_to_fewer_steps(registry, run):
    """Their steps may differ from what is asked, but without checkpoints nothing can be continued or ended."""
    shutil.rmtree(run / "checkpoints")
    before = (run / "weights.safetensors").read_bytes()
    for steps in (0, 3, 20):
        with pytest.raises(dc.CheckpointError, match=rf"trainer.steps: 12 -> {steps}"):
            runs.train(with_(trainer=trainer(steps=steps)), run, registry=registry)
    assert (run / "weights.safetensors").read_bytes() == before


def test_nothing_is_made_where_a_run_is_refused(registry, tmp_path):
    def refuse() -> None:
        raise dc.CheckpointError("no")

    with pytest.raises(dc.CheckpointError, match="no"), ownership.owned(tmp_path / "a" / "b", refuse):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_be_written_is_found_before_the_work(run, monkeypatch):
    def refuse(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(dc.Pipeline, "evaluate", lambda *_, **__: pytest.fail("it has begun"))
    monkeypatch.setattr(dc.Pipeline, "ready", lambda *_, **__: pytest.fail("it has begun"))
    before = tree(run)
    for work in (runs.evaluate_run, runs.calibrate_run):
        with pytest.raises(dc.SpecError, match=r"run: nothing can be written there \(Read-only file system\)"):
            work(run)
    assert tree(run) == before


def test_an_evaluation_that_cannot_begin_changes_nothing(run):
    before = tree(run)
    with pytest.raises(dc.SpecError):
        runs.evaluate_run(run, overrides=["trainer.lr=3.0"])
    assert tree(run) == before


def test_what_killed_writers_left_is_removed_by_the_next_owner(registry, run):
    dead = 2**22 + 12345  # above the largest process number of Linux
    left = [run / f".weights.safetensors.{dead}.tmp", run / "checkpoints" / f".step-00000012.safetensors.{os.getpid()}.tmp"]
    kept = [run / f".spec.yaml.{os.getppid()}.tmp", run / ".notes.tmp"]
    for path in (*left, *kept):
        path.write_text("half")
    with ownership.owned(run):
        assert [path.exists() for path in (*left, *kept)] == [False, False, True, True]


@pytest.mark.parametrize("name", ["out.npz", "[a] *.npz", "out"])
def test_what_a_killed_write_left_goes_with_the_next_one_of_that_name(name, tmp_path):
    dead = 2**22 + 12345
    left = [tmp_path / f".{name}.{dead}.tmp", tmp_path / f".{name}.{os.getpid()}.tmp"]
    kept = [tmp_path / f".{name}.{os.getppid()}.tmp", tmp_path / f".other.{dead}.tmp", tmp_path / ".a b.npz.1.tmp"]
    for path in (*left, *kept):
        path.mkdir()
        (path / "half").write_text("half")
    checkpoint.write_aside(tmp_path / name, b"whole")
    assert (tmp_path / name).read_bytes() == b"whole"
    assert [path.exists() for path in (*left, *kept)] == [False, False, True, True, True]


def test_the_two_files_of_an_archive_are_swept(run, monkeypatch):
    seen: list[str] = []
    monkeypatch.setattr("zipfile.ZipFile", lambda path, *rest: seen.append(path.name) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runs.sample_run(run, n=2, out=run.parent / "s.npz")
    (run.parent / seen[0].replace(str(os.getpid()), str(2**22 + 12345))).write_text("half")
    checkpoint.sweep(run.parent, "s.npz")
    assert not list(run.parent.glob(".s.npz*"))


def test_a_checkpoint_that_makes_way_while_it_is_read_is_looked_for_again(run):
    folder = run / "checkpoints"
    newest, *_ = checkpoint.checkpoints(folder)
    later = folder / "step-00000099.safetensors"

    def read(path: Path) -> Path:
        if path != later:  # the trainer keeps a newer one, and removes all others
            shutil.copy(newest, later)
            for old in checkpoint.checkpoints(folder)[1:]:
                old.unlink()
            raise dc.CheckpointError(f"{path} does not exist")
        return path

    assert checkpoint.latest(folder, read) == (later, [])


def test_checkpoints_that_outlived_their_pruning_go_at_the_next_start(registry, run):
    kept = checkpoint.checkpoints(run / "checkpoints")
    meta = checkpoint.load(kept[0])
    for step in (1, 2):
        checkpoint.save(run / "checkpoints" / f"step-{step:08d}.safetensors", meta[0], {**meta[1], "step": step})
    runs.train(SPEC, run, registry=registry)
    assert checkpoint.checkpoints(run / "checkpoints") == kept


# --- a run that was stopped -------------------------------------------------------------------------------------------


def test_a_killed_run_is_sampled_ended_and_started_from(registry, tmp_path, caplog):
    """All by the averaged weights of its checkpoint of step 8, which are those of a training of 8 steps."""
    run = killed(tmp_path / "run", registry)
    reference = dc.assemble(with_(trainer=trainer(steps=8)), registry=registry)
    reference.train()
    wanted = reference.sample(4, seed=1).x
    newest = run / "checkpoints" / "step-00000008.safetensors"
    for path in (run, newest):
        file = runs.sample_run(path, n=4, seed=1).path
        assert torch.equal(load_file(file)["x"], reference.spec.data.decode(wanted))
        assert file.parent == run / "samples"
    assert "has not ended: its averaged weights at step 8 are taken" in caplog.text
    for path in (run, newest):
        begun = dc.assemble(with_(init=str(path), trainer=trainer(lr=1e-4)), registry=registry)
        assert all(torch.equal(a, b) for a, b in zip(begun.net.parameters(), reference.net.parameters(), strict=True))
    for steps in (8, 5):
        runs.train(with_(trainer=trainer(steps=steps)), run, registry=registry)
        assert torch.equal(dc.Pipeline.load(run, registry=registry).sample(4, seed=1).x, wanted)
    runs.train(SPEC, run, registry=registry)  # and it may go on after all
    assert dc.Pipeline.load(run, registry=registry).step == 12


def test_where_the_rate_depends_on_the_steps_a_run_ends_at_its_checkpoint_only(registry, tmp_path):
    def falling(steps: int) -> dict[str, Any]:
        return with_(trainer=trainer(steps=steps, final_lr=0.0))

    run = killed(tmp_path / "run", registry, falling(100))
    with pytest.raises(dc.CheckpointError, match=r"trainer.steps: 100 -> 50\).*--set init=.* or end .* --set trainer.steps=8"):
        runs.train(falling(50), run, registry=registry)
    runs.train(falling(8), run, registry=registry)
    assert dc.Pipeline.load(run, registry=registry).step == 8
    with pytest.raises(dc.CheckpointError, match=r"choose another --out$"):  # init would not fit
        runs.train(with_(network={"type": "mlp", "width": 9, "depth": 1}), run, registry=registry)


def test_damaged_weights_name_the_checkpoint_that_can_be_taken(run, registry):
    file = run / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(dc.CheckpointError, match=r"weights.safetensors is damaged.*take .*step-00000012.safetensors instead"):
        dc.Pipeline.load(run, registry=registry)
    dc.Pipeline.load(run / "checkpoints" / "step-00000012.safetensors", registry=registry)


@dc.component
class Tied(dc.Network):
    """One matrix used twice."""

    def build(self, event, cond, outputs=None):
        class Net(nn.Module):
            """(x, v) -> W W x."""

            def __init__(self):
                super().__init__()
                self.first = nn.Linear(2, 2)
                self.again = self.first

            def forward(self, x, t, s=None):
                return self.again(self.first(x))

        return Net()


def test_a_checkpoint_of_tied_weights_can_be_sampled(registry, tmp_path):
    registry.add(Tied, "tied")
    run = killed(tmp_path / "run", registry, with_(network={"type": "tied"}))
    net: Any = dc.Pipeline.load(run, registry=registry).net
    assert net.again.weight is net.first.weight


def test_a_killed_run_whose_process_learns_can_be_sampled(registry, tmp_path):
    """Its process is that of the averaged weights, which the checkpoint's own numbers are not."""
    process = {"type": "vdm", "schedule": "network", "learn_ends": True}
    spec = with_(process=process, prediction="v", loss={"type": "vdm"}, trainer=trainer(lr=0.05), solver={"type": "ancestral"})
    run = killed(tmp_path / "run", registry, spec)
    loaded = dc.Pipeline.load(run, registry=registry)
    stored = weights.read(run).meta.fingerprint
    assert max(abs(a - b) for a, b in zip(stored, loaded.process.fingerprint(), strict=True)) > 1e-6
    assert bool(loaded.sample(4).x.isfinite().all())


def test_the_numbers_of_a_failed_start_do_not_stay(registry, tmp_path):
    """Killed before its first checkpoint, a run begins anew, under another spec too, and with a log of its own."""
    run = killed(tmp_path / "run", registry, with_(trainer=trainer(lr=0.1)), step=3)
    runs.train(SPEC, run, registry=registry)
    fresh = runs.train(SPEC, tmp_path / "fresh", registry=registry)
    assert record.read_metrics(run / "metrics.jsonl") == record.read_metrics(fresh / "metrics.jsonl")


def test_a_log_that_cannot_grow_is_one_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = record.MetricsLog(path)
    log(Report(1, {"loss": 1.0}))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        with pytest.raises(dc.RunError, match=r"metrics\.jsonl could not be written \(File too large\)"):
            log(Report(2, {"loss": 1.0}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert record.read_metrics(path) == [{"step": 1, "loss": 1.0}]


@pytest.mark.parametrize("command", ["bench", "trajectory"])
def test_what_cannot_be_written_is_said_before_the_work(command, run, monkeypatch):
    from diffcore.run import benching

    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("it has begun")

    monkeypatch.setattr(benching, "bench", work)
    monkeypatch.setattr(benching, "steps_of", work)
    shown = CliRunner().invoke(main, [command, str(run), "--out", "/proc/diffcore"], catch_exceptions=False)
    assert shown.exit_code == 2
    assert "no folder can be written there" in shown.stderr


def test_a_batch_that_cannot_be_shared_is_said_before_the_processes_meet(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(distributed, "start", lambda: pytest.fail("they have met"))
    with pytest.raises(dc.DataError, match="batch size 8 cannot be shared evenly by 3 processes"):
        runs.train(SPEC, tmp_path / "run", registry=registry)


# --- parts that are gone ----------------------------------------------------------------------------------------------


@dc.component
class Odd(dc.Stepper):
    """Euler's rule."""

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, h=s.t - t.t)

    def step(self, field, x, row, carry, z):
        return dc.Moved(dc.lincomb((1, x), (row.h, field.velocity(x, row.t))), carry)


@dc.component
class OddLoss(dc.Loss):
    """Squared error of the velocity."""

    def __call__(self, model, x0, draw, **cond):
        c = model.process.corrupt(x0, draw.uniform(), draw.fold(1))
        return (model(c.xt, c.at).read("velocity") - c.target("velocity")).square().mean(1)


@dc.component
class OddTrainer(dc.Trainer):
    """The ordinary training."""


@dc.component
class OddMetric(dc.Metric):
    """The number of samples."""

    def measure(self, ev):
        return {"count": dc.Measured(value=float(len(ev.samples)), n=len(ev.samples))}


@dc.component
class OddGuidance(dc.Guidance):
    """None."""


ODD = {"solver": Odd, "loss": OddLoss, "trainer": OddTrainer, "metric": OddMetric, "guidance": OddGuidance}
GONE = {
    "solver": ({"solver": {"type": "odd"}}, "solver={type: euler, steps: 3}"),
    "guidance": ({"guidance": [{"type": "odd"}]}, "guidance=[]"),
    "metrics": ({"metrics": [{"type": "cost"}, {"type": "odd"}]}, "metrics=[]"),
    "evaluation": ({"evaluation": {"n": 8, "solvers": [{"type": "odd"}, {"type": "euler"}]}}, "evaluation.solvers=[]"),
    "trainer": ({"trainer": {**SPEC["trainer"], "type": "odd"}}, None),
    "loss": ({"loss": {"type": "odd"}}, None),
}


def made_with_odd(folder: Path, sections: dict[str, Any], dist: str) -> dict[str, torch.Tensor]:
    """Weights of a spec with a part of another distribution; returns its samples."""
    registry = dc.Registry.load()
    for cls in ODD.values():
        registry.add(cls, "odd")
    pipeline = dc.assemble(with_(**sections), registry=registry)
    file = pipeline.save(folder)
    tensors, meta = checkpoint.load(file)
    odd = {path: {**part, "dist": dist, "version": "1.5"} for path, part in meta["parts"].items() if part["id"] == "odd"}
    checkpoint.save(file, tensors, {**meta, "parts": {**meta["parts"], **odd}})
    return {"x": pipeline.sample(4, seed=3).x}


@pytest.mark.parametrize("section", ["solver", "guidance"])
def test_a_run_whose_plugin_is_gone_says_which_and_samples_without_it(section, registry, tmp_path):
    sections, replaced = GONE[section]
    wanted = made_with_odd(tmp_path, sections, "acme-parts")["x"]
    for overrides in ([], ["sampling.n=2"], ["solver.steps=7"]):
        with pytest.raises(dc.UnknownComponentError, match=r"'odd' of acme-parts 1.5.*pip install acme-parts==1.5, or .*--set"):
            dc.Pipeline.load(tmp_path, registry=registry, overrides=overrides)
    loaded = dc.Pipeline.load(tmp_path, registry=registry, overrides=[replaced])
    if section == "guidance":
        assert torch.equal(loaded.sample(4, seed=3).x, wanted)
    assert loaded.evaluate()


@pytest.mark.parametrize("section", ["metrics", "evaluation", "trainer", "loss"])
def test_what_no_sample_depends_on_may_be_gone(section, registry, tmp_path, caplog):
    sections, replaced = GONE[section]
    wanted = made_with_odd(tmp_path, sections, "acme-parts")["x"]
    loaded = dc.Pipeline.load(tmp_path, registry=registry)
    assert torch.equal(loaded.sample(4, seed=3).x, wanted)
    assert "'odd' of acme-parts 1.5, which is not installed" in caplog.text
    needing = loaded.evaluate if replaced else loaded.train
    for work in (needing, lambda: loaded.save(tmp_path / "copy")):
        with pytest.raises(dc.UnknownComponentError, match=r"'odd' of acme-parts 1.5"):
            work()
    if replaced:
        assert dc.Pipeline.load(tmp_path, registry=registry, overrides=[replaced]).evaluate()


def test_a_part_of_another_distribution_under_the_same_id_is_another_part(registry, tmp_path):
    made_with_odd(tmp_path, GONE["solver"][0], "acme-parts")
    other = dc.Registry.load()
    other.add(Odd, "odd")
    with pytest.raises(dc.UnknownComponentError, match=r"acme-parts 1\.5, which is not installed"):
        dc.Pipeline.load(tmp_path, registry=other)
    made_with_odd(tmp_path / "local", GONE["solver"][0], "local")
    assert len(dc.Pipeline.load(tmp_path / "local", registry=other).sample(2).x) == 2
    with pytest.raises(dc.UnknownComponentError, match="a class of a Python session"):
        dc.Pipeline.load(tmp_path / "local", registry=registry)


def test_an_id_that_two_distributions_have_since_means_the_one_of_the_run(registry, tmp_path):
    dc.assemble(SPEC, registry=registry).save(tmp_path)
    other = dc.Registry.load()
    other.add(Odd, "euler")
    assert type(dc.Pipeline.load(tmp_path, registry=other).spec.solver) is registry.get("solver", "euler")


# --- the spec inside a file is text -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["{other}", "extends: {other}\n", "extends: [{other}]\nname: x\n", "name: ${{env:HOME}}\n", "- 1\n"]
)
def test_a_weights_file_leads_to_no_other_file(spec, finished, registry, tmp_path):
    other = tmp_path / "secret.yaml"
    other.write_text("secret: words\n")
    tensors, meta = checkpoint.load(finished / "weights.safetensors")
    checkpoint.save(tmp_path / "w.safetensors", tensors, {**meta, "spec": spec.format(other=other)})
    with pytest.raises(dc.CheckpointError, match=r"w\.safetensors is damaged") as caught:
        dc.Pipeline.load(tmp_path / "w.safetensors", registry=registry)
    assert "words" not in str(caught.value)


def test_files_that_a_run_names_are_looked_for_inside_it(tmp_path):
    run = tmp_path / "run"
    (run / "samples").mkdir(parents=True)
    (run / "samples" / "a.png").write_bytes(b"inside")
    (tmp_path / "b.png").write_bytes(b"outside")
    (run / "link.png").symlink_to(tmp_path / "b.png")
    (run / "loop").symlink_to(run / "loop")
    assert record.inside(run, "samples/a.png") == run / "samples" / "a.png"
    for name in (
        "../b.png",
        str(tmp_path / "b.png"),
        "link.png",
        "samples/../../b.png",
        ".",
        "samples",
        "loop",
        "a\0b",
        "x" * 5000,
    ):
        with pytest.raises(dc.CheckpointError, match="is no file within that directory"):
            record.inside(run, name)


# --- data that has changed --------------------------------------------------------------------------------------------


def fill(folder: Path, value: int, side: int = 8, count: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(folder / f"{i}.png")


@pytest.fixture
def pets(tmp_path, monkeypatch, registry):
    """A run trained on pictures of cats and dogs; returns its folder and that of the pictures."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("cat", 50), ("dog", 200)):
        fill(tmp_path / "pets" / name, value)
    network = {"type": "unet", "width": 8}
    spec = with_(data={"type": "image-folder", "path": "pets"}, network=network, trainer=trainer(steps=2, batch=2))
    runs.train(spec, "run", registry=registry)
    return SimpleNamespace(run=Path("run"), folder=Path("pets"), spec=spec, longer={**spec, "trainer": trainer(steps=4, batch=2)})


CHANGES = {
    "renamed": (lambda pets: (pets / "cat").rename(pets / "zebra"), "class 0 was 'cat', is 'dog'"),
    "one more": (lambda pets: fill(pets / "ant", 90), r"classes was \{'label': 2\}, is \{'label': 3\}"),
    "one less": (lambda pets: shutil.rmtree(pets / "dog"), r"classes was \{'label': 2\}, is \{'label': 1\}"),
    "larger": (
        lambda pets: [fill(pets / name, 9, side=16) for name in ("cat", "dog")],
        r"samples was .\(3, 8, 8\)., is .\(3, 16, 16\).",
    ),
    "more": (lambda pets: fill(pets / "cat", 50, count=5), "number of samples was 6, is 8"),
    "gone": (lambda pets: shutil.rmtree(pets), None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_stays_as_it_was_trained_when_its_data_changes(name, pets, registry, caplog):
    change, says = CHANGES[name]
    wanted = dc.Pipeline.load(pets.run, registry=registry).sample(2, cond={"label": ["dog", "cat"]})
    before = tree(pets.run)
    change(pets.folder)
    if says:
        with pytest.raises(dc.CheckpointError, match=says):
            runs.train(pets.longer, pets.run, registry=registry)
    caplog.clear()
    loaded = dc.Pipeline.load(pets.run, registry=registry)
    made = loaded.sample(2, cond={"label": ["dog", "cat"]})
    assert torch.equal(made.x, wanted.x)
    assert torch.equal(made.cond["label"], torch.tensor([1, 0]))
    assert not says or re.search(says, caplog.text)
    assert tree(pets.run) == before
    if name != "more":
        with pytest.raises(dc.DataError):
            loaded.evaluate()


def swapped(pets: Path) -> None:
    for old, new in (("cat", "other"), ("dog", "cat"), ("other", "dog")):
        (pets / old).rename(pets / new)


def moved_one(pets: Path) -> None:
    (pets / "cat" / "2.png").unlink()
    fill(pets / "dog", 200, count=4)


@pytest.mark.parametrize("change", [swapped, moved_one, lambda pets: fill(pets / "dog", 201)])
def test_a_training_does_not_go_on_with_other_samples_under_the_same_names(change, pets, registry, caplog):
    wanted = dc.Pipeline.load(pets.run, registry=registry).sample(2)
    before = tree(pets.run)
    change(pets.folder)
    with pytest.raises(dc.CheckpointError, match=r"samples or their conditions are others \(\d of 6 looked at\)\); .*init=./run"):
        runs.train(pets.longer, pets.run, registry=registry)
    assert tree(pets.run) == before
    caplog.clear()
    assert torch.equal(dc.Pipeline.load(pets.run, registry=registry).sample(2).x, wanted.x)
    assert ("samples or their conditions are others (1 of 1 looked at)" in caplog.text) == (change is swapped)


@pytest.mark.parametrize("change", ["values", "labels", "one row"])
def test_nor_with_other_rows_of_an_array(change, tmp_path, registry):
    x, label = np.random.default_rng(0).normal(size=(200, 2)).astype("f4"), np.arange(200) % 3
    path = str(tmp_path / "a.npz")
    np.savez(path, x=x, label=label)
    data = {"type": "array", "path": path, "range": None}
    runs.train(with_(data=data), tmp_path / "run", registry=registry)
    x = {"values": x + 5, "labels": x, "one row": np.concatenate([x[:-1], x[-1:] + 1])}[change]
    np.savez(path, x=x, label=(label + (change == "labels")) % 3)
    with pytest.raises(dc.CheckpointError, match=r"samples or their conditions are others"):
        runs.train(with_(data=data), tmp_path / "run", registry=registry)


def test_samples_that_are_others_each_time_do_not_stop_a_training(registry, tmp_path):
    class Flipped(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return 100

        def __getitem__(self, i: int) -> torch.Tensor:
            return torch.full((2,), float(i)) * (1 - 2 * torch.randint(2, ()))

    local = dc.Registry.load()

    @local.add
    @dc.component
    class Flips(dc.Data):
        """Numbers with a sign of chance."""

        def open(self) -> Any:
            return Flipped()

    for steps in (2, 4):
        runs.train(with_(data={"type": "flips"}, trainer=trainer(steps=steps)), tmp_path / "run", registry=local)
    assert dc.Pipeline.load(tmp_path / "run", registry=local).step == 4


def test_a_training_goes_on_where_its_data_has_moved(pets, registry):
    pets.folder.rename("animals")
    data = {"type": "image-folder", "path": "animals"}
    runs.train({**pets.longer, "data": data}, pets.run, registry=registry)
    assert dc.Pipeline.load(pets.run, registry=registry).step == 4
    swapped(Path("animals"))
    Path("animals").rename("beasts")
    with pytest.raises(dc.CheckpointError, match=r'data\.path: "animals" -> "beasts"; samples or .* are others'):
        runs.train({**pets.longer, "data": {**data, "path": "beasts"}}, pets.run, registry=registry)


def test_a_run_that_samples_reads_no_more_of_its_pictures_than_it_must(pets, registry, monkeypatch):
    opened: set[str] = set()
    read = pictures.read
    monkeypatch.setattr(pictures, "read", lambda file, *rest: opened.add(str(file)) or read(file, *rest))
    pipeline = dc.Pipeline.load(pets.run, registry=registry)
    assert pipeline.sample(2).x.shape == (2, 3, 8, 8)
    assert len(opened) == 1
    x, cond = pipeline.source.batch(torch.tensor([0, 5]))
    assert isinstance(x, torch.Tensor)
    assert x[:, 0, 0, 0].tolist() == [50, 200]
    assert cond["label"].tolist() == [0, 1]
    assert len(opened) == 6


def test_a_picture_that_does_not_fit_the_others_is_found_where_they_are_read(pets, registry):
    fill(pets.folder / "dog", 200, side=4, count=1)
    pipeline = dc.Pipeline.load(pets.run, registry=registry)
    assert pipeline.sample(2).x.shape == (2, 3, 8, 8)
    with pytest.raises(dc.DataError, match=r"0\.png is 4 x 4 pixels"):
        pipeline.source.batch(torch.tensor([0, 1]))


def test_other_data_that_is_asked_for_may_have_other_samples(pets, registry, caplog):
    shutil.copytree(pets.folder, "more")
    fill(Path("more") / "cat", 60, count=5)
    loaded = dc.Pipeline.load(pets.run, registry=registry, overrides=["data.path=more"])
    assert loaded.source.size == 8
    assert caplog.text == ""


def test_a_class_is_named_wherever_it_is_numbered(pets, registry):
    loaded = dc.Pipeline.load(pets.run, registry=registry)
    by_number = loaded.sample(3, cond={"label": [1, 0, 1]})
    for named in (["dog", "cat", "dog"], ("dog", 0, "1"), np.array(["dog", "cat", "dog"]), torch.tensor([1, 0, 1])):
        assert torch.equal(loaded.sample(3, cond={"label": named}).x, by_number.x)
    assert torch.equal(loaded.sample(2, cond={"label": "dog"}).cond["label"], torch.tensor([1, 1]))
    fixed = dc.Pipeline.load(pets.run, registry=registry, overrides=["sampling.cond={label: dog}"])
    assert torch.equal(fixed.sample(2).cond["label"], torch.tensor([1, 1]))
    made = CliRunner().invoke(main, ["sample", str(pets.run), "-n", "2", "--cond", "label=dog", "--out", "s.npz"])
    assert made.exit_code == 0, made.output
    assert np.load("s.npz")["label"].tolist() == [1, 1]
    for wrong, says in (("dgo", "did you mean 'dog'"), ("zebra", "there are: cat, dog"), ("7", "of 0 to 1")):
        with pytest.raises(dc.SpecError, match=says):
            loaded.sample(2, cond={"label": wrong})
    with pytest.raises(dc.IncompatibleError, match="no class 'dgo'"):
        dc.assemble({**pets.spec, "sampling": {"cond": {"label": "dgo"}}}, registry=registry)
    unnamed = dc.assemble(with_(data={"type": "eight-gaussians", "conditional": True}), registry=registry)
    with pytest.raises(dc.SpecError, match="have no names: write a number"):
        unnamed.sample(2, cond={"label": "first"})


def test_a_name_of_digits_is_a_name():
    from diffcore.run.remembered import numbered

    known = Known(dc.Event(1), {"label": 3}, ("10", "2", "b"), 5)
    asked = {"label": ["10", "2", "b", 2, "0"]}
    with pytest.warns(dc.DataWarning) as said:
        assert numbered(known, asked) == {"label": [0, 1, 2, 2, 0]}
    assert [str(each.message) for each in said] == [
        "label: '2' is the class of this name, number 1; for class number 2 write its name, 'b'",
        "label: 2 is class number 2, which is named 'b'; for the class that is named '2' write it as text: '\"2\"' in a spec and "
        "Python, --cond label=2 in the command line",
    ]


@pytest.mark.parametrize("names", [(), ("0", "1", "2"), ("a", "b", "c")])
def test_a_number_that_is_no_other_s_name_is_not_spoken_of(names, recwarn):
    from diffcore.run.remembered import numbered

    known = Known(dc.Event(1), {"label": 3}, names, 5)
    assert numbered(known, {"label": [1, "2"], "other": "1"}) == {"label": [1, 2], "other": 1}
    assert numbered(known, {"label": torch.tensor([0, 1])})["label"].tolist() == [0, 1]
    assert not recwarn.list


def test_weights_say_what_they_were_made_of(finished):
    meta = weights.read_file(finished / "weights.safetensors").meta
    assert {path: (part.kind, part.id) for path, part in meta.parts.items()}["solver"] == ("solver", "euler")
    assert {part.dist for part in meta.parts.values()} <= {plugin.dist for plugin in dc.Registry.load().plugins}
    assert meta.data == Known(dc.Event(2), {}, (), None)

"""Runs that are killed, damaged, shared or fed nonsense: what the user gets is equal, or one clear error."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import diffcore as dc
from diffcore.run import checkpoint, record, runs
from diffcore.run.interrupt import Interrupt

SPEC = {
    "diffcore": 1,
    "name": "toy",
    "data": {"type": "two-moons"},
    "process": {"type": "flow"},
    "network": {"type": "mlp", "width": 32, "depth": 2},
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 300, "batch": 64, "checkpoint_every": 20, "log_every": 10, "warmup": 10},
    "solver": {"type": "ancestral", "steps": 6},
    "sampling": {"n": 64, "batch": 64},
}


@pytest.fixture(scope="module")
def registry():
    return dc.Registry.load()


@pytest.fixture
def spec_file(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(json.dumps(SPEC))
    return path


def command(*arguments: object, **kwargs):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "diffcore", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    return out + err


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path)[0]


def assert_bit_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(registry, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole") / "run"
    runs.train(SPEC, folder, registry=registry)
    return folder


@pytest.mark.parametrize("after", [1, 6])
def test_a_killed_run_resumes_to_the_same_bits(after, spec_file, tmp_path, uninterrupted):
    out = tmp_path / "run"
    process = command("train", spec_file, "--out", out)
    reached = out / "checkpoints" / f"step-{20 * after:08d}.safetensors"
    wait_for(lambda: checkpoint.checkpoints(out / "checkpoints")[:1] >= [reached], process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "weights.safetensors").exists()
    finish(command("train", spec_file, "--out", out))
    assert_bit_equal(tensors(out / "weights.safetensors"), tensors(uninterrupted / "weights.safetensors"))
    newest = "checkpoints/step-00000300.safetensors"
    assert_bit_equal(tensors(out / newest), tensors(uninterrupted / newest))
    assert record.read_metrics(out / "metrics.jsonl") == record.read_metrics(uninterrupted / "metrics.jsonl")
    again = [load_file(runs.sample_run(folder, n=8, seed=3).path)["x"] for folder in (out, uninterrupted)]
    assert torch.equal(*again)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_that_ends_leaves_a_checkpoint_and_says_how_to_go_on(number, code, spec_file, tmp_path, uninterrupted):
    """Ctrl-C is tested with the command line."""
    out = tmp_path / "run"
    process = command("train", spec_file, "--out", out, "--set", "trainer.checkpoint_every=1000")
    wait_for((out / "metrics.jsonl").exists, process)
    process.send_signal(number)
    text = finish(process, code)
    assert "Traceback" not in text
    assert "interrupted; resume with: diffcore train" in text
    assert len(checkpoint.checkpoints(out / "checkpoints")) == 1
    finish(command("train", spec_file, "--out", out))
    assert_bit_equal(tensors(out / "weights.safetensors"), tensors(uninterrupted / "weights.safetensors"))


def test_a_run_killed_again_and_again_ends_with_the_same_bits(registry, tmp_path, uninterrupted):
    """SIGKILL at random moments of training, writing and pruning: each time in a fork, which has imported everything."""
    out, draw = tmp_path / "run", random.Random(11)
    spec = {**SPEC, "trainer": {**SPEC["trainer"], "checkpoint_every": 1, "keep": 2}}
    for _ in range(8):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
            child = os.fork()
        if child == 0:
            runs.train(spec, out, registry=registry)
            os._exit(0)
        time.sleep(draw.uniform(0.02, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    runs.train(spec, out, registry=registry)
    assert_bit_equal(tensors(out / "weights.safetensors"), tensors(uninterrupted / "weights.safetensors"))
    left = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert left == [f"step-{step:08d}.safetensors" for step in (299, 300)]
    assert record.read_metrics(out / "metrics.jsonl") == record.read_metrics(uninterrupted / "metrics.jsonl")


def test_a_second_signal_stops_at_once():
    interrupt = Interrupt()

    def work() -> None:
        with interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not interrupt.forced
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("it went on")

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert interrupt.forced
    assert caught.value.number == signal.SIGTERM


def test_a_signal_that_is_ignored_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(registry, tmp_path, uninterrupted, capsys):
    out = tmp_path / "run"
    runs.train(SPEC, out, registry=registry)
    newest = checkpoint.checkpoints(out / "checkpoints")[0]
    damaged = bytearray(newest.read_bytes())
    damaged[-20] ^= 1
    newest.write_bytes(damaged)
    runs.train(SPEC, out, registry=registry)
    assert f"{newest} is damaged" in capsys.readouterr().err
    assert_bit_equal(tensors(out / "weights.safetensors"), tensors(uninterrupted / "weights.safetensors"))
    for path in checkpoint.checkpoints(out / "checkpoints"):
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(dc.CheckpointError, match=r"no usable checkpoint is left.*damaged"):
        runs.train(SPEC, out, registry=registry)


def test_checkpoints_of_another_spec_are_refused(registry, tmp_path):
    out = tmp_path / "run"
    short = {**SPEC, "trainer": {**SPEC["trainer"], "steps": 20}}
    runs.train(short, out, registry=registry)
    with pytest.raises(dc.CheckpointError, match="belongs to another spec"):
        runs.train({**short, "seed": 5}, out, registry=registry)


def test_missing_and_damaged_weights(tmp_path, uninterrupted):
    with pytest.raises(dc.CheckpointError, match="does not exist"):
        dc.Pipeline.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(dc.CheckpointError, match="not a run directory"):
        dc.Pipeline.load(tmp_path / "empty")
    bad = tmp_path / "w.safetensors"
    bad.write_bytes((uninterrupted / "weights.safetensors").read_bytes()[:-8])
    with pytest.raises(dc.CheckpointError, match=r"w\.safetensors is damaged"):
        dc.Pipeline.load(bad)


def test_a_full_disk_loses_nothing(tmp_path):
    path = tmp_path / "file.bin"
    checkpoint.write_aside(path, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(dc.RunError, match=r"file\.bin could not be written.*unchanged"):
            checkpoint.write_aside(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_nan_in_the_loss_names_step_time_and_component(registry):
    @registry.add
    @dc.component
    class Poisoned(dc.Loss):
        """A loss that breaks at step 3, row 5."""

        def __call__(self, model, x0, draw, **cond):
            c = model.process.corrupt(x0, draw.uniform(), draw.fold(1))
            error = (model(c.xt, c.at).read("velocity") - c.target("velocity")).square().mean(1)
            return torch.where(torch.arange(len(error)) == (5 if draw.index == 3 else -1), torch.nan, error)

    pipeline = dc.assemble({**SPEC, "loss": {"type": "poisoned"}}, registry=registry)
    with pytest.raises(dc.NumericsError, match=r"loss Poisoned is nan at step 3 \(row 5 of the batch, t = 0\.\d+\)"):
        pipeline.train()


def test_nan_in_the_samples_names_step_time_and_solver(registry):
    process = registry.make("process", "flow")

    def net(x, t):
        return torch.where(t[:, None] < 0.35, torch.nan, 0.0) * x

    field = dc.Field(dc.Denoiser(net, "velocity", process=process))
    with pytest.raises(dc.NumericsError, match=r"after step 8 \(to t = 0\.2\) of solver Euler"):
        dc.sample(field, registry.make("solver", "euler", steps=10, grid={"type": "uniform"}), torch.ones(3, 2))


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_samples_do_not_depend_on_the_batch(batch, uninterrupted):
    pipeline = dc.Pipeline.load(uninterrupted)
    whole, parts = pipeline.sample(64, seed=2, batch=64).x, pipeline.sample(64, seed=2, batch=batch).x
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    one = pipeline.process.prior((2,), dc.Draw(2, [17]))
    many = pipeline.process.prior((2,), dc.Draw(2, range(64)))[17:18]
    assert torch.equal(one, many)


def torchrun(*arguments: object) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "diffcore"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_processes_train_and_sample_as_one(spec_file, tmp_path, uninterrupted):
    out = tmp_path / "two"
    torchrun("train", spec_file, "--out", out)
    one, two = tensors(uninterrupted / "weights.safetensors"), tensors(out / "weights.safetensors")
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=2e-4, rtol=2e-3)
    torchrun("sample", uninterrupted, "-n", 65, "--seed", 4, "--out", tmp_path / "s.safetensors")
    alone = dc.Pipeline.load(uninterrupted).sample(65, seed=4)
    torch.testing.assert_close(tensors(tmp_path / "s.safetensors")["x"], alone.raw(), atol=1e-5, rtol=1e-5)


def test_a_process_that_changed_since_training_is_refused(uninterrupted, tmp_path, registry):
    held, meta = checkpoint.load(uninterrupted / "weights.safetensors")
    meta["fingerprint"][3] += 1e-3
    checkpoint.save(tmp_path / "other.safetensors", held, meta)
    with pytest.raises(dc.CheckpointError, match="other alpha and sigma"):
        dc.Pipeline.load(tmp_path / "other.safetensors", registry=registry)


def test_nothing_is_unpickled():
    for folder in ("diffcore", "plugins"):
        for path in (Path(__file__).parents[1] / folder).rglob("*.py"):
            text = path.read_text()
            if "tests" not in path.parts:
                assert "pickle.load" not in text
                assert "torch.load(" not in text
                assert "allow_pickle=True" not in text


def test_an_output_of_the_wrong_shape_is_refused(registry):
    process = registry.make("process", "flow")
    field = dc.Field(dc.Denoiser(lambda x, t: x[:, :1], "velocity", process=process))
    with pytest.raises(dc.DataError, match=r"returned shape \(3, 1\) for a state of shape \(3, 2\)"):
        dc.sample(field, registry.make("solver", "euler"), torch.ones(3, 2))


def test_conditions_of_the_wrong_length_are_refused(registry):
    process = registry.make("process", "flow")
    denoiser = dc.Denoiser(lambda x, t, label: x, "velocity", process=process)
    field = dc.Field(denoiser, cond={"label": torch.zeros(2, dtype=torch.int64)})
    with pytest.raises(dc.DataError, match="condition 'label' has 2 rows for 3 samples"):
        dc.sample(field, registry.make("solver", "euler"), torch.ones(3, 2))

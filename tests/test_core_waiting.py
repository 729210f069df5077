"""Threads that wait give their core away, unless the user has said how they wait."""

import json
import os
import subprocess
import sys

import pytest

from diffcore.run import waiting

SPEC = """diffcore: 1
data: {type: two-moons}
process: {type: flow}
network: {type: mlp, width: 8, depth: 1}
loss: {type: denoising}
trainer: {type: standard, steps: 2, batch: 8}
solver: {type: euler, steps: 2}
"""


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "0"}])
def test_the_users_own_choice_is_left_alone(own, monkeypatch):
    for name in waiting.CHOICES:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    waiting.settle()
    found = {name: os.environ[name] for name in waiting.CHOICES if name in os.environ}
    assert found == (own or {"GOMP_SPINCOUNT": "1000"})
    assert waiting.told() == " ".join(f"{k}={v}" for k, v in found.items())


def test_a_training_says_and_records_how_its_threads_wait(tmp_path):
    (tmp_path / "a.yaml").write_text(SPEC)
    plain = {k: v for k, v in os.environ.items() if k not in waiting.CHOICES}
    command = [sys.executable, "-m", "diffcore", "train", "a.yaml", "--out", "r"]
    done = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, text=True, check=True)
    assert "waiting: GOMP_SPINCOUNT=1000" in done.stderr
    assert json.loads((tmp_path / "r" / "lock.json").read_text())["waiting"] == "GOMP_SPINCOUNT=1000"

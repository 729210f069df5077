"""Every example runs, shortened: trains a few steps, samples, measures and reports. The full runs are the demo's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import diffcore as dc
from diffcore.run import runs
from diffcore.run.sections import load_spec

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))
FIRST = {"mnist-meanflow": "mnist.yaml", "latent-digits": "vae-digits.yaml"}
"""What an example starts from."""
SHORT = ["trainer.steps=3", "trainer.batch=8", "trainer.warmup=1", "sampling.n=10", "sampling.batch=10", "evaluation.batch=100"]


@pytest.fixture(scope="module")
def registry():
    return dc.Registry.load()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path, registry, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    overrides = [*SHORT, "evaluation.n=100"]
    if load_spec(path, registry).evaluation.calls:
        overrides.append("evaluation.calls=[2]")
    if path.stem in FIRST:
        runs.train(path.with_name(FIRST[path.stem]), registry=registry, overrides=SHORT)
    try:
        folder = runs.run(path, registry=registry, overrides=overrides)
    except dc.DataError as error:
        if "fetch" not in str(error):
            raise
        pytest.skip(str(error))
    rows = runs.compare([folder])
    assert rows
    assert all(row["calls"] <= 2 for row in rows if row["budget"])
    page = (folder / "report.html").read_text()
    for expected in ("Samples", "Measured", "Spec of", "Lock of", "loss curve"):
        assert expected in page
    assert ("Every solver" in page) == any(row["difference"] for row in rows[1:])
    again = load_file(runs.sample_run(folder, n=3).path)
    assert all(torch.isfinite(value).all() for value in again.values())

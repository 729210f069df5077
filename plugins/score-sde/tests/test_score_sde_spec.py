"""The example of the README runs, shortened; a learned schedule is saved with the weights and found again."""

import re
from pathlib import Path

import pytest
import torch

import diffcore as dc

README = (Path(__file__).parents[1] / "README.md").read_text()
SHORT = ["trainer.steps=6", "trainer.batch=8", "trainer.warmup=1", "sampling.n=4", "solver.steps=4", "evaluation.n=8"]
SMALL = ["metrics.0.n=8", "metrics.0.steps=3", "metrics.1.n=8", "metrics.1.steps=3", "metrics.2.n=8"]


@pytest.mark.filterwarnings("ignore::UserWarning:sklearn.*")
def test_the_example_of_the_readme(tmp_path):
    file = tmp_path / "example.yaml"
    file.write_text(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0])
    pipeline = dc.assemble(file, overrides=SHORT + SMALL, device="cpu")
    before = [p.detach().clone() for p in pipeline.process.parameters()]
    pipeline.train()
    after = list(pipeline.process.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    (row,) = pipeline.evaluate()
    assert set(row["metrics"]) == {"log p", "bits/dim", "round trip", "code size", "fp residual"}
    assert 0 < row["metrics"]["bits/dim"]["value"] < 20
    assert "17 levels dequantised (+ 3.0000 bits/dim)" in row["metrics"]["bits/dim"]["against"]
    again = dc.Pipeline.load(pipeline.save(tmp_path), device="cpu")
    t = torch.linspace(0, 1, 9).double()
    assert torch.equal(again.process.coeffs(t).alpha, pipeline.process.coeffs(t).alpha)


def test_the_offset_of_digits_is_stated():
    assert "+ 6.9944 for L = 256" in README

"""The example of the README runs, shortened: its solver and the three of its comparison."""

from __future__ import annotations

import re
from pathlib import Path

import diffcore as dc

README = (Path(__file__).parents[1] / "README.md").read_text()
TRAINING = ["trainer.steps=6", "trainer.batch=16", "trainer.warmup=1"]
SHORT = [*TRAINING, "sampling.n=8", "sampling.batch=8", "solver.steps=4", "evaluation.n=16", "evaluation.batch=16"]


def test_the_example_of_the_readme(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0])
    pipeline = dc.assemble(file, overrides=SHORT, device="cpu")
    pipeline.train()
    rows = pipeline.evaluate()
    assert len(rows) == 4
    assert all(found["value"] > 0 for row in rows for found in row["metrics"].values()), rows

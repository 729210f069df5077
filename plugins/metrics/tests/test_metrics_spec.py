"""The spec in the README runs: trains a few steps, samples and measures."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import diffcore as dc

README = (Path(__file__).parents[1] / "README.md").read_text()
SPEC = next(block for block in re.findall(r"```yaml\n(.*?)```", README, re.S) if block.startswith("diffcore: 1"))
NAMES = {"reverse-KL", "kNN-KL", "binned-JS", "fisher(lam=2)", "MMD2", "MMD-p", "energy-distance"}


def test_the_spec_of_the_readme_runs(tmp_path: Path):
    (tmp_path / "spec.yaml").write_text(SPEC)
    try:
        pipeline = dc.assemble(tmp_path / "spec.yaml", overrides=["trainer.steps=5", "evaluation.n=80", "solver.steps=2"])
    except dc.SpecError as error:
        pytest.skip(f"a distribution that the spec names is absent: {error}")
    pipeline.train()
    (row,) = pipeline.evaluate()
    found = row["metrics"]
    assert set(found) >= NAMES
    assert all(math.isfinite(value["value"]) for value in found.values())
    assert "gaussian-mixture" in found["reverse-KL"]["against"]

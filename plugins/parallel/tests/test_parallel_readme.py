"""The example of the README runs, shortened, and its tables are what is measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffcore_parallel.paradigms import Paradigms

import diffcore as dc
from diffcore.testing import ReferenceVP, golden_mixture
from diffcore.testing.driving import lam_grid

README = (Path(__file__).parents[1] / "README.md").read_text()
TRAINING = ["trainer.steps=6", "trainer.batch=16", "trainer.warmup=1"]
SHORT = [*TRAINING, "sampling.n=8", "sampling.batch=8", "solver.steps=4", "evaluation.n=16", "evaluation.batch=16"]
VP, GOLDEN = ReferenceVP(), golden_mixture()
FIELD, MAKE = GOLDEN.field(VP, "v"), dc.Registry.load().make


def table(first):
    """The cells of the rows whose first cell matches."""
    lines = [line.strip("| ").split(" | ") for line in README.splitlines() if line.startswith("| ")]
    return [cells for cells in lines if re.fullmatch(first, cells[0])]


def start():
    return dc.Draw(0, range(64)).normal((1,), torch.float64)


def rms(a, b):
    return float((a - b).square().mean() ** 0.5)


def judge(cell, counts, error):
    """Counts within one sweep or 1 %, errors within 10 %."""
    *said, wrong = map(float, cell.split(", "))
    for a, b in zip(said, counts, strict=True):
        assert abs(a - b) <= max(1, 0.01 * b), (cell, counts)
    assert wrong == pytest.approx(error, rel=0.1), (cell, error)


def test_the_example_of_the_readme(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0])
    pipeline = dc.assemble(file, overrides=SHORT, device="cpu")
    pipeline.train()
    rows = pipeline.evaluate()
    assert len(rows) == 4
    assert all(found["value"] > 0 for row in rows for found in row["metrics"].values()), rows


def test_the_table_of_sweeps():
    """The rows up to N = 200."""
    rows = [row for row in table("ddim|ancestral") if int(row[1]) <= 200]
    assert len(rows) == 12
    for of, steps, window, *cells in rows:
        solver = MAKE("solver", of)
        grid = torch.linspace(1, 0, int(steps) + 1, dtype=torch.float64)
        alone = dc.sample(FIELD, solver, start(), grid=grid).x
        for tolerance, cell in zip((0.1, 0.01, 0.001), cells, strict=True):
            parallel = Paradigms(of=solver, window=int(window), tolerance=tolerance)
            found = dc.sample(FIELD, parallel, start(), grid=grid, keep_frames=True)
            judge(cell, (int(found.frames[-1].own.max()), found.nfe), rms(found.x, alone))


def test_the_table_of_rules():
    exact, rows = GOLDEN.flow(VP, start(), 1.0, 0.02, steps=2000), table(r"10|20|40|80")
    assert len(rows) == 4
    for steps, *cells in rows:
        rules = [Paradigms(rule=rule, window=int(steps), tolerance=1e-4) for rule in ("left", "trapezoid")]
        for cell, solver in zip(cells, (*rules, MAKE("solver", "heun")), strict=True):
            found = dc.sample(FIELD, solver, start(), grid=lam_grid(VP, 1.0, 0.02, int(steps)))
            judge(cell, (found.calls, found.nfe), rms(found.x, exact))

"""The example spec of the README runs."""

import re
from pathlib import Path

import pytest

import diffcore as dc

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.parametrize(
    "solver",
    ["{type: auto, nfe: 8, effort: 1, calibration: 32}", "{type: dpmpp-2m, steps: 8, grid: {type: endpoint, calibration: 32}}"],
)
def test_the_example_trains_fits_and_samples(solver, tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    spec = tmp_path / "spec.yaml"
    spec.write_text(re.sub(r"solver: .*", f"solver: {solver}", text.replace("steps: 2000", "steps: 20, warmup: 2")))
    pipeline = dc.assemble(spec)
    pipeline.train()
    assert pipeline.sample(4).nfe <= 8
    assert len(pipeline.calibrations) == 1
    assert dc.calibrate_on(dc.assemble(_written(tmp_path, text)).spec.solver) == 128


def _written(folder, text):
    path = folder / "as-it-is.yaml"
    path.write_text(text)
    return path

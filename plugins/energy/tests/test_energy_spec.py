"""The example of the README runs, shortened; the energy it saves is found again, and is a gradient."""

import re
from pathlib import Path

import torch

import diffcore as dc

README = (Path(__file__).parents[1] / "README.md").read_text()
SHORT = ["trainer.steps=60", "trainer.batch=64", "sampling.n=16", "solver.inner=3", "evaluation.n=64", "evaluation.batch=64"]


def test_the_example_of_the_readme(tmp_path):
    file = tmp_path / "example.yaml"
    file.write_text(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0])
    pipeline = dc.assemble(file, overrides=SHORT, device="cpu")
    pipeline.train()
    (row,) = pipeline.evaluate()
    assert row["metrics"]["asymmetry"]["value"] < 1e-8
    again = dc.Pipeline.load(pipeline.save(tmp_path), device="cpu")
    x, t = torch.linspace(-1, 1, 8).reshape(4, 2), torch.full((4,), 0.5)
    assert torch.equal(again.denoiser.net(x, t), pipeline.denoiser.net(x, t))


def test_the_published_objective_in_a_spec():
    (part,) = re.findall(r"```text\n(loss: .*?)\n```", README, re.DOTALL)
    start = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0]
    spec = dc.assemble(re.sub(r"loss: .*", part, start), device="cpu")
    assert type(spec.spec.loss).__name__ == "Denoising"

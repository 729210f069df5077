"""Trained runs: the five views of one run, a spec on another schedule with its weights, and the example of the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffcore_unified.views import one_run_five_views, rms

import diffcore as dc

README = (Path(__file__).parents[1] / "README.md").read_text()
SPEC = {
    "diffcore": 1,
    "name": "views",
    "data": {"type": "two-moons"},
    "process": {"type": "vp"},
    "network": {"type": "mlp"},
    "prediction": "edm",
    "sigma_data": 0.35,
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 60, "batch": 64, "lr": 2e-3, "warmup": 5},
    "solver": {"type": "ddim", "steps": 8, "grid": {"type": "uniform-lam", "end": "t_min"}},
    "sampling": {"n": 16, "batch": 16},
}


def test_the_distance_of_two_states_is_per_entry_over_all_leaves():
    a = {"x": torch.tensor([[3.0, 0.0]]), "y": torch.zeros(1, 2, 2)}
    b = {"x": torch.tensor([[0.0, 0.0]]), "y": torch.full((1, 2, 2), 2.0)}
    assert rms(a, b) == pytest.approx(((9 + 4 * 4) / 6) ** 0.5)


@pytest.fixture(scope="module")
def trained(registry, tmp_path_factory):
    torch.set_num_threads(1)
    pipeline = dc.assemble(SPEC, registry=registry, device="cpu")
    pipeline.train()
    return pipeline, pipeline.save(tmp_path_factory.mktemp("run"))


def test_one_run_five_views(trained):
    """The deterministic three approach one another as their steps grow, with order 2 where the last step is alike."""
    few, many = (one_run_five_views(trained[0], 16, steps=n, seed=1) for n in (20, 80))
    assert list(many.samples) == ["ddpm", "score-sde", "pf-ode", "flow-matching", "trig-flow"]
    assert float(many.distance.diagonal().abs().max()) == 0
    assert 0 < float(many.distance.max()) < float(few.distance.max()) / 3 < 0.01
    assert float(many.distance[1, 2]) < float(few.distance[1, 2]) / 12
    spread = float((many.samples["ddpm"] - many.samples["pf-ode"]).square().mean() ** 0.5)
    assert spread > 10 * float(many.distance.max())


def test_weights_of_one_process_under_another_in_a_spec(trained, registry):
    """`process: transformed` with `init`: the same weights, sampled on the levels of VP under flow, give the samples of VP."""
    pipeline, weights = trained
    there = {"type": "transformed", "of": {"type": "vp"}, "to": {"type": "flow"}}
    moved = dc.assemble({**SPEC, "process": there, "init": str(weights)}, registry=registry, device="cpu")
    start, last = pipeline.process.T, 0.05
    tau = torch.tensor([start, 0.6, 0.3, last], dtype=torch.float64)
    times = moved.process.time_of(tau)
    ddim, draw = registry.make("solver", "ddim"), dc.Draw(2, range(8))
    a = dc.sample(pipeline.field(), ddim, pipeline.process.prior((2,), draw), grid=tau).x
    b = dc.sample(moved.field(), ddim, moved.process.prior((2,), draw), grid=times).x
    scale = float(moved.process.coeffs(times[-1]).sigma / pipeline.process.coeffs(tau[-1]).sigma)
    assert float((b / scale - a).abs().max()) < 2e-5  # float32


def test_a_saved_run_is_sampled_through_flow(trained, registry):
    """`--set solver.type=through ...` on a trained run: equal to its own ddim on the same levels."""
    overrides = [
        "solver={type: through, steps: 8, to: {type: flow}, solver: {type: ddim, grid: {type: uniform-lam, end: t_min}}}"
    ]
    loaded = dc.Pipeline.load(trained[1], registry=registry, overrides=overrides, device="cpu")
    found, plain = loaded.sample(8, seed=3).x, trained[0].sample(8, seed=3).x
    assert float((found - plain).abs().max()) < 2e-5  # float32


def test_the_spec_of_the_readme_runs(registry, tmp_path):
    spec = re.search(r"```yaml\n(diffcore: 1.*?)```", README, re.DOTALL)
    assert spec is not None
    (tmp_path / "readme.yaml").write_text(spec.group(1))
    pipeline = dc.assemble(tmp_path / "readme.yaml", registry=registry, overrides=["trainer.steps=20"], device="cpu")
    pipeline.train()
    assert torch.isfinite(pipeline.sample(8).x).all()

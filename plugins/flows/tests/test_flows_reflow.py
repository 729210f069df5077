"""Reflow end to end: the specs of the README run, and rectification of a trained flow straightens it at no higher cost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffcore_flows.paths import sampled
from diffcore_flows.reflow import Reflow, _standard, cycled

import diffcore as dc
from diffcore.testing import ReferenceVE, run_checks

README = (Path(__file__).parents[1] / "README.md").read_text()
SPECS = {re.search(r"name: (\S+)", block)[1]: block for block in re.findall(r"```yaml\n(diffcore: .*?)```", README, re.S)}
SHORT = ["trainer.steps=300", "trainer.warmup=20", "trainer.batch=256"]


@pytest.fixture(scope="module")
def registry():
    return dc.Registry.load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory in which the first flow of the README is trained as runs/blobs."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.set_num_threads(1)
        trained("blobs").save("runs/blobs")
        yield folder


def trained(name, *overrides):
    pipeline = dc.assemble(SPECS[name], overrides=[*SHORT, *overrides])
    pipeline.train()
    return pipeline


def paths(pipeline):
    ev = dc.Evaluation(samples=torch.zeros(2048, 2), reference=torch.zeros(2, 2), field=pipeline.field())
    return sampled(ev, 2048, 5, 32)


@pytest.mark.item("5.17")
def test_rectification_straightens_a_trained_flow_at_no_higher_cost(folder):
    first, second = paths(dc.Pipeline.load("runs/blobs")), paths(trained("blobs-reflow"))
    gap = (first.bend - second.bend).double()
    assert float(gap.mean()) > 4.5 * float(gap.std()) / 2048**0.5
    assert float(second.bend.mean()) < 0.5 * float(first.bend.mean())
    cost = [((p.noise - p.data) ** 2).sum(1).double() for p in (first, second)]
    rise = cost[1] - cost[0]
    assert float(rise.mean()) < 3 * float(rise.std()) / 2048**0.5


@pytest.mark.item("5.16", "5.17")
def test_pairs_are_the_ends_of_the_ode(folder, registry):
    solver = registry.make("solver", "heun", steps=8)
    source = Reflow(run="runs/blobs", solver=solver, n=100, batch=32, seed=3).open()
    ids = torch.tensor([0, 99, 7, 64])
    x0, cond = source.batch(ids)
    teacher = dc.Pipeline.load("runs/blobs")
    noise = teacher.process.prior((2,), dc.Draw(3, ids))
    torch.testing.assert_close(cond["noise"], noise, rtol=0, atol=0)
    torch.testing.assert_close(x0, dc.sample(teacher.field(), solver, noise).x, rtol=1e-5, atol=1e-5)
    assert source.size == 100
    assert (source.event, dict(source.classes)) == (dc.Event(2), {})


def test_every_combination_of_classes_has_pairs():
    """Conditions of 2, 3 and 2 classes: each of the 12 combinations once in 12, and a class at its number alone."""
    found = cycled(range(24), {"a": 2, "b": 3, "c": 2})
    rows = list(zip(*(found[name].tolist() for name in "abc"), strict=True))
    assert len(set(rows[:12])) == 12
    assert rows[:12] == rows[12:]
    assert cycled(range(5, 8), {"label": 3})["label"].tolist() == [2, 0, 1]


def test_the_noise_of_a_pair_is_standard():
    """(x_T - shift_T) / sigma_T of a path to N(2, 100)."""

    @dc.component
    class Shifted(ReferenceVE):
        def coeffs(self, t):
            return super().coeffs(t)._replace(shift=0.2 * t, dshift=torch.full_like(t, 0.2))

    torch.testing.assert_close(_standard(Shifted(), torch.tensor([[2.0], [12.0]])), torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(_standard(ReferenceVE(), torch.tensor([[2.0]])), torch.tensor([[0.2]]))


def test_conformance_of_pairs(folder, registry, monkeypatch):
    monkeypatch.setattr(Reflow, "example", {"run": "runs/blobs", "solver": {"type": "heun", "steps": 4}, "n": 300, "batch": 64})
    report = run_checks(registry, "reflow")
    assert report.count("failed") == 0, [o.line() for o in report.outcomes if o.status == "failed"]
    assert [o.check for o in report.outcomes if o.status == "skipped"] == ["oracle"]
    assert report.count("xfailed") == 1


def test_what_makes_no_pairs_is_refused(folder, registry):
    heun = registry.make("solver", "heun")
    with pytest.raises(dc.DataError, match="cannot be used: nowhere does not exist"):
        Reflow(run="nowhere", solver=heun).open()
    with pytest.raises(dc.IncompatibleError, match="solver Ancestral draws noise"):
        Reflow(run="runs/blobs", solver=registry.make("solver", "ancestral")).open()
    with pytest.raises(dc.IncompatibleError, match="solver Restart draws noise"):
        Reflow(run="runs/blobs", solver=registry.make("solver", "restart", steps=6)).open()
    Reflow(run="runs/blobs", solver=registry.make("solver", "adaptive")).open()
    with pytest.raises(dc.DataError, match=r"has another range; set data\.range: null"):
        Reflow(run="runs/blobs", solver=heun, range=dc.Range(lo=0, hi=1)).open()


def test_normalising_flow_of_the_readme_learns_the_moons(folder):
    pipeline = trained("moons-nvp")
    x0, _ = pipeline.source.batch(torch.arange(2048) + 10**7)
    with torch.no_grad():
        values = pipeline.spec.loss(pipeline.denoiser, x0, dc.Draw(0, range(2048)))
    normal = torch.distributions.MultivariateNormal(x0.mean(0), x0.T.cov())
    best_gaussian = -normal.log_prob(x0).mean() / 2
    assert float(values.mean()) < float(best_gaussian) - 0.1
    made = pipeline.sample(512).raw()
    assert pipeline.sample(4).calls == 1
    assert float((torch.cdist(made, x0).min(1).values < 0.15).double().mean()) > 0.85
    code = pipeline.spec.flow_map.map(pipeline.denoiser, made, 0.0, 1.0)  # and back to the noise of these samples
    noise = pipeline.process.prior((2,), dc.Draw(0, range(512)))
    assert abs(float(code.detach().std()) - float(noise.std())) < 0.1

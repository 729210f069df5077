"""The losses: expectations in closed form, where gradients go, and the specs of this page."""

import math
import re
from pathlib import Path

import pytest
import torch
from diffcore_ddpm.bound import prior_term, step_term, steps_of
from diffcore_ddpm.chain import Chain
from diffcore_ddpm.hybrid import Hybrid
from diffcore_ddpm.indices import Indices
from diffcore_ddpm.vlb import VLB

import diffcore as dc
from diffcore.testing import FiniteSet, Gaussian

DOUBLE, REGISTRY = torch.float64, dc.Registry.load()
D2 = 0.3
DATA = Gaussian(0.0, D2**0.5, shape=(4,))


def batch(n=4096):
    return DATA.sample(n, dc.Draw(5, range(n), block=n)), dc.Draw(6, range(n), block=n)


def close(values, want, n=4096):
    assert abs(float(values.mean()) - want) < 4 * float(values.std()) / n**0.5, (float(values.mean()), want)


def simple():
    return REGISTRY.make(
        "loss", {"type": "denoising", "target": "eps", "weighting": {"type": "constant"}, "time_law": {"type": "indices"}}
    )


@pytest.mark.item("2.12")
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_l_simple_of_the_exact_noise(prediction):
    """The mean over indices of alpha^2 d^2 / (alpha^2 d^2 + sigma^2), whatever the network predicts."""
    chain, (x0, draw) = Chain(steps=50), batch()
    at = chain.coeffs(torch.arange(1, 51, dtype=DOUBLE) / 50)
    want = float((at.alpha**2 * D2 / (at.alpha**2 * D2 + at.sigma**2)).mean())
    close(simple()(DATA.denoiser(chain, prediction), x0, draw), want)


@pytest.mark.item("2.14")
@pytest.mark.parametrize("variance", ["small", "large"])
def test_vlb_is_an_unbiased_estimate_of_the_bound(variance):
    """65536 draws of one index each against the sum over all indices in closed form, 4 s.e."""
    chain, (x0, draw) = Chain(steps=12, schedule="cosine"), batch(65536)
    t = torch.arange(12, 0, -1, dtype=DOUBLE) / 12
    at = chain.coeffs(t)
    off = (D2 * at.sigma**2 / (at.alpha**2 * D2 + at.sigma**2)).sqrt()[:, None]
    s = torch.arange(11, -1, -1, dtype=DOUBLE) / 12
    known = dc.Posterior(off, -off, "x0", dc.Coeffs(0.5, 0.6, 0.8, -1.0, 1.0))
    terms = step_term(steps_of(chain, (t + 1 / 12).clamp(max=1), t, s), torch.zeros_like(off), known, variance, None)
    want = float(terms.sum() + prior_term(chain, torch.full((1, 1), D2**0.5, dtype=DOUBLE)))
    close(VLB(variance=variance, levels=None)(DATA.denoiser(chain, "eps"), x0, draw), want, 65536)


class Two(torch.nn.Module):
    """(a x, b): a linear mean and a constant raw variance."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = (torch.nn.Parameter(torch.tensor(v, dtype=DOUBLE)) for v in (a, b))

    def forward(self, x, t, **cond):
        return torch.cat([self.a * x, self.b.expand_as(x)], 1)


def gradients(loss, process, x0, draw, prediction="eps-range"):
    net = Two(0.4, -0.3)
    value = loss(dc.Denoiser(net, prediction, process), x0, draw).mean()
    return [0.0 if g is None else float(g) for g in torch.autograd.grad(value, [net.a, net.b], allow_unused=True)]


@pytest.mark.item("2.11")
@pytest.mark.parametrize("base", ["eps", "x0", "v"])
def test_the_hybrid_teaches_the_mean_by_l_simple_and_the_variance_by_the_bound(base):
    """At the same draws: d/dmean is that of weight 0 (bit for bit a squared error), d/dvariance is weight times that of vlb."""
    process, (x0, draw) = Chain(steps=30), batch(256)
    none, some, more = (gradients(Hybrid(weight=w), process, x0, draw, f"{base}-range") for w in (0.0, 1e-3, 2e-3))
    bound = gradients(VLB(variance="learned"), process, x0, draw, f"{base}-range")
    assert none[1] == 0
    assert some[0] == pytest.approx(none[0], rel=1e-12)
    assert some[1] == pytest.approx(1e-3 * bound[1], rel=1e-9)
    assert more[1] == pytest.approx(2 * some[1], rel=1e-9)
    assert abs(bound[0]) > 1e-3
    t = (1 + (draw.fold(1).uniform() * 30).floor()) / 30
    noised = process.corrupt(x0, t, draw.fold(2))
    a = torch.tensor(0.4, dtype=DOUBLE, requires_grad=True)
    (want,) = torch.autograd.grad(((a * noised.xt - noised.target(base)) ** 2).mean(), a)
    assert none[0] == pytest.approx(float(want), rel=1e-10)


def test_the_hybrid_is_refused_without_a_learned_variance():
    model = dc.Denoiser(lambda x, t: x, "eps", Chain())
    with pytest.raises(dc.IncompatibleError, match="eps-range"):
        Hybrid().parts(model, (4,), {})
    assert Hybrid().parts(dc.Denoiser(lambda x, t: x, "eps-range", Chain()), (4,), {}) == {}
    with pytest.raises(dc.IncompatibleError, match="learned variance needs"):
        VLB(variance="learned")(model, torch.zeros(2, 4), dc.Draw(1, range(2)))


@pytest.mark.parametrize("loss", [VLB(drop=0.25), Hybrid(drop=0.25)], ids=["vlb", "hybrid"])
def test_conditions_are_left_out_at_their_rate(loss):
    """Of 4096 labels a quarter is the null class, 4.5 s.e.; the others stand."""
    seen = []

    def net(x, t, label):
        seen.append(label)
        return torch.cat([x, x], 1) if x.shape[1] == 4 else x

    x0, draw = batch()
    labels = torch.arange(4096) % 3
    loss(dc.Denoiser(net, "eps-range", Chain(), null={"label": 3}), x0, draw, label=labels)
    out = seen[0] == 3
    assert abs(float(out.double().mean()) - 0.25) < 4.5 * (0.1875 / 4096) ** 0.5
    assert torch.equal(seen[0][~out], labels[~out])


@pytest.mark.item("2.17")
def test_regression_finds_the_softmax_average_of_a_finite_set():
    """At one index, 40000 noised points, regressed on polynomials of x_t: near the softmax average (rms .02)."""
    chain, data = Chain(steps=10, schedule="cosine"), FiniteSet([[0.9], [-0.7], [0.1]])
    n = 40000
    x0 = data.sample(n, dc.Draw(1, range(n), block=n))
    noised = chain.corrupt(x0, torch.full((n,), 0.6, dtype=DOUBLE), dc.Draw(2, range(n), block=n))
    basis = noised.xt / 3
    features = torch.cat([basis**j for j in range(8)], 1)
    fit = features @ torch.linalg.lstsq(features, x0).solution
    exact = data.mean(noised.xt, chain.coeffs(torch.tensor(0.6, dtype=DOUBLE)))
    assert float((fit - exact).square().mean().sqrt()) < 0.02
    assert float((fit - x0).square().mean().sqrt()) > 0.2


README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_spec_of_the_readme_runs(tmp_path, monkeypatch):
    """Trains, samples with the learned variance, and measures the bound: finite, and near that of an untrained network."""
    monkeypatch.chdir(tmp_path)
    (spec,) = (block for block in re.findall(r"```yaml\n(.*?)```", README, re.S) if block.startswith("diffcore"))
    Path("spec.yaml").write_text(spec)
    short = ["trainer.steps=3", "trainer.warmup=1", "solver.steps=4", "process.steps=20", "evaluation.n=8", "network.width=8"]
    pipeline = dc.assemble("spec.yaml", registry=REGISTRY, overrides=short, device="cpu")
    pipeline.train()
    made = []
    (row,) = pipeline.evaluate(done=lambda _, samples: made.append(samples.x))
    assert made[0].shape == (8, 1, 8, 8)
    assert math.isfinite(row["metrics"]["elbo"]["value"])
    assert row["metrics"]["elbo"]["value"] > 0


def test_the_spec_of_l_simple_is_as_written():
    (text,) = re.findall(r"```yaml\n(loss: .*?)\n```", README, re.S)
    assert "target: eps" in text
    assert simple().time_law == Indices()

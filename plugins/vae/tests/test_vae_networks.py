"""The networks, the process and the solver: conditions, levels, refusals, training through the pipeline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffcore_vae.conv import ConvVAE
from diffcore_vae.decode import Decode
from diffcore_vae.elbo import noise, terms
from diffcore_vae.held_out import held_out
from diffcore_vae.loss import NegativeELBO
from diffcore_vae.mlp import MLPVAE
from diffcore_vae.process import OneJump

import diffcore as dc

torch.set_num_threads(1)
README = (Path(__file__).parents[1] / "README.md").read_text()
LEVELS = ((2, 4, 4), (3,))
NETWORKS = {
    "mlp": (MLPVAE(latents=((3,), (2,)), width=16), (5,)),
    "conv": (ConvVAE(latents=LEVELS, width=8, hidden=16, unshuffle=1), (1, 8, 8)),
    "folded": (ConvVAE(latents=LEVELS, width=8, hidden=16), (1, 8, 8)),
}
SPEC = {
    "diffcore": 1,
    "name": "small",
    "data": {"type": "digits-8x8", "split": "train", "conditional": False},
    "process": {"type": "vae", "latents": [[2, 4, 4], [3]]},
    "network": {"type": "vae-conv", "latents": [[2, 4, 4], [3]], "width": 8, "hidden": 16},
    "prediction": "decoder",
    "loss": {"type": "vae"},
    "trainer": {"type": "standard", "steps": 60, "batch": 64, "lr": 3e-3, "warmup": 5, "ema": 0.9},
    "solver": {"type": "decode"},
    "sampling": {"n": 10, "batch": 4},
    "evaluation": {"n": 20},
    "metrics": [{"type": "vae-bound", "k": 4, "n": 50}, {"type": "vae-latents", "n": 50}],
}


@pytest.fixture(params=list(NETWORKS))
def built(request):
    network, shape = NETWORKS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return network, network.build(shape, {"label": 3}), dc.Draw(0, range(6)).normal(shape).clamp(-1, 1)


def model_of(network, net):
    process = OneJump(latents=network.latents)
    return dc.Denoiser(net, dc.Reading("decoder", "feature", "unit"), process), process


def test_every_parameter_learns_from_the_loss(built):
    network, net, x = built
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    value = NegativeELBO()(model_of(network, net)[0], x, dc.Draw(0, range(6)), label=label).sum()
    grads = torch.autograd.grad(value, list(net.parameters()))
    for (name, _), grad in zip(net.named_parameters(), grads, strict=True):
        assert bool(grad.isfinite().all()), name
        assert float(grad.abs().max()) > 0, name


def test_channels_double_with_every_halving_up_to_four_times():
    net = ConvVAE(latents=((2, 2, 2),), width=4, unshuffle=1).build((1, 32, 32), {})
    convs = [m for m in net.encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convs if m.stride == (2, 2)] == [(4, 8), (8, 16), (16, 16), (16, 16)]


def test_losses_are_row_by_row_and_keyed(built):
    network, net, x = built
    model, draw = model_of(network, net)[0], dc.Draw(3, range(6))
    whole = NegativeELBO()(model, x, draw)
    assert whole.shape == (6,)
    part = NegativeELBO()(model, x[[4, 1]], draw.take([4, 1]))
    assert torch.allclose(part, whole[[4, 1]], atol=1e-5)
    assert not torch.allclose(NegativeELBO()(model, x, dc.Draw(4, range(6))), whole)


def test_conditions_reach_both_halves_and_absent_ones_are_null(built):
    _, net, x = built
    net.requires_grad_(False)
    for half in (lambda **c: net.posterior(x, **c).mean, lambda **c: net.decode(net.posterior(x).mean, **c)):
        null, one = half(label=torch.full((6,), 3)), half(label=torch.zeros(6, dtype=torch.int64))
        assert torch.equal(half(), null)
        assert float((one - null).abs().max()) > 1e-4


@pytest.mark.item("2.03")
def test_a_jump_is_the_levels_from_the_top(built):
    network, net, _ = built
    model, process = model_of(network, net)
    eps = process.prior((), dc.Draw(1, range(4)))
    z1 = net.down(0, eps[1]).sample(eps[0])
    field = dc.Field(model)
    with torch.no_grad():
        found = dc.sample(field, Decode(), eps)
        assert torch.equal(found.x, net.decode(z1))
    assert (found.calls, found.nfe) == (1, 1.0)


def test_the_jump_is_from_pure_noise():
    seen, process = [], OneJump(latents=((2,),))

    def net(eps, t):
        seen.append(float(t[0]))
        return eps[0]

    dc.sample(dc.Field(dc.Denoiser(net, "decoder", process)), Decode(), process.prior((), dc.Draw(0, range(3))))
    assert seen == [1.0]


def test_noise_of_the_levels_is_independent():
    """Of the prior, and of the loss: correlations within 4 standard errors."""
    process = OneJump(latents=((4000,), (4000,)))
    net = MLPVAE(latents=process.latents, width=1).build((1,), {})
    for a, b in (process.prior((), dc.Draw(0, range(2))), noise(net, torch.zeros(2, 1), dc.Draw(0, range(2)))):
        for x, y in ((a, b), (a[0], a[1])):
            assert abs(float((x * y).mean())) < 4 / x.numel() ** 0.5


def test_terms_of_one_level_have_no_adjacent_one():
    net = MLPVAE(latents=((3,),), width=8).build((5,), {})
    x = dc.Draw(0, range(4)).normal((5,))
    found = terms(net, x, noise(net, x, dc.Draw(1, range(4))))
    assert len(found.divergences) == 1
    assert torch.equal(found.divergences[0], net.posterior(x).rate())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": {"type": "vae-conv", "latents": [[3, 4, 4]]}}, "give both the same"),
        ({"network": {"type": "mlp"}}, "network vae-mlp or vae-conv"),
        ({"network": {"type": "vae-conv", "latents": [[2, 3, 4], [3]]}}, "powers of 2"),
        ({"network": {"type": "vae-conv", "latents": []}}, "list of shapes"),
        ({"process": {"type": "flow"}, "prediction": "velocity"}, "'latents'"),
        ({"loss": {"type": "denoising"}}, "'affine'"),
        ({"solver": {"type": "euler"}}, "'velocity'"),
        ({"prediction": "eps"}, "decoder"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    with pytest.raises(dc.DiffcoreError, match=re.escape(words)):
        dc.assemble({**SPEC, **change})


def test_a_decoder_decodes_only_its_latents():
    network, shape = NETWORKS["conv"]
    with pytest.raises(dc.IncompatibleError, match="process"):
        network.build(shape, {})(torch.zeros(2, 1, 8, 8), torch.zeros(2))
    with pytest.raises(dc.IncompatibleError, match="encoder"):
        OneJump(latents=LEVELS).corrupt(torch.zeros(2, 1, 8, 8), torch.zeros(2), dc.Draw(0, range(2)))


def test_a_hierarchy_trains_samples_measures_and_loads(tmp_path):
    pipeline = dc.assemble(SPEC)
    before = pipeline.evaluate()[0]["metrics"]
    pipeline.train()
    after = pipeline.evaluate()[0]["metrics"]
    for name, sign in (("ELBO", 1), ("IWAE", 1), ("reconstruction", -1)):
        assert sign * (after[name]["value"] - before[name]["value"]) > 0.1
        assert "test split" in after[name]["against"]
    assert after["IWAE"]["value"] > after["ELBO"]["value"]
    assert {"active-units z_1", "active-units z_2"} <= set(after)
    held = dc.Registry.load().make("data", "digits-8x8", split="test").open()
    ev = dc.Evaluation(samples=torch.zeros(1), reference=torch.zeros(1), field=pipeline.field(), data=pipeline.spec.data)
    assert torch.equal(held_out(ev, 10**6).x, held.batch(torch.arange(held.size))[0] / 8 - 1)
    assert torch.equal(held_out(ev, 3).x, held.batch(torch.tensor([0, (held.size - 1) // 2, held.size - 1]))[0] / 8 - 1)
    made = pipeline.sample()
    assert made.raw().shape == (10, 1, 8, 8)
    assert 0 <= float(made.raw().min()) <= float(made.raw().max()) <= 16
    assert torch.allclose(pipeline.sample(batch=10).x, made.x, atol=1e-5)
    again = dc.Pipeline.load(pipeline.save(tmp_path))
    assert torch.equal(again.sample().x, made.x)


def test_the_spec_of_the_readme_runs():
    (block,) = re.findall(r"```yaml\n(diffcore: .*?)```", README, re.S)
    pipeline = dc.assemble(block, overrides=["trainer.steps=150"])
    before = pipeline.evaluate()[0]["metrics"]["IWAE"]["value"]
    pipeline.train()
    assert pipeline.evaluate()[0]["metrics"]["IWAE"]["value"] > before + 0.1

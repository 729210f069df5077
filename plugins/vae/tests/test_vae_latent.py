"""Codec and latent data: round trips, moments, runs that need no codec file, plain files, and clear errors."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffcore_vae.codec import Codec, codec_of
from diffcore_vae.latent import Latent
from safetensors.torch import save_file

import diffcore as dc

torch.set_num_threads(1)
VAE = {
    "diffcore": 1,
    "name": "codec",
    "data": {"type": "digits-8x8", "conditional": False},
    "process": {"type": "vae", "latents": [[2, 4, 4]]},
    "network": {"type": "vae-conv", "latents": [[2, 4, 4]], "width": 8, "unshuffle": 1},
    "prediction": "decoder",
    "loss": {"type": "vae"},
    "trainer": {"type": "standard", "steps": 150, "batch": 64, "lr": 3e-3, "warmup": 5, "ema": 0.9},
    "solver": {"type": "decode"},
}
LATENT = {
    "diffcore": 1,
    "name": "latent",
    "data": {"type": "latent", "of": {"type": "digits-8x8"}, "codec": "codec", "shape": [2, 4, 4]},
    "process": {"type": "flow"},
    "network": {"type": "mlp", "width": 16, "depth": 1},
    "prediction": "velocity",
    "sigma_data": 1.0,
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 3, "batch": 16, "warmup": 1},
    "solver": {"type": "euler", "steps": 3},
    "sampling": {"n": 8, "batch": 8},
    "evaluation": {"n": 20},
    "metrics": [{"type": "sliced-wasserstein"}],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec") / "codec"
    pipeline = dc.assemble(VAE)
    pipeline.train()
    pipeline.save(folder)
    return folder


@pytest.fixture
def work(trained, tmp_path, monkeypatch):
    """A working folder with the codec's run as codec/."""
    shutil.copytree(trained, tmp_path / "codec")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def data(registry=None, **changes):
    of = dc.Registry.load().make("data", "digits-8x8")
    return Latent(**{"of": of, "codec": "codec", "shape": (2, 4, 4), **changes})


def some(latent, n=200):
    return latent.open().batch(torch.arange(n))[0]


def test_latents_are_those_of_the_run_and_decode_in_range(work):
    latent, net = data(), dc.Pipeline.load("codec").net
    raw = some(latent)
    z = latent.encode(raw)
    assert z.shape == (200, 2, 4, 4)
    codec = latent.parts()["codec"]
    x = raw / 8 - 1
    with torch.no_grad():
        mean, std = codec.mean[:, None, None], codec.std[:, None, None]
        assert torch.allclose(z * std + mean, net.posterior(x).mean, atol=1e-5)
        back = latent.decode(z)
        assert torch.allclose(back, ((net.decode(net.posterior(x).mean).clamp(-1, 1) + 1) * 8), atol=1e-4)
    assert 0 <= float(back.min()) <= float(back.max()) <= 16
    assert float((back - raw).square().mean()) < 0.5 * float((raw - raw.mean(0)).square().mean())
    assert 0 <= float(latent.decode(50 * z).min()) <= float(latent.decode(50 * z).max()) <= 16


def test_moments_standardise_every_channel(work):
    latent = data(batch=100)
    source = latent.open()
    z = latent.encode(source.batch(torch.arange(source.size))[0]).transpose(0, 1).flatten(1).double()
    assert float(z.mean(1).abs().max()) < 1e-5
    assert float((z.std(1) - 1).abs().max()) < 1e-5
    part = data(moments=300)
    part.encode(some(part))
    codec = part.parts()["codec"]
    assert float((codec.mean - latent.parts()["codec"].mean).abs().max()) < 0.2 * float(codec.std.max())


def test_a_still_channel_is_not_divided_by_zero(work):
    latent = data()
    head = list(latent.parts()["codec"].net.encoder.body.rest)[-1]
    head.weight[0].zero_()
    z = latent.encode(some(latent))
    assert float(z[:, 0].abs().max()) < 1.5
    assert float(z[:, 1].std()) > 0.5


def test_a_latent_run_needs_its_codec_no_more(work):
    pipeline = dc.assemble(LATENT)
    pipeline.train("run")
    pipeline.save("run")
    made, row = pipeline.sample().raw(), pipeline.evaluate()[0]["metrics"]
    assert made.shape == (8, 1, 8, 8)
    assert 0 <= float(made.min()) <= float(made.max()) <= 16
    shutil.rmtree("codec")
    again = dc.Pipeline.load("run")
    assert torch.equal(again.sample().raw(), made)
    assert again.evaluate()[0]["metrics"] == row
    raw = again.source.batch(torch.arange(20))[0]
    assert torch.equal(again.spec.data.encode(raw), pipeline.spec.data.encode(raw))


def test_the_weights_of_a_run_win_over_another_codec_in_its_place(work):
    pipeline = dc.assemble(LATENT)
    pipeline.train()
    pipeline.save("run")
    made = pipeline.sample().raw()
    shutil.rmtree("codec")
    other = dc.assemble({**VAE, "network": {**VAE["network"], "width": 16}, "seed": 5})
    other.save("codec")
    assert torch.equal(dc.Pipeline.load("run").sample().raw(), made)


def test_training_resumes(work):
    overrides = ["trainer.steps=2", "trainer.checkpoint_every=1"]
    dc.assemble(LATENT, overrides=overrides).train("run")
    resumed = dc.assemble(LATENT, overrides=["trainer.checkpoint_every=1"])
    resumed.train("run")
    whole = dc.assemble(LATENT)
    whole.train()
    assert torch.equal(resumed.sample().x, whole.sample().x)


def test_without_codec_and_weights_the_first_use_says_what_to_do(work):
    latent = data(codec="nowhere")
    source = latent.open()
    assert (source.event, source.size) == ((2, 4, 4), 1797)
    for use in (lambda: latent.encode(source.batch(torch.arange(2))[0]), lambda: latent.decode(torch.zeros(1, 2, 4, 4))):
        with pytest.raises(dc.DataError, match="codec nowhere is not there"):
            use()
    with pytest.raises(dc.IncompatibleError, match="train it first"):
        dc.assemble(LATENT, overrides=["data.codec=nowhere"]).train()


def test_plain_codec_round_trip(work):
    latent = data()
    raw = some(latent)
    z = latent.encode(raw)
    latent.parts()["codec"].export("plain.safetensors")
    plain = data(codec="plain.safetensors")
    assert plain.open().event == (2, 4, 4)
    assert plain.parts()["codec"].fitted
    assert torch.equal(plain.encode(raw), z)
    assert torch.equal(plain.decode(z), latent.decode(z))


def test_a_plain_codec_made_elsewhere(tmp_path):
    """Affine maps written by hand, without moments: z = W x + b of 4 pixels, back by its inverse."""
    w = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0], [0.3, 0.0, 0.0, 1.0]])
    b = torch.tensor([0.1, 0.2, 0.0, -0.4])
    header = {"network": {"type": "vae-mlp", "latents": [[4]], "depth": 0, "std": 0.1}, "shape": [4]}
    back = torch.linalg.inv(w).contiguous()
    tensors = {
        "net.encoder.body.first.weight": torch.cat([w, torch.zeros(4, 4)]),
        "net.encoder.body.first.bias": torch.cat([b, torch.full((4,), -5.0)]),
        "net.decoder.body.first.weight": back,
        "net.decoder.body.first.bias": -back @ b,
        "net.log_std": torch.tensor(-2.3),
    }
    save_file(tensors, tmp_path / "affine.safetensors", {"codec": json.dumps(header)})
    codec = codec_of(tmp_path / "affine.safetensors")
    assert codec.ready
    assert not codec.fitted
    x = dc.Draw(0, range(50)).normal((4,))
    assert torch.allclose(codec.means(x), x @ w.T + b, atol=1e-6)
    codec.mean.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    codec.std.copy_(torch.tensor([0.5, 1.0, 2.0, 4.0]))
    assert torch.allclose(codec.encode(x), (x @ w.T + b - codec.mean) / codec.std, atol=1e-6)
    assert torch.allclose(codec.decode(codec.encode(x)), x, atol=1e-5)
    empty = Codec()
    empty.load_state_dict(codec.state_dict())
    assert torch.equal(empty.encode(x), codec.encode(x))


def test_bad_codecs_are_refused(work):
    (work / "noise.safetensors").write_bytes(b"not a file of tensors")
    save_file({"a": torch.zeros(1)}, "foreign.safetensors")
    save_file({"a": torch.zeros(1)}, "odd.safetensors", {"codec": json.dumps({"network": {"type": "vae-mlp"}, "shape": [4]})})
    save_file({"a": torch.zeros(1)}, "broken.safetensors", {"codec": "{"})
    save_file({"a": torch.zeros(1)}, "nested.safetensors", {"codec": "[" * 100_000})
    dc.assemble(LATENT, overrides=["data={type: digits-8x8}"]).save("mlp")
    dc.assemble(VAE, overrides=["data.conditional=true"]).save("labelled")
    for codec, words in (
        ("noise.safetensors", "cannot be read"),
        ("foreign.safetensors", "not written by diffcore"),
        ("odd.safetensors", "does not fit the header"),
        ("broken.safetensors", "does not fit the header"),
        ("nested.safetensors", "does not fit the header"),
        ("mlp", "no run of a VAE"),
        ("labelled", "conditional: false"),
    ):
        with pytest.raises(dc.DataError, match=words):
            data(codec=codec).open()
    with pytest.raises(dc.DataError, match=r"data\.shape"):
        data(shape=(4, 4, 4)).open()


def test_what_the_data_behind_the_latents_has_is_saved_too(work):
    of = {"type": "standardised", "of": {"type": "digits-8x8"}, "moments": 50}
    pipeline = dc.assemble({**LATENT, "data": {**LATENT["data"], "of": of}})
    pipeline.train()
    made = pipeline.sample(4).raw()
    pipeline.save("run")
    shutil.rmtree("codec")
    tensors, _ = dc.read_tensors(dc.user_file("run/weights.safetensors"), ["of.standard.mean"])
    assert torch.equal(tensors["of.standard.mean"], pipeline.codec["of.standard"].mean)
    torch.testing.assert_close(dc.Pipeline.load("run").sample(4).raw(), made, rtol=0, atol=0)

"""What the pretrained models do: samples, inversion, likelihood, denoising. Needs the installed weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffcore_galaxies.process import GalaxyVP
from diffcore_galaxies.samples import GalaxySamples, fine
from diffcore_galaxies.score_net import GalaxyScore

import diffcore as dc
from diffcore.run import runs

README = (Path(__file__).parents[1] / "README.md").read_text()
SHAPE = (1, 32, 32)


@pytest.fixture(scope="module")
def registry():
    return dc.Registry.load()


@pytest.fixture
def made(wheel):
    process = GalaxyVP()
    net = GalaxyScore().build(SHAPE, {}).eval()
    return dc.Field(dc.Denoiser(net, dc.Reading("score", "feature", "unit"), process=process))


def make(registry, kind, name, **fields):
    try:
        return registry.make(kind, name, **fields)
    except dc.UnknownComponentError as error:
        pytest.skip(str(error))


def rms(x):
    return float((x**2).mean().sqrt())


def test_solvers_reach_the_fine_solution(made, registry):
    """From the same noise, relative to the spread of the samples; twenty calls of a good solver are within 2 %."""
    x = made.process.prior(SHAPE, dc.Draw(3, range(4)))
    want = fine(made.base, made.process, x, 40)
    karras = make(registry, "grid", "karras")
    errors = {}
    for name, steps in (("dpmpp-2m", 10), ("dpmpp-2m", 20), ("dpmpp-2m", 40), ("edm-heun", 20)):
        with torch.no_grad():
            found = dc.sample(made, make(registry, "solver", name, steps=steps, grid=karras), x).x
        errors[name, steps] = rms(found - want) / float(want.std())
    assert errors["dpmpp-2m", 20] < 0.02
    assert errors["dpmpp-2m", 10] > 2 * errors["dpmpp-2m", 20] > 6 * errors["dpmpp-2m", 40]
    assert errors["edm-heun", 20] < 0.02


def test_samples_are_bright_in_the_middle_on_a_dark_sky(wheel):
    """The sky is within 0.05 of zero, the middle of each image is bright, no flux is far below zero."""
    x = GalaxySamples(size=16).open().batch(torch.arange(16))[0][:, 0]
    border = torch.cat([x[:, :3].flatten(1), x[:, -3:].flatten(1)], dim=1)
    assert float(border.abs().median()) < 0.05
    assert float(x[:, 12:20, 12:20].amax((1, 2)).min()) > 1
    assert float(x.min()) > -0.5


def test_noise_is_found_again(made, registry):
    """Decoding and encoding by the same flow: the noise comes back, and has unit variance."""
    levels = made.process.coeffs(torch.tensor([10.0, 0.01], dtype=torch.float64)).lam.tolist()
    times = made.process.t_of_lam(torch.linspace(*levels, 31, dtype=torch.float64))
    solver, z = make(registry, "solver", "rk4"), made.process.prior(SHAPE, dc.Draw(5, range(2)))
    with torch.no_grad():
        decoded = dc.sample(made, solver, z, grid=times).x
        back = dc.sample(made, solver, decoded, grid=times.flip(0)).x
    assert rms(decoded - z) > 0.5
    assert rms(back - z) < 2e-3


def test_samples_are_likelier_than_other_images(made, registry):
    """log p of samples, of samples moved off the centre, of samples with shuffled pixels: hundreds of nats apart."""
    x = GalaxySamples(size=8).open().batch(torch.arange(8))[0]
    order = torch.randperm(1024, generator=torch.Generator().manual_seed(0))
    metric = make(registry, "metric", "pf-ode-likelihood", n=8, steps=12)
    images = (x, x.roll((9, 9), (2, 3)), x.flatten(1)[:, order].reshape(x.shape))
    found = [metric.measure(dc.Evaluation(samples=y, reference=y, field=made))["log p"].value for y in images]
    assert found[0] > found[1] + 100
    assert found[1] > found[2] + 500


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_program_of_the_readme(wheel, registry):
    """It denoises and fills in; its own assertions hold, and what it prints is what it says."""
    (program,) = blocks("python")
    space: dict[str, float] = {}
    exec(compile(program, "README.md", "exec"), space)
    noisy, denoised, zero, filled = (float(space[name]) for name in ("noisy", "denoised", "zero", "filled"))
    assert noisy == pytest.approx(0.25, rel=0.05)
    assert denoised < noisy / 10
    assert filled < 0.9 * zero


def test_the_spec_of_the_readme(wheel, registry, tmp_path, monkeypatch):
    """No training, and the weights that come out are those that went in."""
    monkeypatch.chdir(tmp_path)
    (text,) = blocks("yaml")
    (tmp_path / "galaxies.yaml").write_text(text)
    small = ["sampling.n=4", "evaluation.n=8", "data.size=16", "solver.steps=3"]
    folder = runs.run("galaxies.yaml", registry=registry, overrides=small, device="cpu")
    made, original = dc.Pipeline.load(folder).net.state_dict(), GalaxyScore(model="ztf32").build(SHAPE, {}).state_dict()
    assert made.keys() == original.keys()
    assert all(torch.equal(made[key], original[key]) for key in made)
    assert (folder / "report.html").exists()

"""The network against an independent NumPy computation, and against the original's numbers where its weights are installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffcore_galaxies.score_net import GalaxyScore
from diffcore_galaxies.weights import MODELS, load

import diffcore as dc

ORIGINAL = json.loads((Path(__file__).parent / "galaxies_original.json").read_text())["outputs"]


def galaxies_image(side):
    """A blob and a wave, (1, side, side) float32."""
    i, j = np.mgrid[0:side, 0:side].astype(np.float64) / side
    return (3 * np.exp(-20 * ((i - 0.5) ** 2 + (j - 0.45) ** 2)) + 0.7 * np.sin(9 * i + 5 * j)).astype(np.float32)[None]


@pytest.mark.parametrize("model", MODELS)
def test_equal_to_the_original(wheel, model):
    side = MODELS[model].side
    net = GalaxyScore(model=model).build((1, side, side), {}).eval()
    pixels = np.linspace(0, side * side - 1, 8).astype(int)
    for row in ORIGINAL[model]:
        with torch.no_grad():
            out = net(torch.from_numpy(galaxies_image(side))[None], torch.tensor([row["t"] / 10])).double().flatten()
        assert torch.allclose(out[pixels], torch.tensor(row["values"], dtype=torch.float64), rtol=0, atol=1e-5)
        assert float((out**2).mean()) == pytest.approx(row["mean_square"], rel=2e-6)


def dense(a, y):
    return y @ a[0].T + a[1]


def mixed(a, y):
    return dense(a[2:], np.maximum(dense(a, y), 0))


def normed(a, y):
    return (y - y.mean()) / np.sqrt(y.var() + 1e-5) * a[0] + a[1]


def in_numpy(arrays, x, t):
    """The mixer with loops over patches, float64, from the equinox layout of the arrays."""
    a = [v.astype(np.float64) for v in arrays]
    side, n = x.shape[-1], x.shape[-1] // 4
    image = np.concatenate([x, np.full((1, side, side), t)]).astype(np.float64)
    y = np.zeros((64, n * n))
    for i in range(n):
        for j in range(n):
            patch = image[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            y[:, i * n + j] = np.einsum("ocij,cij->o", a[0], patch) + a[1].ravel()
    for b in range(4):
        w = a[4 + 12 * b : 16 + 12 * b]
        y = y + mixed(w[:4], normed(w[8:10], y))
        y = (y.T + mixed(w[4:8], normed(w[10:12], y.T))).T
    y, out = normed(a[52:54], y), np.zeros((1, side, side))
    for i in range(n):
        for j in range(n):
            # equinox correlates the dilated image with its kernel, so a patch gets the kernel turned by 180 degrees
            out[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = np.einsum("ocij,c->oij", a[2][:, :, ::-1, ::-1], y[:, i * n + j])
    return out + a[3]


def test_equal_to_numpy_with_random_weights(net, arrays):
    x, want = galaxies_image(32), in_numpy(arrays, galaxies_image(32), 0.3)
    with torch.no_grad():
        out = net(torch.from_numpy(x)[None], torch.tensor([0.3]))[0].double().numpy()
    assert np.abs(out - want).max() < 1e-5 * np.abs(want).max()


def test_numpy_is_equal_to_the_original(wheel):
    """The independent computation is held to the original too, so that machines without the weights prove something."""
    row = ORIGINAL["ztf32"][0]
    out = in_numpy(load("ztf32"), galaxies_image(32), row["t"] / 10).ravel()
    assert np.abs(out[np.linspace(0, 1023, 8).astype(int)] - row["values"]).max() < 1e-5


def test_a_conditional_network_starts_as_the_unconditional_one(seeded):
    spec, x, t = GalaxyScore(weights=str(seeded)), torch.from_numpy(galaxies_image(32))[None], torch.tensor([0.2])
    plain, labelled = spec.build((1, 32, 32), {}), spec.build((1, 32, 32), {"label": 3})
    assert labelled.null_cond == {"label": 3}
    for label in (torch.tensor([0]), torch.tensor([3]), None):
        assert torch.equal(labelled(x, t, label=label), plain(x, t))


def test_images_of_another_shape_are_refused():
    for shape in ((1, 28, 28), (3, 32, 32), (1, 64, 64)):
        with pytest.raises(dc.IncompatibleError, match=r"'hsc32' is for images \(1, 32, 32\)"):
            GalaxyScore(pretrained=False).build(shape, {})
    with pytest.raises(dc.IncompatibleError, match=r"to \(2, 32, 32\)"):
        GalaxyScore(pretrained=False).build((1, 32, 32), {}, (2, 32, 32))

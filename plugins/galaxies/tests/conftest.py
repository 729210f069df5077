"""Weights for the tests: those of the installed package, or a skip that says how to get them; and files made here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffcore_galaxies.score_net import ScoreNet
from diffcore_galaxies.weights import MODELS, find

import diffcore as dc


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def wheel():
    """Skips where galaxygrad is not installed."""
    try:
        return find("hsc32").parent
    except dc.DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def arrays():
    """Random arrays as equinox keeps those of a 32 x 32 network: the shapes are written out, not derived from ours."""
    rng = np.random.default_rng(0)
    c, p, h, k = 64, 64, 512, 4
    shapes = [(c, 2, k, k), (c, 1, 1), (1, c, k, k), (1, 1, 1)]
    for _ in range(4):
        shapes += [(h, p), (h,), (p, h), (p,), (h, c), (h,), (c, h), (c,), (c, p), (c, p), (p, c), (p, c)]
    shapes += [(c, p), (c, p)]
    made = [rng.normal(size=s).astype(np.float32) / max(1, s[-1]) ** 0.5 for s in shapes]
    return [*made, np.array(10.0)]


@pytest.fixture(scope="session")
def write():
    """write(path, arrays): an equinox file, the arrays one after another."""

    def to(path, arrays):
        with path.open("wb") as file:
            for array in arrays:
                np.save(file, array)
        return path

    return to


@pytest.fixture
def seeded(tmp_path, arrays, write):
    """A folder with a weights file of random numbers for hsc32."""
    write(tmp_path / MODELS["hsc32"].file, arrays)
    return tmp_path


@pytest.fixture
def net(arrays):
    """A network with those random numbers."""
    made = ScoreNet(32, {})
    made.take(arrays, "made here")
    return made.eval()

"""What the tests of this distribution share: an oracle that is wrong in a known way, at one time."""

import pytest
import torch

import diffcore as dc
from diffcore.testing import Mixture, ReferenceVE

N = 4096


@dc.component
class At(dc.TimeLaw):
    """One time for all samples."""

    t: float

    def __call__(self, process, draw):
        return torch.full((len(draw.ids),), self.t, dtype=torch.float64)


class Off(torch.nn.Module):
    """The exact eps plus theta_0 + theta_1 x, per entry."""

    def __init__(self, oracle, process, theta=(0.0, 0.0)):
        super().__init__()
        self.exact, self.null_cond = oracle.net(process, "eps"), {}
        self.theta = torch.nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, x, t):
        return self.exact(x, t) + self.theta[0] + self.theta[1] * x


@pytest.fixture
def at():
    return At


@pytest.fixture
def draw():
    return lambda n=N, seed=1: dc.Draw(seed, range(n), block=n)


@pytest.fixture
def mixture():
    return Mixture([0.3, 0.7], [[1.0, -0.5], [-0.8, 0.6]], [0.3, 0.5])


@pytest.fixture
def off():
    """`off(oracle, theta, process)`: a denoiser that predicts eps, wrong by theta_0 + theta_1 x."""

    def make(oracle, theta=(0.0, 0.0), process=None):
        process = ReferenceVE() if process is None else process
        return dc.Denoiser(Off(oracle, process, theta), "eps", process)

    return make


def _near(values, want, sigmas=4.0):
    """The mean of independent values is `want` within this many standard errors."""
    error = values.std(0) / len(values) ** 0.5
    gap = (values.mean(0) - want).abs()
    assert bool((gap <= sigmas * error + 1e-12).all()), f"{values.mean(0)} is {gap / error} s.e. from {want}"


@pytest.fixture
def near():
    return _near

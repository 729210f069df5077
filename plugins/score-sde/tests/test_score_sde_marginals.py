"""Noising, the reverse SDE and the probability-flow ODE have one law at every time (monograph 4.05)."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVP, golden_mixture, instant

DATA, N, REGISTRY = golden_mixture(), 4000, dc.Registry.load()


def cdf(at):
    """The distribution function of the noised mixture."""
    laws = [
        (float(w), float(at.alpha * m), float((at.alpha**2 * s**2 + at.sigma**2) ** 0.5))
        for w, m, s in zip(DATA.weights, DATA.means[:, 0], DATA.stds[:, 0], strict=True)
    ]
    return lambda x: sum(w * stats.norm.cdf(x, m, s) for w, m, s in laws)


def noised(process, t, seed):
    """N samples of p_t, (1, N, 1) so that a run draws its noise at once."""
    ids = dc.Draw(seed, range(N), block=N)
    times = torch.full((N,), t, dtype=torch.float64)
    return process.corrupt(DATA.sample(N, ids), times, ids.fold(9)).xt


@pytest.mark.item("4.05", "6.18")
@pytest.mark.parametrize("process", [ReferenceVP(), ReferenceFlow()], ids=lambda p: type(p).__name__)
def test_three_processes_share_their_marginals(process):
    """Kolmogorov-Smirnov against p_t, t = .1, 4000 samples: noising from data, both ways back from p_.9; p > .01.

    The law at .2 instead is refused with p < 1e-4 for all three.
    """
    field = dc.Field(dc.Denoiser(lambda x, t: DATA.mean(x[0], instant(process, t[0]))[None], "x0", process))
    grid, start = torch.linspace(0.9, 0.1, 121, dtype=torch.float64), noised(process, 0.9, 2)[None]
    runs = {
        name: dc.sample(field, REGISTRY.make("solver", name), start, grid=grid, seed=4).x[0] for name in ("ddim", "ancestral")
    }
    for x in (noised(process, 0.1, 3), *runs.values()):
        assert stats.kstest(x[:, 0].numpy(), cdf(instant(process, 0.1))).pvalue > 0.01
        assert stats.kstest(x[:, 0].numpy(), cdf(instant(process, 0.2))).pvalue < 1e-4
    assert float((runs["ddim"] - runs["ancestral"]).abs().mean()) > 0.3

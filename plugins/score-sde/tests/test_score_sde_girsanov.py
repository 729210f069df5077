"""What a wrong score costs along whole paths: Girsanov's ratio, the bound it gives on the likelihood, and its estimate."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_score_sde.sde import diffusion_square
from diffcore_score_sde.weighting import Likelihood

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceVE, ReferenceVP, instant

DOUBLE = torch.float64
VP, VE = ReferenceVP(), ReferenceVE()
BOTH = pytest.mark.parametrize("process", [VP, VE], ids=lambda p: type(p).__name__)
DATA, SHIFT = Gaussian(0.4, 0.7, shape=(1,)), 0.3


def times(process, n):
    """From T to .01 T, even in log t."""
    grid = process.T * torch.logspace(0, -2, n + 1, dtype=DOUBLE)
    return instant(process, grid)


def step(process, x, t, s, off=0.0):
    """Mean of an Euler-Maruyama step of the reverse SDE whose score is off by a constant, and the variance, g^2 dt."""
    h, g2 = float(t.t - s.t), float(diffusion_square(t))
    drift = float(t.dalpha / t.alpha) * x - g2 * (DATA.score(x, t) + off)
    return x - h * drift, g2 * h


@pytest.mark.item("C3")
@BOTH
def test_the_divergence_of_two_diffusions_is_half_the_squared_gap_in_units_of_g(process):
    """sum of KL of the steps -> c^2 / 2 int g^2 dt = c^2 / 2 int of the likelihood weight, for a score off by c; slope 1."""
    gaps = []
    fine = process.T * torch.logspace(0, -2, 40_001, dtype=DOUBLE)
    weight = Likelihood()(process.coeffs(fine), dc.row("score", process.coeffs(fine)))
    want = 0.5 * SHIFT**2 * float(-torch.trapezoid(weight, fine))
    for n in (100, 200, 400):
        c, x, total = times(process, n), torch.tensor([[0.3]], dtype=DOUBLE), 0.0
        for i in range(n):
            (one, v), (other, _) = (step(process, x, c.at(i), c.at(i + 1), off) for off in (0.0, SHIFT))
            total += float((one - other) ** 2 / (2 * v))
        gaps.append(abs(total / want - 1))
    assert gaps[-1] < 0.02
    assert 1.7 < gaps[0] / gaps[1] < 2.3
    assert 1.7 < gaps[1] / gaps[2] < 2.3


def paths(process, n, count, seed):
    """Runs of the right SDE, the log of Girsanov's ratio (right over wrong) of each, and the divergence of the steps."""
    c, draw = times(process, n), dc.Draw(seed, range(count), block=count)
    x = float(c.sigma[0]) * draw.normal((1,), DOUBLE)
    ratio, total = torch.zeros(count, dtype=DOUBLE), 0.0
    for i in range(n):
        (one, v), (other, _) = (step(process, x, c.at(i), c.at(i + 1), off) for off in (0.0, SHIFT))
        z = draw.fold(i + 1).normal((1,), DOUBLE)
        x = one + v**0.5 * z
        ratio += (((x - other) ** 2 - (x - one) ** 2) / (2 * v))[:, 0]
        total += float(((one - other) ** 2 / (2 * v))[0])
    return ratio, total


@pytest.mark.item("C3")
def test_girsanovs_ratio_is_a_density():
    """Over paths of the right SDE: E[dQ/dP] = 1, and E[log dP/dQ] is the divergence of the steps (4 s.e. of 8192)."""
    ratio, total = paths(VP, 60, 8192, 1)
    inverse = torch.exp(-ratio)
    for found, want in ((inverse, 1.0), (ratio, total)):
        error = float(found.std()) / 8192**0.5
        assert abs(float(found.mean()) - want) < 4 * error
    assert total > 0.1


@pytest.mark.item("C3")
@pytest.mark.parametrize("off", [0.3, -1.0])
def test_the_divergence_of_paths_bounds_that_of_samples(off):
    """KL(p_0 || q_0) <= KL(p_T || prior) + c^2 / 2 int g^2: the likelihood-weighted loss bounds the negative log-likelihood.

    Every step is linear in x, so the ends of both runs are Gaussians in closed form.
    """
    n = 200
    c, ends, total = times(VP, n), [], 0.0
    probe = torch.tensor([[0.0], [1.0]], dtype=DOUBLE)
    start = float(c.alpha[0] * 0.4), float(c.alpha[0]) ** 2 * 0.49 + float(c.sigma[0]) ** 2
    for wrong, (mean, variance) in ((0.0, start), (off, (0.0, 1.0))):
        for i in range(n):
            moved, v = step(VP, probe, c.at(i), c.at(i + 1), wrong)
            slope = float(moved[1] - moved[0])
            mean, variance = slope * mean + float(moved[0]), slope**2 * variance + v
            total += 0.5 * wrong**2 * v
        ends.append((mean, variance))

    def kl(p, q):
        return 0.5 * (p[1] / q[1] + (p[0] - q[0]) ** 2 / q[1] - 1 + math.log(q[1] / p[1]))

    bound = kl(start, (0.0, 1.0)) + total
    assert 0.01 < kl(*ends) < bound
    assert kl(*ends[::-1]) > 0.01


@pytest.mark.item("C4")
@pytest.mark.parametrize("off", [0.0, 0.5])
def test_the_likelihood_is_an_average_over_paths_of_noise(off):
    """p(x_0) = E_q[p(x_T) prod p(x_s | x_t) / q(x_t | x_s)] over noising paths from x_0: the marginal of a chain (4 s.e.).

    With the exact reverse kernels every path has the same weight, the density itself (1e-10). With a score that is off the
    chain is linear, so its density is a Gaussian in closed form, and the log of the weights averages to less (the bound).
    """
    n, count = 8, 40_000
    grid = instant(VP, torch.linspace(0, 0.6, n + 1, dtype=DOUBLE))
    draw = dc.Draw(2, range(count), block=count)
    x = first = torch.full((count, 1), 0.9, dtype=DOUBLE)
    log_weight, mean, kept = torch.zeros(count, dtype=DOUBLE), [], []
    for i in range(n):
        s, t = grid.at(i), grid.at(i + 1)
        a, v = float(t.alpha / s.alpha), float(t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2)
        y = a * x + v**0.5 * draw.fold(i).normal((1,), DOUBLE)
        spread, forward = float(s.alpha**2 * 0.49 + s.sigma**2), float(t.alpha**2 * 0.49 + t.sigma**2)
        gain, left = a * spread / forward, spread * v / forward  # q(x_s | x_t) of Gaussian data
        back = float(s.alpha) * 0.4 + gain * (y - float(t.alpha) * 0.4) + off * v
        log_weight += (normal(x - back, left) - normal(y - a * x, v))[:, 0]
        mean.append((gain, float(s.alpha) * 0.4 - gain * float(t.alpha) * 0.4 + off * v))
        kept.append((gain, left))
        x = y
    end = float(t.alpha) * 0.4, forward
    log_weight += normal(x - end[0], forward)[:, 0]
    m, spread = end
    for (gain, shift), (_, left) in zip(mean[::-1], kept[::-1], strict=True):
        m, spread = gain * m + shift, gain**2 * spread + left
    want = math.exp(float(normal(first[:1] - m, spread)))
    weight = log_weight.exp()
    if off == 0:
        assert float((weight / want - 1).abs().max()) < 1e-10
        return
    error = float(weight.std()) / count**0.5
    assert 0 < error < 0.05 * want
    assert abs(float(weight.mean()) - want) < 4 * error
    assert float(log_weight.mean()) < math.log(want) - 0.01


def normal(r, variance):
    """log N(r; 0, variance)."""
    return -0.5 * (r**2 / variance + math.log(2 * math.pi * variance))

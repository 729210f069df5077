"""The chain: its marginals, its posterior, its schedules, and its ends, against formulas of the papers in 50 digits."""

import math

import pytest
import torch
from diffcore_ddpm.chain import Chain
from diffcore_ddpm.kernels import kernels

import diffcore as dc
from diffcore.testing import ReferenceFlow

DOUBLE = torch.float64


def times(n):
    return torch.arange(n + 1, dtype=DOUBLE) / n


def falling(n):
    return times(n).flip(0)


def test_the_process_is_the_chain_at_every_index(case):
    """alpha and sigma at i / N to 1e-12 of the product in 50 digits; also below and above by one rounding of t."""
    chain, want = case
    for t in (times(1000), torch.nextafter(times(1000), torch.tensor(0.5, dtype=DOUBLE))):
        at = chain.coeffs(t)
        torch.testing.assert_close(at.alpha, want.alpha, rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(at.sigma, want.sigma, rtol=1e-11, atol=1e-14)
    assert (float(chain.coeffs(times(1)).alpha[0]), float(chain.coeffs(times(1)).sigma[0])) == (1.0, 0.0)


def test_beta_is_that_of_the_paper(case):
    chain, want = case
    torch.testing.assert_close(chain.beta, want.beta, rtol=1e-9, atol=1e-13)


@pytest.mark.item("2.08")
def test_published_ends_of_the_schedules(numbers):
    """alpha_N^2 = 4.0e-5 of linear and 2.4e-9 of clipped cosine; beta_1000 of cosine is .999, of linear .02."""
    assert float(Chain().coeffs(times(1)).alpha[1] ** 2) == pytest.approx(4.036e-5, rel=1e-3)
    assert float(Chain(schedule="cosine").coeffs(times(1)).alpha[1] ** 2) == pytest.approx(2.43e-9, rel=1e-2)
    assert float(Chain(schedule="cosine").beta[-1]) == pytest.approx(0.999, rel=1e-9)
    assert float(Chain().beta[-1]) == pytest.approx(0.02, rel=1e-12)


def test_shorter_chains_take_larger_steps(numbers):
    """The linear chain of 100 has ten times the rates, so it ends about as noisy: log alpha_N within 15%."""
    want = numbers("linear", 100)
    torch.testing.assert_close(Chain(steps=100).coeffs(times(100)).alpha, want.alpha, rtol=1e-11, atol=0)
    assert float(want.alpha[-1].log()) == pytest.approx(math.log(4.036e-5) / 2, rel=0.15)


@pytest.mark.item("2.07")
def test_composed_steps_are_the_closed_marginal(case):
    """Mean factor and variance of x_i given x_0, step by step from beta alone: 1e-12."""
    chain, _ = case
    mean, variance, at = 1.0, 0.0, chain.coeffs(times(1000))
    for i, beta in enumerate(chain.beta.tolist(), 1):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        assert abs(mean - float(at.alpha[i])) < 1e-11
        assert abs(variance - float(at.sigma[i]) ** 2) < 1e-11


@pytest.mark.item("2.09")
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("steps", [[1000, 999, 998], [1000, 500, 0], [37, 5, 1], [3, 2, 1], [1, 0]])
def test_posterior_is_gaussian_conditioning_of_the_joint_law(steps, zero):
    """(x_0, x_s, x_t) are jointly Gaussian for x_0 ~ N(0, 1): condition x_s on the others by a 2 x 2 solve; 1e-12."""
    chain = Chain(schedule="cosine", zero_terminal_snr=zero)
    grid = torch.tensor(steps, dtype=DOUBLE) / 1000
    k = kernels(chain, grid)
    at = chain.coeffs(grid)
    for j in range(len(steps) - 1):
        a, s = ([float(v[j]), float(v[j + 1])] for v in (at.alpha, at.sigma))
        ratio = a[0] / a[1]
        # x_s = a_s x_0 + s_s e, x_t = ratio x_s + noise
        joint = torch.tensor([[1, a[0]], [a[0], a[0] ** 2 + s[0] ** 2]], dtype=DOUBLE)
        cross = torch.tensor([a[1], ratio * (a[1] ** 2 + s[1] ** 2)], dtype=DOUBLE)
        weights = torch.linalg.solve(joint, cross)
        variance = a[1] ** 2 + s[1] ** 2 - float(weights @ cross)
        assert abs(float(k.gain[j]) - float(weights[0])) < 1e-10
        assert abs(float(k.keep[j]) - float(weights[1])) < 1e-10
        assert abs(float(k.small[j]) - variance) < 1e-12
    assert float(k.small[-1]) == 0 or steps[-1] != 0


@pytest.mark.item("2.09")
def test_posterior_is_equations_6_and_7():
    """mu~ and beta~ of Ho et al. from beta alone, all 1000 steps; beta~_1 = 0."""
    chain, beta = Chain(), Chain().beta
    abar = torch.cumprod(1 - beta, 0)
    before = torch.cat([torch.ones(1, dtype=DOUBLE), abar[:-1]])
    k = kernels(chain, falling(1000))
    close = {"rtol": 1e-9, "atol": 1e-14}
    torch.testing.assert_close(k.gain.flip(0), before.sqrt() * beta / (1 - abar), **close)
    torch.testing.assert_close(k.keep.flip(0), (1 - beta).sqrt() * (1 - before) / (1 - abar), **close)
    torch.testing.assert_close(k.small.flip(0), (1 - before) / (1 - abar) * beta, **close)
    torch.testing.assert_close(k.large.flip(0), beta, **close)
    assert float(k.small[-1]) == 0


@pytest.mark.parametrize("zero", [False, True])
def test_a_respaced_chain_has_the_marginals_of_the_long_one(zero):
    """beta' = the variance of x_t given x_s; composing its steps gives alpha_t, sigma_t; its posterior maps q(x_t) to q(x_s)."""
    chain = Chain(zero_terminal_snr=zero)
    grid = torch.tensor([1000, 801, 590, 317, 44, 3, 1, 0], dtype=DOUBLE) / 1000
    k, mean, variance = kernels(chain, grid), 1.0, 0.0
    for j in reversed(range(len(grid) - 1)):
        ratio = float(k.t.alpha[j] / k.s.alpha[j])
        assert ratio**2 + float(k.large[j]) == pytest.approx(1, abs=1e-12)
        mean, variance = ratio * mean, ratio**2 * variance + float(k.large[j])
        assert mean == pytest.approx(float(k.t.alpha[j]), abs=1e-12)
        assert variance == pytest.approx(float(k.t.sigma[j]) ** 2, abs=1e-12)
    back = k.keep * k.t.alpha + k.gain
    torch.testing.assert_close(back, k.s.alpha, rtol=0, atol=1e-12)
    torch.testing.assert_close(k.keep**2 * k.t.sigma**2 + k.small, k.s.sigma**2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "scaled-linear"])
def test_zero_terminal_snr_follows_algorithm_1(schedule, numbers):
    """sqrt(abar) shifted by its last and scaled to keep its first: exactly 0 at N, alpha_1 unchanged, beta_N = 1."""
    want, chain = numbers(schedule, 1000), Chain(schedule=schedule, zero_terminal_snr=True)
    root = want.alpha[1:]
    moved = (root - root[-1]) * root[0] / (root[0] - root[-1])
    at = chain.coeffs(times(1000))
    torch.testing.assert_close(at.alpha[1:], moved, rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(at.sigma[1:], (1 - moved**2).sqrt(), rtol=1e-10, atol=0)
    assert (float(at.alpha[-1]), float(at.sigma[-1])) == (0.0, 1.0)
    assert float(at.lam[-1]) == -math.inf
    assert float(chain.beta[-1]) == 1.0


@pytest.mark.item("2.08")
def test_zero_terminal_snr_refuses_the_noise():
    chain = Chain(zero_terminal_snr=True)
    for name in ("eps", "score", "eps-range"):
        with pytest.raises(dc.IncompatibleError, match="signal is gone"):
            chain.check_prediction(name, 0.5)
    for name in ("x0", "v", "velocity", "edm", "x0-range", "v-range"):
        chain.check_prediction(name, 0.5)
    Chain().check_prediction("eps-range", 0.5)
    with pytest.raises(dc.IncompatibleError, match="score-range"):
        Chain().check_prediction("score-range", 0.5)


@pytest.mark.item("2.08")
@pytest.mark.parametrize("n", [2, 3, 10, 1000])
@pytest.mark.parametrize("zero", [False, True])
def test_any_chain_falls_between_its_indices(case, n, zero):
    """lam falls strictly, alpha^2 + sigma^2 = 1, and velocity is phi' v with phi' > 0, at ten times between any two indices."""
    chain = Chain(schedule=case[0].schedule, steps=n, zero_terminal_snr=zero)
    at = chain.coeffs(torch.linspace(0, 1, 10 * n + 1, dtype=DOUBLE))
    assert bool((at.lam[1:] < at.lam[:-1]).all())
    torch.testing.assert_close(at.alpha**2 + at.sigma**2, torch.ones_like(at.t), rtol=0, atol=1e-14)
    rate = torch.hypot(at.dalpha, at.dsigma)
    assert float(rate.min()) > 0
    torch.testing.assert_close(at.dalpha, -at.sigma * rate)


def test_bad_chains_are_refused():
    assert Chain(beta_start=0.02, beta_end=0.02).beta_end == 0.02
    with pytest.raises(dc.SpecError, match="beta_start <= beta_end"):
        Chain(beta_start=0.02, beta_end=1e-4)
    with pytest.raises(dc.SpecError, match="must be >= 2"):
        Chain(steps=1)
    with pytest.raises(dc.IncompatibleError, match="shifts the mean"):
        kernels(Shifted(), falling(2))


@dc.component
class Shifted(ReferenceFlow):
    """A path with a moving mean."""

    def coeffs(self, t):
        return super().coeffs(t)._replace(shift=t, dshift=torch.ones_like(t))

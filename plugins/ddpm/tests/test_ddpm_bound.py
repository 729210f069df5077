"""The variational bound against exact likelihoods, and its terms against textbook divergences."""

import itertools
import math

import mpmath
import pytest
import torch
from diffcore_ddpm.bound import prior_term, step_term, steps_of, surprise
from diffcore_ddpm.chain import Chain
from diffcore_ddpm.elbo import ELBO
from diffcore_ddpm.kernels import kernels
from diffcore_ddpm.learned import RangePosterior

import diffcore as dc
from diffcore.testing import FiniteSet, Gaussian, ReferenceVE

DOUBLE = torch.float64
LOG2 = math.log(2)


def known(x0, off, fraction=None):
    """A posterior whose mean is `off` away from x_0."""
    at = dc.Coeffs(0.5, 0.6, 0.8, -1.0, 1.0)
    if fraction is None:
        return dc.Posterior(x0, x0 - off, "x0", at)
    return RangePosterior(dc.Posterior(x0, x0 - off, "x0", at), torch.full_like(x0, fraction))


def column(value):
    return torch.as_tensor(value, dtype=DOUBLE).reshape(-1, 1)


@pytest.mark.parametrize(("variance", "fraction"), [("small", None), ("large", None), ("learned", 0.3), ("learned", -0.2)])
def test_a_step_is_the_divergence_of_two_normals(variance, fraction):
    """Against torch.distributions, 1e-10, in bits; also off the grid of the chain."""
    chain, normal = Chain(), torch.distributions.Normal
    t, s = torch.tensor([1.0, 0.5, 0.002], dtype=DOUBLE), torch.tensor([0.9, 0.4999, 0.001], dtype=DOUBLE)
    k, off = kernels(chain, torch.stack([t, s])), column([0.3, -0.7, 0.01])
    small, large = k.small[0], k.large[0]
    f = {"small": 0.0, "large": 1.0}.get(variance, fraction)
    v = (f * large.log() + (1 - f) * small.log()).exp()
    want = torch.distributions.kl_divergence(normal(k.gain[0] * off[:, 0], small.sqrt()), normal(torch.zeros(3), v.sqrt())) / LOG2
    got = step_term(
        steps_of(chain, t, t, s), column([0.1, 0.2, -0.4]), known(column([0.1, 0.2, -0.4]), off, fraction), variance, 256
    )
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_the_last_step_takes_the_variance_of_the_step_above():
    """beta~_1 = 0 becomes beta~_2; beta_1 stays: densities of the decoder to 1e-12."""
    chain, beta = Chain(), Chain().beta
    abar = 1 - beta[0], (1 - beta[0]) * (1 - beta[1])
    t, s, above = (torch.tensor([v], dtype=DOUBLE) for v in (0.001, 0.0, 0.002))
    for variance, v in (("small", (1 - abar[0]) / (1 - abar[1]) * beta[1]), ("large", beta[0])):
        got = step_term(steps_of(chain, above, t, s), column(0.2), known(column(0.2), column(0.03)), variance, None)
        want = -torch.distributions.Normal(0.17, v.sqrt()).log_prob(torch.tensor(0.2, dtype=DOUBLE)) / LOG2
        assert float(got) == pytest.approx(float(want), rel=1e-9)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize(("mean", "deviation"), [(0.1, 0.01), (-1.3, 0.5), (0.999, 1e-3), (0.0, 3.0)])
def test_the_bins_of_the_decoder_hold_all_mass(levels, mean, deviation):
    x0 = torch.linspace(-1, 1, levels, dtype=DOUBLE)
    nats = surprise(x0, torch.full_like(x0, mean), torch.full_like(x0, 2 * math.log(deviation)), levels)
    assert float(torch.exp(-nats).sum()) == pytest.approx(1, abs=1e-12)
    assert bool(torch.isfinite(nats).all())


@pytest.mark.parametrize("x0", [-1.0, -0.2, 0.6, 1.0])
@pytest.mark.parametrize("mean", [-0.9, 0.55])
def test_the_decoder_is_accurate_in_its_tails(x0, mean):
    """Against 60 digits, up to 190 deviations from the mean, and its derivative is finite."""
    mp, x0 = mpmath.mp.clone(), round((x0 + 1) * 127.5) / 127.5 - 1
    mp.dps = 60
    half, v = mp.mpf(1) / 255, mp.mpf("0.01")
    low = -mp.inf if x0 == -1 else (mp.mpf(x0) - half - mp.mpf(mean)) / v
    high = mp.inf if x0 == 1 else (mp.mpf(x0) + half - mp.mpf(mean)) / v
    low, high = (low, high) if low + high > 0 else (-high, -low)  # the upper tail, which is small and so exact
    mass = (mp.erfc(low / mp.sqrt(2)) - mp.erfc(high / mp.sqrt(2))) / 2
    m = torch.tensor([mean], dtype=DOUBLE, requires_grad=True)
    got = surprise(torch.tensor([x0], dtype=DOUBLE), m, torch.full((1,), 2 * math.log(0.01), dtype=DOUBLE), 256)
    assert got.item() == pytest.approx(float(-mp.log(mass)), rel=1e-9, abs=1e-12)
    assert bool(torch.isfinite(torch.autograd.grad(got.sum(), m)[0]).all())


def test_the_prior_term_is_a_divergence():
    chain, x0 = Chain(steps=20), column([0.0, 0.7, -1.0])
    at, normal = chain.coeffs(torch.tensor(1.0).double()), torch.distributions.Normal
    want = torch.distributions.kl_divergence(normal(at.alpha * x0, at.sigma), normal(torch.zeros(1).double(), 1.0))[:, 0] / LOG2
    torch.testing.assert_close(prior_term(chain, x0), want, rtol=1e-10, atol=1e-14)
    assert float(prior_term(Chain(zero_terminal_snr=True), x0).abs().max()) == 0
    torch.testing.assert_close(prior_term(ReferenceVE(), x0)[1], torch.tensor(0.7**2 / 200 / LOG2, dtype=DOUBLE))


def left(at, d2):
    """Var[x_0 | x_t] of Gaussian data of variance d2."""
    return d2 * at.sigma**2 / (at.alpha**2 * d2 + at.sigma**2)


@pytest.mark.item("2.14")
@pytest.mark.parametrize(("steps", "gap"), [(200, 0.581), (400, 0.283), (800, 0.140)])
def test_the_gap_of_the_exact_denoiser_falls_as_one_over_n(steps, gap):
    """Levels of lam even on [-8, 8], N(0, .3), the decoder the exact posterior: E[-ELBO] - H in nats, closed form.

    The expectation of a step is its value at an error of size sqrt(Var[x_0|x_t]), as it is linear in the squared error.
    """
    chain, d2 = Chain(schedule="cosine", zero_terminal_snr=True), 0.3
    grid = chain.t_of_lam(torch.linspace(-8, 8, steps + 1, dtype=DOUBLE))
    at = chain.coeffs(grid)
    zero = torch.zeros(steps, 1, dtype=DOUBLE)
    off = left(at, d2)[:-1, None].sqrt()
    middle = float(step_term(steps_of(chain, grid[:-1], grid[:-1], grid[1:]), zero, known(zero, off), "small", None).sum()) * LOG2
    a2, s2 = float(at.alpha[0]) ** 2, float(at.sigma[0]) ** 2
    prior = 0.5 * (a2 * d2 + s2 - 1 - math.log(s2))
    decoder = 0.5 * math.log(2 * math.pi * math.e * float(left(at, d2)[-1]))
    entropy = 0.5 * math.log(2 * math.pi * math.e * d2)
    assert prior + middle + decoder - entropy == pytest.approx(gap, abs=1e-3)


def closed_form(chain, d2, variance):
    """E[-ELBO] in bits per dimension of N(0, d2) with the exact denoiser, over the whole chain, the decoder a density."""
    n = chain.steps
    t = torch.arange(n, 0, -1, dtype=DOUBLE) / n
    zero, off = torch.zeros(n, 1, dtype=DOUBLE), left(chain.coeffs(t), d2)[:, None].sqrt()
    k = steps_of(chain, (t + 1 / n).clamp(max=1), t, (t - 1 / n).clamp(min=0).where(t > 1.5 / n, 0.0))
    return float(step_term(k, zero, known(zero, off), variance, None).sum() + prior_term(chain, column(d2**0.5)))


@pytest.mark.item("2.14")
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_bound_closes_on_the_likelihood_as_the_chain_grows(variance):
    """Cosine chains of 100 to 1600: above the entropy, and falling; with `large` each doubling takes a third of the gap.

    With `small` it does not go to 0: beta_1 falls with N, so the ratios of SNR between the first few indices never do.
    """
    entropy = 0.5 * math.log2(2 * math.pi * math.e * 0.3)
    gaps = [closed_form(Chain(steps=n, schedule="cosine"), 0.3, variance) - entropy for n in (100, 200, 400, 800, 1600)]
    assert all(0 < b < (0.67 if variance == "large" else 1) * a for a, b in itertools.pairwise(gaps)), gaps
    assert gaps[-1] < (0.1 if variance == "large" else 0.75)


def evaluation(field, x0):
    return dc.Evaluation(samples=x0, reference=x0, field=field)


@pytest.mark.item("2.14")
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_metric_measures_the_closed_form(variance):
    """512 samples of 16 numbers, 60 steps: within 4 s.e. of the expectation; the parts add up."""
    chain, data = Chain(steps=60, schedule="cosine"), Gaussian(0.0, 0.3**0.5, shape=(16,))
    x0 = data.sample(512, dc.Draw(3, range(512), block=512))
    found = ELBO(variance=variance, levels=None, n=512).measure(evaluation(data.field(chain, "eps"), x0))
    parts = ELBO(variance=variance, levels=None).parts(data.field(chain, "eps"), x0)
    se = float(sum(parts.values()).std()) / 512**0.5
    assert abs(found["elbo"].value - closed_form(chain, 0.3, variance)) < 4 * se
    assert se < 0.04
    assert found["elbo"].value == pytest.approx(sum(found[f"elbo-{k}"].value for k in parts), abs=1e-12)


def test_discrete_data_cannot_be_coded_below_its_entropy():
    """Data uniform on 17 levels, exact denoiser: the bound stays above log2(17) = 4.087 bits and comes within .5 bits."""
    points = torch.linspace(-1, 1, 17, dtype=DOUBLE)[:, None]
    chain, data = Chain(schedule="cosine"), FiniteSet(points)
    field, x0 = data.field(chain, "x0"), points.repeat(24, 1)
    found = [ELBO(levels=17, n=408, steps=n).measure(evaluation(field, x0))["elbo"].value for n in (100, 450)]
    assert found[0] > found[1] > math.log2(17)
    assert found[1] < math.log2(17) + 0.5


def test_the_metric_is_of_the_model_without_guidance_and_says_what_is_missing():
    data = Gaussian(0.0, 0.5, shape=(3,))
    chain, x0 = Chain(steps=8), data.sample(8)

    @dc.component
    class Wrong(dc.Guidance):
        """x* = 0."""

        def guide(self, denoiser, x, t, **cond):
            return denoiser(x, t, **cond).replace("x0", torch.zeros_like(x))

    plain, guided = data.field(chain), data.field(chain, guidance=[Wrong()])
    assert ELBO().measure(evaluation(plain, x0)) == ELBO().measure(evaluation(guided, x0))
    assert ELBO(seed=1).measure(evaluation(plain, x0)) != ELBO().measure(evaluation(plain, x0))
    for field, samples, missing in ((None, x0, "measures a field"), (plain, x0[:3], "at least 4 real samples")):
        with pytest.raises(dc.DataError, match=missing):
            ELBO().measure(evaluation(field, samples))


def test_the_metric_asks_the_network_under_the_conditions_of_the_data():
    """Two classes at their points: with its own class every sample is known, with the other one it costs more."""
    points = torch.tensor([[-0.5], [0.5]], dtype=DOUBLE)
    chain, label = Chain(steps=10, schedule="cosine"), torch.arange(8) % 2
    field = dc.Field(dc.Denoiser(lambda x, t, label: points[label] + 0 * x, "x0", chain), cond={"label": label[:2]})
    metric = ELBO(levels=None)

    def steps(label, **more):
        ev = dc.Evaluation(
            samples=points, reference=points[torch.arange(8) % 2], reference_cond={"label": label, **more}, field=field
        )
        return metric.measure(ev)["elbo-steps"].value

    assert steps(label, noise=torch.zeros(8, 1)) == pytest.approx(0, abs=1e-9)
    assert steps(1 - label) > 0.1


def test_the_metric_refuses_data_behind_a_codec():
    class Coded(dc.Data):
        def encode(self, raw):
            return raw[:, :1]

    data = Gaussian(0.0, 0.5, shape=(3,))
    ev = dc.Evaluation(samples=data.sample(8), reference=data.sample(8), field=data.field(Chain(steps=8)), data=Coded())
    with pytest.raises(dc.DataError, match="through a codec"):
        ELBO().measure(ev)


def test_the_spread_is_that_of_four_blocks():
    found = ELBO()._measured(torch.tensor([0.0, 2.0, 1.0, 3.0, 5.0], dtype=DOUBLE), "data")
    assert (found.value, found.n) == (2.2, 5)
    assert found.spread == pytest.approx(float(torch.tensor([1.0, 1.0, 3.0, 5.0]).std()))


def gaussian_steps(n=20):
    """All steps but the last of a chain on N(m, d^2): its kernels, moments of x_t and the exact posterior."""
    chain, t = Chain(steps=n), torch.arange(n, 1, -1, dtype=DOUBLE) / n
    return steps_of(chain, t, t, t - 1 / n)


@pytest.mark.item("2.10")
def test_marginal_and_conditional_divergence_differ_by_a_constant():
    """KL(q(x_s|x_t) || N(keep x + gain (p x + r), v)) against E KL(q(x_s|x_t, x_0) || same), for 10 linear models (p, r)."""
    k, m, d2 = gaussian_steps(), 0.4, 0.3
    spread = k.t.alpha**2 * d2 + k.t.sigma**2
    exact = k.t.alpha * d2 / spread
    gaps = []
    for seed in range(10):
        p, r = torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
        bias = m - p * k.t.alpha * m - r
        miss = (exact - p) ** 2 * spread + bias**2  # E (x*(x_t) - model)^2; x* averages to m
        off = (miss + left(k.t, d2)).sqrt()[:, None]
        zero = torch.zeros_like(off)
        conditional = step_term(k, zero, known(zero, off), "large", None) * LOG2
        v = k.small + k.gain**2 * left(k.t, d2)
        marginal = 0.5 * ((k.large / v).log() + (v + k.gain**2 * miss) / k.large - 1)
        gaps.append(conditional - marginal)
    assert float((torch.stack(gaps) - gaps[0]).abs().max()) < 1e-10


@pytest.mark.item("2.11")
def test_the_optimal_learned_variance():
    """The expected term is stationary in the fraction where v = beta~ + gain^2 Var[x_0|x_t], and only there."""
    k, d2 = gaussian_steps(), 0.3
    off = left(k.t, d2)[:, None].sqrt()
    best = ((1 + k.gain**2 * left(k.t, d2) / k.small).log() / (k.large / k.small).log())[:, None]
    at = dc.Coeffs(0.5, 0.6, 0.8, -1.0, 1.0)

    def slope(fraction):
        f = fraction.clone().requires_grad_(True)
        posterior = RangePosterior(dc.Posterior(off, -off, "x0", at), f)
        return torch.autograd.grad(step_term(k, torch.zeros_like(off), posterior, "learned", None).sum(), f)[0]

    assert float(slope(best).abs().max()) < 1e-10
    assert bool((slope(best + 0.1) > 0).all())
    assert bool((slope(best - 0.1) < 0).all())

"""Time laws against SciPy's distributions, importance weights, and exact stratification."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffcore_denoising.time_laws import LogitNormal, LogNormal, LowDiscrepancy, Uniform
from scipy import stats

import diffcore as dc

U = torch.linspace(0.001, 0.999, 60, dtype=torch.float64)


class Truncated:
    """A SciPy law restricted to [low, high]."""

    def __init__(self, law, low, high):
        self.law, self.low, self.share = law, law.cdf(low), law.cdf(high) - law.cdf(low)

    def ppf(self, u):
        return self.law.ppf(self.low + np.asarray(u) * self.share)

    def cdf(self, t):
        return (self.law.cdf(t) - self.low) / self.share

    def pdf(self, t):
        return self.law.pdf(t) / self.share


def logit_normal(mean, std):
    class Law(stats.rv_continuous):
        def _cdf(self, x):
            return stats.norm.cdf(np.log(x / (1 - x)), mean, std)

        def _pdf(self, x):
            return stats.norm.pdf(np.log(x / (1 - x)), mean, std) / (x * (1 - x))

        def _ppf(self, q):
            return 1 / (1 + np.exp(-stats.norm.ppf(q, mean, std)))

    return Law(a=0, b=1)


LEVELS = stats.lognorm(s=1.2, scale=math.exp(-1.2))  # sigma = exp(N(-1.2, 1.2^2))
FLOW = logit_normal(-1.2, 1.2)  # sigma / alpha = t / (1 - t), so its logarithm is logit t
CASES = {
    "uniform": ("levels", Uniform(), stats.uniform(0.002, 80 - 0.002)),
    "uniform-lam": ("levels", Uniform(over="lam"), stats.loguniform(0.002, 80)),
    "lognormal": ("levels", LogNormal(), Truncated(LEVELS, 0.002, 80)),
    "lognormal-cut": ("levels", LogNormal(mean=-5.0, std=2.0), Truncated(stats.lognorm(s=2, scale=math.exp(-5)), 0.002, 80)),
    "lognormal-flow": ("flow", LogNormal(), FLOW),
    "logit-normal": ("flow", LogitNormal(mean=0.3, std=0.8), logit_normal(0.3, 0.8)),
}


@pytest.mark.item("4.06", "6.08", "D2")
@pytest.mark.parametrize("name", list(CASES))
def test_quantiles_are_those_of_the_distribution(processes, name):
    process, law, expected = CASES[name]
    t = law.quantile(processes[process], U)
    assert t.dtype == torch.float64
    np.testing.assert_allclose(t.numpy(), expected.ppf(U.numpy()), rtol=1e-9)


def test_logit_normal_is_restricted_to_the_times_of_the_process(processes):
    process = processes["levels"]
    expected = 80 * Truncated(logit_normal(-4.0, 3.0), 0.002 / 80, 1.0).ppf(U.numpy())
    np.testing.assert_allclose(LogitNormal(mean=-4.0, std=3.0).quantile(process, U).numpy(), expected, rtol=1e-9)


@pytest.mark.item("6.08")
@pytest.mark.parametrize("name", list(CASES))
def test_draws_have_the_distribution(processes, name):
    process, law, expected = CASES[name]
    t = law(processes[process], dc.Draw(5, range(4000), block=500))
    assert stats.kstest(t.numpy(), expected.cdf).pvalue > 0.01
    assert processes[process].min_time <= float(t.min())
    assert float(t.max()) <= processes[process].T


@pytest.mark.item("6.08")
@pytest.mark.parametrize("name", list(CASES))
def test_a_time_law_is_an_importance_weight(processes, name):
    """6.08: E_p[f(t) / p(t)] = integral of f, whatever p; f(t) = t exp(-t), checked to 4 standard errors."""
    process, law, expected = CASES[name]
    low, high = processes[process].min_time, processes[process].T
    t = law(processes[process], dc.Draw(2, range(20000), block=1000)).numpy()
    # on [0.05, 5] every density is bounded away from 0
    inside = (t > 0.05) & (t < min(5.0, 0.95 * high))
    values = np.where(inside, t * np.exp(-t) / expected.pdf(t), 0.0)
    a, b = max(0.05, low), min(5.0, 0.95 * high)
    exact = (1 + a) * math.exp(-a) - (1 + b) * math.exp(-b)
    assert abs(values.mean() - exact) < 4 * values.std() / math.sqrt(len(t))


@pytest.mark.item("6.08")
@pytest.mark.parametrize("law", [Uniform(), LogitNormal()])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_low_discrepancy_puts_one_time_into_every_stratum(processes, law, batch):
    process = processes["flow"]
    t = LowDiscrepancy(law=law)(process, dc.Draw(3, range(batch), index=11))
    edges = law.quantile(process, torch.arange(1, batch, dtype=torch.float64) / batch)
    assert torch.bincount(torch.bucketize(t, edges), minlength=batch).tolist() == [1] * batch


def test_low_discrepancy_is_the_same_batch_for_any_number_of_processes(processes):
    def draw(rows):
        return dc.Draw(3, rows, index=4, total=12)

    law = LowDiscrepancy(law=LogNormal())
    whole = law(processes["levels"], draw(range(12)))
    parts = [law(processes["levels"], draw(range(4 * r, 4 * r + 4))) for r in range(3)]
    assert torch.equal(torch.cat(parts), whole)


def test_low_discrepancy_moves_from_step_to_step_and_each_time_keeps_the_law(processes):
    law, process = LowDiscrepancy(law=LogNormal()), processes["levels"]
    first = torch.stack([law(process, dc.Draw(0, range(8), index=i))[3] for i in range(1500)])
    assert stats.kstest(first.numpy(), Truncated(LEVELS, 0.002, 80).cdf).pvalue > 0.01


@pytest.mark.item("6.08")
def test_low_discrepancy_lowers_the_variance_of_a_batch_mean(processes):
    process = processes["flow"]

    def spread(law):
        return torch.stack([law(process, dc.Draw(1, range(32), index=i)).square().mean() for i in range(200)]).var()

    # one time in each of B strata: the error of a smooth mean falls from B^-1/2 to B^-1 or better
    assert float(spread(LowDiscrepancy()) * 32 / 4) < float(spread(Uniform()))


def test_uniform_over_lam_names_an_infinite_end(processes):
    with pytest.raises(dc.IncompatibleError, match=r"lam.*ReferenceFlow has inf and -inf"):
        Uniform(over="lam").quantile(processes["flow"], U)


def test_low_discrepancy_refuses_a_law_without_quantiles():
    class Odd(dc.TimeLaw):
        pass

    with pytest.raises(dc.SpecError, match="needs a quantile function; Odd has none"):
        LowDiscrepancy(law=Odd())

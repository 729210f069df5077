"""Forward kernels against matrix exponentials, backward kernels against Bayes' rule over all states."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffcore_discrete.categorical import Entries, pick
from diffcore_discrete.d3pm import D3PM
from diffcore_discrete.masked import Masked
from diffcore_discrete.matrices import between, gaussian, products, steps
from diffcore_discrete.proof import PROCESSES, all_states, final_law, joint_step, order, point, variation
from diffcore_discrete.uniform import UniformTokens

import diffcore as dc

CONTINUOUS = ["masked", "masked-cosine", "uniform", "uniform-exponential"]


def generator(process, rate):
    """Q with exit rate `rate` from every value: to the mask, or evenly to the others (the K/(K-1) trap)."""
    v = process.values
    if isinstance(process, Masked):
        q = torch.zeros(v + 1, v + 1, dtype=torch.float64)
        q[:v, v] = 1
    else:
        q = torch.ones(v, v, dtype=torch.float64) / (v - 1)
        q.fill_diagonal_(0)
    return rate * (q - torch.diag(q.sum(1)))


def exit_rate(process, alpha):
    """int b for a share alpha: -log alpha, times (K - 1)/K where a redraw may keep the value."""
    v = process.values
    return -math.log(alpha) * (1 if isinstance(process, Masked) else (v - 1) / v)


@pytest.mark.item("12.02", "12.03", "12.04")
@pytest.mark.parametrize("name", CONTINUOUS)
def test_forward_kernel_is_the_matrix_exponential(name):
    process = PROCESSES[name]
    for t in (0.1, 0.5, 0.9):
        at = point(process, t)
        want = torch.linalg.matrix_exp(generator(process, exit_rate(process, at.alpha)))
        assert (process.transition(at)[0] - want[: process.values]).abs().max() < 1e-14


@pytest.mark.parametrize("name", CONTINUOUS)
def test_share_falls_at_its_derivative(name):
    process, t, h = PROCESSES[name], torch.linspace(0.05, 0.95, 19, dtype=torch.float64), 1e-6
    slope = (process.coeffs(t + h).alpha - process.coeffs(t - h).alpha) / (2 * h)
    assert (process.coeffs(t).dalpha - slope).abs().max() < 1e-7


@pytest.mark.item("12.02")
def test_euler_steps_of_the_master_equation_have_order_one_and_keep_mass():
    process, law = UniformTokens(values=4), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    q = generator(process, 1.5)
    want, counts, errors = law @ torch.linalg.matrix_exp(q), (20, 40, 80, 160), []
    for n in counts:
        found = law
        for _ in range(n):
            found = found + found @ q / n
        assert abs(float(found.sum()) - 1) < 1e-14
        errors.append(float((found - want).abs().max()))
    assert abs(order(counts, errors) - 1) < 0.05


def test_products_of_matrices():
    for process in (
        D3PM(matrix=m, values=v, levels=40, beta=(0.5, 20.0)) for m in ("absorbing", "uniform", "gaussian") for v in (2, 5)
    ):
        bar, one, stationary = products(process), steps(process), process.prior_probs
        assert (bar.sum(-1) - 1).abs().max() < 1e-13
        assert bar.min() >= 0
        assert (stationary @ one - stationary).abs().max() < 1e-14
        assert (bar[11] @ between(process, 11, 29) - bar[29]).abs().max() < 1e-13
        if process.matrix != "gaussian":
            alpha = 1 - process.betas()
            assert (bar[1:, 0, 0] - (alpha.cumprod(0) * (1 - stationary[0]) + stationary[0])).abs().max() < 1e-13


def test_gaussian_matrix_moves_by_the_discretised_normal():
    beta, v = 0.3, 6
    q = gaussian(v, torch.tensor([beta], dtype=torch.float64))[0]
    weight = [math.exp(-4 * n**2 / ((v - 1) ** 2 * beta)) for n in range(-v + 1, v)]
    for i in range(v):
        for j in range(v):
            if i != j:
                assert abs(float(q[i, j]) - weight[j - i + v - 1] / sum(weight)) < 1e-15
    assert (q - q.T).abs().max() == 0


def test_chain_that_does_not_forget_is_refused():
    with pytest.raises(dc.SpecError, match="stationary law; raise beta or levels"):
        D3PM(matrix="gaussian", values=16, levels=10, beta=(1e-4, 0.02))


@pytest.mark.item("12.01")
def test_reverse_of_a_markov_chain_is_not_its_inverse():
    """rev_ji = P_ij p_k(i) / p_(k+1)(j): rows sum to 1, it retraces the marginals, and P^-1 is no chain."""
    matrix = steps(D3PM(values=4, levels=5))[2]
    law = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    after = law @ matrix
    reverse = (matrix * law[:, None] / after).T
    assert (reverse.sum(1) - 1).abs().max() < 1e-14
    assert (after @ reverse - law).abs().max() < 1e-15
    assert torch.linalg.inv(matrix).min() < 0


@pytest.mark.item("12.01", "12.05", "R23")
def test_reverse_kernel_is_bayes_rule(process):
    """sum_a p(a|x) q(y|a) q(x|y) / q(x|a) entry by entry, built from the transition matrices alone."""
    x = torch.arange(process.states)[None]
    for high, low in ((1.0, 0.75), (0.5, 0.25), (0.25, 0.0)):
        t, s = point(process, high), point(process, low)
        data = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
        q_t, q_s = process.transition(t)[0], process.transition(s)[0]
        step = _step_matrix(process, high, low)
        joint = data[:, None, None] * q_s[:, :, None] * step[None]
        want = joint.sum(0) / joint.sum((0, 1)).clamp_min(1e-300)
        post = data[:, None] * q_t
        post = (post / post.sum(0).clamp_min(1e-300)).T[None]
        possible = joint.sum((0, 1)) > 1e-12
        found = process.kernel(x, t, s, post)[0].T
        assert (found - want)[:, possible].abs().max() < 1e-12, (high, low)
        assert (found.sum(0)[possible] - 1).abs().max() < 1e-12


def _step_matrix(process, high, low):
    """q(x_t | x_s) over all states."""
    if isinstance(process, D3PM):
        return between(process, round(low * process.levels), round(high * process.levels))
    a, b = point(process, high).alpha, point(process, low).alpha
    k = process.states
    stationary = process.prior_probs.expand(k, -1)
    return a / b * torch.eye(k, dtype=torch.float64) + (1 - a / b) * stationary


def test_ancestral_steps_retrace_the_marginals_of_one_entry(process):
    """With the exact posterior of one entry the law of x_s is exact, whatever the steps."""
    from diffcore_discrete.chain import Chain

    single = Chain(torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64))
    x, law = torch.arange(process.states)[:, None], process.prior_probs
    start = float((law - single.marginal(process.transition(point(process, 1.0))[0])).abs().max())
    for high, low in ((1.0, 0.5), (0.5, 0.25), (0.25, 0.0)):
        t, s = point(process, high), point(process, low)
        law = law @ process.kernel(x, t, s, single.posterior(x, process.transition(t)))[:, 0]
        assert (law - single.marginal(process.transition(s)[0])).abs().max() < max(1e-12, 1.0001 * start)


def test_ancestral_sampling_converges_to_the_joint_law_with_order_one(process, chain):
    """Both entries of a pair step at once: total variation falls as 1/steps with the exact posterior."""
    counts = (8, 16, 32, 64)
    laws = [final_law(process, chain, n, lambda x, known, t, s: process.kernel(x, t, s, known.probs)) for n in counts]
    errors = [variation(law, chain.joint) for law in laws]
    if process.prior_probs.max() < 1 and _leftover(process, chain) > 1e-6:
        assert errors[-1] < _leftover(process, chain) + 0.6 * errors[-2] < 0.06
        return
    assert errors[-1] < 0.02
    assert 0.8 < order(counts, errors) < 1.25, errors


def _leftover(process, chain):
    """How far the law at T is from the prior: what no number of steps removes."""
    at = process.transition(point(process, 1.0))[0]
    prior = process.prior_probs
    return float((chain.marginal(at) - torch.outer(prior, prior).flatten()).abs().sum() / 2)


def test_pick_stays_in_range_and_has_the_right_frequencies():
    probs = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0], dtype=torch.float64)
    edge = torch.tensor([0.0, 0.2, 0.7, 1 - 2**-24, 1 - 2**-53], dtype=torch.float64)
    assert pick(edge, probs.expand(5, -1)).tolist() == [1, 3, 4, 4, 4]
    z = dc.Draw(0, range(20000), block=20000).uniform()
    counts = torch.bincount(pick(z, probs.expand(20000, -1)), minlength=6) / 20000
    assert ((counts - probs).abs() <= 4.5 * (probs * (1 - probs) / 20000).sqrt()).all()


def test_corruption_has_the_frequencies_of_the_kernel(process):
    x0 = torch.arange(3).repeat_interleave(6000)[:, None]
    for t in (0.25, 0.75):
        xt = process.corrupt(x0, torch.full((18000,), t, dtype=torch.float64), dc.Draw(1, range(18000), block=18000)).xt
        want = process.transition(point(process, t))[0]
        for a in range(3):
            found = torch.bincount(xt[x0 == a], minlength=process.states) / 6000
            assert ((found - want[a]).abs() <= 4.5 * (want[a] * (1 - want[a]) / 6000).sqrt() + 1e-12).all()


def test_times_per_sample_and_per_entry_agree_with_one_time(process):
    x = all_states(process)[:6]
    logits = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, s = torch.full((6,), 0.5, dtype=torch.float64), torch.full((6,), 0.25, dtype=torch.float64)
    probs = process.posterior(x, logits, point(process, 0.5), dc.Reading("logits")).probs
    want = process.kernel(x, point(process, 0.5), point(process, 0.25), probs)
    for high, low in ((t, s), (t[:, None].expand(6, 2), s[:, None].expand(6, 2))):
        assert (process.kernel(x, process.coeffs(high), process.coeffs(low), probs) - want).abs().max() < 1e-14


def test_bad_tokens_are_refused_in_one_line():
    process = Masked()
    t = torch.full((1,), 0.5, dtype=torch.float64)
    with pytest.raises(dc.DataError, match="needs tokens"):
        process.corrupt(torch.zeros(1, 2), t, dc.Draw(0, [0]))
    with pytest.raises(dc.DataError, match=r"values 0 to 2; set process\.values"):
        process.corrupt(torch.tensor([[0, 3]]), t, dc.Draw(0, [0]))
    model = dc.Denoiser(lambda x, t: torch.zeros(*x.shape, 4), "logits", process)
    with pytest.raises(dc.DataError, match="of 3 values"):
        model(torch.zeros(1, 2, dtype=torch.int64), 0.5)


def test_joint_step_is_a_product():
    laws = torch.tensor([[[0.2, 0.8], [0.5, 0.5]]], dtype=torch.float64)
    assert joint_step(laws).tolist() == [[0.1, 0.1, 0.4, 0.4]]


@pytest.mark.parametrize("name", ["masked", "uniform-tokens", "d3pm"])
def test_the_law_of_a_reverse_step_is_what_is_drawn(name):
    """Probabilities of all states of two entries add up to 1 and are the shares of uniform numbers that lead there; a stored run
    is scored by them."""
    registry = dc.Registry.load()
    process, solver = registry.make("process", name, values=3), registry.make("solver", "ancestral")
    field, grid = process.oracle().field(process), torch.tensor([0.8, 0.5, 0.2], dtype=torch.float64)
    frames = list(dc.frames(field, solver, process.prior((2,), dc.Draw(0, range(5))), grid=grid, seed=3))
    t, s = process.pairs(grid)
    scores = dc.rescore(field, solver, frames, grid=grid)
    states = torch.cartesian_prod(*[torch.arange(process.states)] * 2)
    for i, (before, after) in enumerate(pairwise(frames)):
        at, end = (c.at(i).map(lambda v: v.item()) for c in (t, s))
        law = process.reverse_law(before.x, at, end, field.posterior(before.x, at))
        every = torch.stack([law.log_prob(state.expand(5, 2)) for state in states])
        torch.testing.assert_close(every.exp().sum(0), torch.ones(5, dtype=torch.float64))
        even = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        shares = torch.stack([(law.sample(u.expand(5, 2))[:, :, None] == torch.arange(process.states)) for u in even])
        shares = shares.double().mean(0)
        want = shares[torch.arange(5)[:, None], torch.arange(2), after.x].prod(1)
        assert float((scores[i].exp() - want).abs().max()) < 0.005


def test_weights_that_are_not_normalised_are_a_law_all_the_same():
    """log p of two entries with weights (1, 3) and (2, 6): of (0, 1), log(1/4 3/4); all four add up to 1."""
    law = Entries(torch.tensor([[[1.0, 3.0], [2.0, 6.0]]], dtype=torch.float64))
    every = [torch.tensor([[a, b]]) for a in (0, 1) for b in (0, 1)]
    assert float(law.log_prob(every[1])) == pytest.approx(math.log(3 / 16), abs=1e-12)
    assert float(sum(law.log_prob(x).exp() for x in every)) == pytest.approx(1.0, abs=1e-12)

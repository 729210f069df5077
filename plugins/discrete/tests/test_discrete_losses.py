"""Losses: bounds against the entropy of the joint law, minimisers, identities, and the contract on tokens."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from diffcore_discrete.bits import _measured, bound_bits, end_divergence
from diffcore_discrete.categorical import Categorical, one_hot
from diffcore_discrete.d3pm_hybrid import D3PMHybrid, step_divergence
from diffcore_discrete.flow_matching import DiscreteFlowMatching
from diffcore_discrete.masked_elbo import MaskedELBO
from diffcore_discrete.proof import PROCESSES, At, all_states, point
from diffcore_discrete.score_entropy import ScoreEntropy, rate_divergence

import diffcore as dc
from diffcore.testing.recording import keys_drawn, repeated

CASES = [
    ("masked", MaskedELBO()),
    ("masked", ScoreEntropy()),
    ("uniform", ScoreEntropy()),
    ("uniform", DiscreteFlowMatching()),
    ("absorbing", D3PMHybrid()),
    ("gaussian", D3PMHybrid(weight=0.0)),
]


def weighted_pairs(process, chain, t):
    """Every (x_0, x_t) with its probability: x_0 [M, 2], x_t [M, 2], weight [M]."""
    xt, matrix = all_states(process), process.transition(point(process, t))
    weight = (chain.joint.flatten() * chain.likelihood(xt, matrix)).T
    count = len(xt)
    return chain.states.repeat_interleave(count, 0), xt.repeat(len(chain.states), 1), weight.flatten()


def known_at(process, chain, xt, t):
    at = point(process, t)
    logits = chain.posterior(xt, process.transition(at)).clamp_min(1e-300).log()
    return process.posterior(xt, logits, at, dc.Reading("logits"))


def discrete_bound(process, chain, steps):
    """The bound of N ancestral steps with the exact posterior, by summing over all pairs, in nats of the whole pair."""
    grid, total = process.default_grid(steps, process.T).tolist(), 0.0
    for t, s in itertools.pairwise(grid):
        x0, xt, weight = weighted_pairs(process, chain, t)
        noised = dc.Corruption(xt, point(process, t), x0)
        each = step_divergence(process, x0, noised, point(process, s), known_at(process, chain, xt, t))
        total += 2 * float((weight * each).sum())
    return total


@pytest.mark.item("12.05")
@pytest.mark.parametrize("name", ["masked", "masked-cosine", "uniform", "absorbing", "d3pm-uniform"])
def test_bound_of_the_exact_model_falls_to_the_entropy_as_steps_grow(name, chain):
    process, counts = PROCESSES[name], (8, 16, 32, 64)
    gaps = [discrete_bound(process, chain, n) - chain.entropy for n in counts]
    assert all(gap > -1e-9 for gap in gaps), gaps
    for coarse, fine in itertools.pairwise(gaps):
        assert fine < 0.65 * coarse, gaps
    assert gaps[-1] < 0.03


def continuous_bound(process, chain, value):
    """int_0^1 of scale(t) times the mean of value(x_0, known) over all pairs, by Gauss-Legendre in t, 40 nodes."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    total = 0.0
    for node, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        x0, xt, weight = weighted_pairs(process, chain, node)
        known = known_at(process, chain, xt, node)
        total += w * process.jump_scale(point(process, node)) * float((weight * value(process, x0, known).sum(1)).sum())
    return total


def entropy_value(process, x0, known):
    true = process.jump_weights(Categorical(known.x, known.at, one_hot(x0, process.values).log()))
    return rate_divergence(true, process.jump_weights(known))


@pytest.mark.parametrize(("name", "tolerance"), [("masked", 1e-10), ("masked-cosine", 1e-6), ("uniform", 2e-3)])
def test_score_entropy_of_the_exact_ratios_is_the_entropy(name, tolerance, chain):
    """The integral over time is the entropy of the pair (uniform: a logarithmic end at t = 0 limits the quadrature)."""
    process = PROCESSES[name]
    assert abs(continuous_bound(process, chain, entropy_value) - chain.entropy) < tolerance


@pytest.mark.item("12.03", "12.06")
def test_masked_elbo_is_score_entropy_sample_by_sample(chain):
    process = PROCESSES["masked"]
    model = dc.Denoiser(
        lambda x, t: torch.randn(*x.shape, 3, generator=torch.Generator().manual_seed(1)).double(), "logits", process
    )
    x0, draw = chain.sample(200, dc.Draw(0, range(200))), dc.Draw(1, range(200))
    assert (MaskedELBO()(model, x0, draw) - ScoreEntropy()(model, x0, draw)).abs().max() < 1e-9


@pytest.mark.item("12.03")
def test_masked_elbo_averages_to_the_entropy(chain):
    """4.5 s.e. of 20000 samples with the exact posterior, and the weight alpha'/(1 - alpha) under both schedules."""
    for name in ("masked", "masked-cosine"):
        n = 20000
        model = dc.Denoiser(chain.net(PROCESSES[name]), "logits", PROCESSES[name])
        values = MaskedELBO()(model, chain.sample(n, dc.Draw(0, range(n), block=n)), dc.Draw(1, range(n), block=n))
        assert abs(float(values.mean()) - chain.entropy / 2) < 4.5 * float(values.std()) / n**0.5


def test_any_other_model_has_a_larger_bound(chain):
    """The gap of a model that knows only the marginals of each entry is the mutual information, exactly."""
    process = PROCESSES["masked"]
    rows = torch.stack([chain.joint.sum(1), chain.joint.sum(0)]).log()

    def value(process, x0, known):
        blind = process.posterior(known.x, rows.expand(len(x0), -1, -1), known.at, dc.Reading("logits"))
        return entropy_value(process, x0, blind)

    independent = -float((rows.exp() * rows).sum())
    assert abs(continuous_bound(process, chain, value) - independent) < 1e-10
    assert independent > chain.entropy + 0.1


@pytest.mark.item("12.06")
@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_ratios_and_logits_are_the_same_model(name, chain):
    """A network that predicts exact log-ratios gives the exact posterior, the same kernel and the same rates."""
    process, t = PROCESSES[name], 0.35
    at, xt = point(process, t), all_states(process)
    want = known_at(process, chain, xt, t)
    log_law = chain.marginal(process.transition(at)[0]).log().reshape(process.states, -1)
    rows = torch.stack([log_law[: process.values, xt[:, 1]].T, log_law[xt[:, 0], : process.values]], 1)
    ratio = rows - log_law[xt[:, 0], xt[:, 1]][:, None, None]
    shift = math.log(at.alpha / (1 - at.alpha) / process.values) if name == "masked" else 0.0
    found = process.posterior(xt, ratio - shift, at, dc.Reading("ratio"))
    assert (found.probs - want.probs).abs().max() < 1e-12
    assert (process.jump_weights(found) - process.jump_weights(want)).abs().max() < 1e-10


class Theta(torch.nn.Module):
    """The exact logits of a chain, moved by one parameter per value."""

    def __init__(self, exact, size=0.0):
        super().__init__()
        self.exact, self.theta, self.null_cond = exact, torch.nn.Parameter(torch.full((3,), size).double()), {}
        self.tilt = torch.tensor([1.0, -0.5, 0.0]).double()

    def forward(self, x, t, **cond):
        return self.exact(x, t) + self.theta * self.tilt


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_losses_are_minimised_by_the_exact_posterior(name, loss, chain):
    """Mean gradients of 64 blocks: 0 within 4.5 s.e. at the exact model, pushed back by 4.5 s.e. from a tilted one."""
    process = PROCESSES[name]

    def gradients(size):
        net = Theta(chain.net(process), size)
        model, found = dc.Denoiser(net, "logits", process), []
        for k in range(64):
            ids = range(64 * k, 64 * k + 64)
            x0 = chain.sample(64, dc.Draw(0, ids, block=64))
            total = loss(model, x0, dc.Draw(1, ids, block=64)).mean()
            found.append(torch.autograd.grad(total, net.theta)[0])
        return torch.stack(found)

    at, away = gradients(0.0), gradients(0.5)
    assert float((at.mean(0)[:2] / (at.std(0)[:2] / 8)).abs().max()) < 4.5
    assert float(away[:, 0].mean() / (away[:, 0].std() / 8)) > 4.5


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_contract_on_tokens(name, loss, chain):
    """One finite value per sample, keyed by the draw, whatever the batch; x_0 and the global generator are left alone."""
    process = PROCESSES[name]
    model = dc.Denoiser(Theta(chain.net(process), 0.3), "logits", process)
    x0, draw = chain.sample(12, dc.Draw(0, range(12))), dc.Draw(4, range(12))
    before, state = x0.clone(), torch.get_rng_state()
    values = loss(model, x0, draw)
    assert values.shape == (12,)
    assert values.isfinite().all()
    assert torch.equal(x0, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert (loss(model, x0[[3, 7]], draw.take([3, 7])) - values[[3, 7]]).abs().max() < 1e-12
    assert not torch.equal(loss(model, x0, dc.Draw(5, range(12))), values)


def test_dropped_conditions_are_null_together():
    class Net(torch.nn.Module):
        seen: torch.Tensor

        def __init__(self):
            super().__init__()
            self.null_cond = {"label": 4}

        def forward(self, x, t, label):
            self.seen = label
            return torch.zeros(*x.shape, 3)

    net, process = Net(), PROCESSES["masked"]
    loss, n = DiscreteFlowMatching(drop=0.3), 4000
    loss(dc.Denoiser(net, "logits", process), torch.zeros(n, 2).long(), dc.Draw(0, range(n), block=n), label=torch.arange(n) % 4)
    dropped = float((net.seen == 4).double().mean())
    assert abs(dropped - 0.3) < 4.5 * (0.21 / n) ** 0.5


class Seen(Theta):
    """That model, which remembers where it was asked."""

    def forward(self, x, t, **cond):
        self.x, self.answer = x, super().forward(x, t)
        return self.answer


@pytest.mark.item("12.05", "12.07")
def test_bound_and_cross_entropy_of_one_level_by_bayes_rule(chain):
    """L KL(q(x_s | x_t, x_0) || sum_a p(a) q(x_s | x_t, a)) and -log p(x_0), means over the two tokens, from the matrices."""
    process = PROCESSES["d3pm-uniform"]
    net, x0, draw, law = Seen(chain.net(process), 0.4), chain.sample(50, dc.Draw(0, range(50))), dc.Draw(1, range(50)), At(0.5)
    model = dc.Denoiser(net, "logits", process)
    bound, cross = (loss(model, x0, draw) for loss in (D3PMHybrid(weight=0.0, time_law=law), DiscreteFlowMatching(time_law=law)))
    now, before = (process.transition(point(process, t))[0] for t in (0.5, 0.5 - 1 / 64))
    both = before[:, :, None] * torch.linalg.solve(before, now)  # q(x_s, x_t | x_0)
    back = (both / both.sum(1, keepdim=True)).permute(0, 2, 1)  # q(x_s | x_t, x_0), (x_0, x_t, x_s)
    logp = net.answer.detach().log_softmax(-1)
    true, found = back[x0, net.x], torch.einsum("nia,ainb->nib", logp.exp(), back[:, net.x].permute(0, 2, 1, 3))
    want = 64 * (true * (true / found).log()).sum(-1).mean(1)
    torch.testing.assert_close(bound.detach(), want, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(cross.detach(), -logp.gather(-1, x0[..., None])[..., 0].mean(1), rtol=1e-10, atol=1e-12)


def test_hybrid_adds_a_cross_entropy(chain):
    process = PROCESSES["d3pm-uniform"]
    model = dc.Denoiser(Theta(chain.net(process), 0.4), "logits", process)
    x0, draw, law = chain.sample(50, dc.Draw(0, range(50))), dc.Draw(1, range(50)), At(0.5)
    bound, hybrid = (D3PMHybrid(weight=w, time_law=law)(model, x0, draw) for w in (0.0, 2.0))
    cross = DiscreteFlowMatching(time_law=law)(model, x0, draw)
    assert (hybrid - bound - 2 * cross).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["masked", "uniform", "absorbing", "uniform-exponential"])
def test_estimated_bound_is_unbiased(name, chain):
    """`bits-per-*` on 3000 exact samples against the sum over all pairs, 4.5 s.e.; the end at T included."""
    process, n, steps = PROCESSES[name], 3000, 32
    model = dc.Denoiser(chain.net(process), "logits", process)
    x0 = chain.sample(n, dc.Draw(0, range(n), block=n))
    found = bound_bits(model, x0, {}, steps, 4, 1)
    matrix, prior = process.transition(point(process, 1.0))[0], process.prior_probs
    rows = (torch.xlogy(matrix, matrix) - torch.xlogy(matrix, prior.clamp_min(1e-30))).sum(1)
    end = float(sum((chain.joint.sum(axis) * rows).sum() for axis in (0, 1)))
    want = (discrete_bound(process, chain, steps) + end) / 2 / math.log(2)
    assert abs(float(found.mean()) - want) < 4.5 * float(found.std()) / n**0.5


def test_a_measured_number_has_the_error_of_its_mean():
    assert _measured(torch.tensor([1.0, 2.0, 4.0, 5.0]), "").spread == pytest.approx((10 / 3) ** 0.5 / 2)


def test_what_the_prior_costs():
    """KL((alpha + (1 - alpha)/V, (1 - alpha)/V, ...) || 1/V) by hand, at a time where much is left; 0 for masks at T."""
    process, x0 = PROCESSES["uniform-exponential"], torch.tensor([[0, 2], [1, 1]])
    at = point(process, 0.2)
    stay, move = at.alpha + (1 - at.alpha) / 3, (1 - at.alpha) / 3
    want = stay * math.log(3 * stay) + 2 * move * math.log(3 * move)
    assert (end_divergence(process, x0, at) - want).abs().max() < 1e-14
    assert (end_divergence(PROCESSES["masked"], x0, point(PROCESSES["masked"], 1.0)) == 0).all()


def test_the_bound_counts_what_the_prior_costs():
    """A single step with a known x_0: the model is certain, so all that is left is the prior."""
    process, x0 = PROCESSES["uniform-exponential"], torch.zeros(4, 2, dtype=torch.int64)
    sure = dc.Denoiser(lambda x, t: torch.tensor([0.0, -1e9, -1e9]).double().expand(*x.shape, 3), "logits", process)
    found = bound_bits(sure, x0, {}, 1, 1, 0) * math.log(2)
    want = end_divergence(process, x0, point(process, 1.0))
    assert float(want.min()) > 1e-7
    assert (found - want).abs().max() < 1e-12


@pytest.mark.parametrize(("name", "loss"), CASES, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_time_noise_and_dropping_have_a_key_each(name, loss):
    """All three are uniform numbers."""

    def net(x, t, label):
        return torch.zeros(*x.shape, process.values, dtype=torch.float64)

    process, net.null_cond = PROCESSES[name], {"label": 1}
    x0 = torch.tensor([[0, 1], [1, 1], [1, 0]])
    model = dc.Denoiser(net, "logits", process)
    with keys_drawn() as keys:
        type(loss)(drop=0.5)(model, x0, dc.Draw(0, range(3)), label=torch.zeros(3, dtype=torch.int64))
    assert len(keys) == 3
    assert not repeated(keys)

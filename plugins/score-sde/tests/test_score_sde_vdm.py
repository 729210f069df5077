"""Variational diffusion models: the learned schedule, the bound against entropies, its invariance, its variance."""

import math

import numpy as np
import pytest
import torch
from diffcore_score_sde.monotone import LearnedVDM
from diffcore_score_sde.vdm_loss import VDMLoss, first_noise, prior_divergence, spread
from diffcore_score_sde.vdm_process import VDM

import diffcore as dc
from diffcore.testing import FiniteSet, Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP

BITS = math.log(2)
ANY = [VDM(gamma_max=10.0), ReferenceVP(), ReferenceFlow(), ReferenceVE()]


def bent(seed=0, learn_ends=False, **fields):
    """A learned process whose schedule is far from linear."""
    process = VDM(schedule="network", width=16, learn_ends=learn_ends, **fields).build()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (process.heights, process.slopes, process.middles, process.line):
            parameter.add_(0.8 * torch.randn(parameter.shape, generator=generator))
    return process


# --- the schedule -----------------------------------------------------------------------------------------------------


def test_the_network_is_monotone_with_exact_ends_and_derivatives():
    process, t = bent(), torch.linspace(0, 1, 101).double()
    c = process.coeffs(t)
    assert bool((c.lam.diff() < 0).all())
    assert abs(float(-2 * c.lam[0].detach()) + 13.3) < 1e-5
    assert abs(float(-2 * c.lam[-1].detach()) - 5) < 1e-5
    assert float((c.alpha**2 + c.sigma**2 - 1).abs().max().detach()) < 1e-12
    u = t.clone().requires_grad_()
    for name in ("alpha", "sigma"):
        (slope,) = torch.autograd.grad(getattr(process.coeffs(u), name).sum(), u)
        assert float((slope - getattr(c, f"d{name}")).abs().max().detach()) < 1e-10
    inside = t[1:-1]
    assert float((process.t_of_lam(process.coeffs(inside).lam.detach()) - inside).abs().max()) < 1e-9
    assert float((process.embed_time(t) - (-2 * c.lam + 13.3) / 18.3).abs().max().detach()) < 1e-6
    straight = VDM(schedule="network").build().normalised(t)[0]
    assert float((straight - t).abs().max().detach()) < 0.05


def test_only_learned_ends_are_parameters():
    assert "ends" not in dict(bent().named_parameters())
    assert "ends" in dict(bent(learn_ends=True).named_parameters())
    assert set(bent().state_dict()) == {"ends", "line", "heights", "slopes", "middles"}
    with pytest.raises(dc.SpecError, match="learn_ends"):
        VDM(learn_ends=True)
    for least in (5.0, -5.0):
        with pytest.raises(dc.SpecError, match="gamma_min < gamma_max"):
            VDM(gamma_min=least, gamma_max=-5.0)
    linear = VDM()
    assert linear.build() is linear


# --- the bound --------------------------------------------------------------------------------------------------------


def expected_diffusion(process, data, nodes=4000):
    """(T - t_0) E[-lam' |eps - eps*|^2] of the exact denoiser, by the midpoint rule: MMSE_eps = alpha^2 d^2 / V per entry."""
    with torch.no_grad():
        c = process.coeffs((torch.arange(nodes).double() + 0.5) / nodes)
        mmse = c.alpha**2 * data.std[0] ** 2 / (c.alpha**2 * data.std[0] ** 2 + c.sigma**2)
        return float((-c.dlam * mmse).mean()) * len(data.m)


@pytest.mark.item("4.17")
def test_the_bound_does_not_depend_on_the_schedule():
    """Three schedules with the same ends: equal to 1e-6, and half the integral of MMSE_eps over -log SNR."""
    data = Gaussian([0.3, -0.2], 0.5)
    values = [expected_diffusion(p, data, 200000) for p in (VDM(), bent(0), bent(1))]
    assert max(values) - min(values) < 1e-6
    gamma = torch.linspace(-13.3, 5, 200001).double()
    mmse = torch.sigmoid(-gamma) * 0.25 / (torch.sigmoid(-gamma) * 0.25 + torch.sigmoid(gamma))
    assert abs(values[0] - float(torch.trapezoid(mmse, gamma))) < 1e-6


def bits(process, data, levels=None, n=4096, seeds=6, net=None):
    """The mean loss of the exact denoiser and its standard error (over independent batches)."""
    found = []
    for seed in range(seeds):
        x0 = data.sample(n, dc.Draw(seed + 50, range(n), block=n))
        model = dc.Denoiser(net or data.net(process, "v"), "v", process)
        with torch.no_grad():
            found.append(float(VDMLoss(levels=levels)(model, x0, dc.Draw(seed, range(n), block=n)).mean()))
    return float(np.mean(found)), float(np.std(found, ddof=1)) / seeds**0.5


@pytest.mark.item("4.17")
@pytest.mark.parametrize(
    "process", [VDM(gamma_min=-8.0, gamma_max=8.0), bent(gamma_min=-8.0, gamma_max=8.0)], ids=["linear", "network"]
)
def test_with_the_exact_denoiser_it_is_the_entropy_of_a_gaussian(process):
    """H = D/2 log(2 pi e d^2): reached within 4 s.e. + .002 bits (the prior's leftover signal and the first noise level)."""
    data = Gaussian([0.2, -0.1, 0.4], 0.5)
    value, error = bits(process, data, n=2**16)
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.25) / BITS
    assert error < 0.02
    assert abs(value - entropy) < 4 * error + 2e-3


@pytest.mark.parametrize("process", ANY, ids=lambda p: type(p).__name__)
def test_with_the_exact_denoiser_it_is_the_entropy_of_discrete_data(process):
    """Four equally likely points on 5 levels: log2(4) / 3 bits per dimension, on any affine process."""
    points = FiniteSet([[-1.0, 0.5, 0.0], [1.0, 0.5, -0.5], [-0.5, -1.0, 1.0], [0.0, 0.0, 0.0]])
    value, error = bits(process, points, levels=5)
    slack = 0.01 if type(process).__name__ == "ReferenceVE" else 2e-3  # sigma_T = 10 leaves signal: log p differs by |x|^2/200
    assert error < 0.05
    assert abs(value - 2 / 3) < 4 * error + slack


def test_a_wrong_denoiser_costs_bits():
    """It is a bound: a denoiser of another Gaussian pays at least KL(data | that Gaussian), here exactly that."""
    data, other = Gaussian([0.2, -0.1, 0.4], 0.5), Gaussian([0.2, -0.1, 0.4], 0.8)
    process = VDM(gamma_max=10.0)
    value, error = bits(process, data, net=other.net(process, "v"))
    want = (0.5 * math.log(2 * math.pi * 0.64) + 0.5 * 0.25 / 0.64) / BITS
    assert abs(value - want) < 4 * error + 2e-3


def test_the_prior_part_is_a_kl_divergence():
    x0, at = torch.tensor([[0.3, -0.9], [1.0, 0.2]]).double(), VDM(gamma_max=1.0).coeffs(torch.tensor(1.0).double())
    noised, prior = (torch.distributions.Normal(m, at.sigma) for m in (at.alpha * x0, torch.zeros(2, 2).double()))
    want = torch.distributions.kl_divergence(noised, prior).sum(1)
    assert float((prior_divergence(x0, at) - want).abs().max()) < 1e-12


def test_the_bound_begins_where_there_is_noise():
    """At min_time, and at the cut where that is clean data."""
    assert [first_noise(process, 0.02) for process in (VDM(), ReferenceFlow())] == [0.0, 0.02]


def test_times_are_spread_over_the_batch_and_are_uniform():
    t = spread(dc.Draw(0, range(100)))
    assert float((t.sort().values.diff() - 0.01).abs().max()) < 1e-12
    part = spread(dc.Draw(0, range(100)).take([3, 77]))
    assert torch.equal(part, t[[3, 77]])
    starts = torch.tensor([float(spread(dc.Draw(s, range(10)))[0]) for s in range(400)])
    assert abs(float(starts.mean()) - 0.5) < 4.5 * (1 / 12 / 400) ** 0.5


# --- the gradient of the schedule -------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    """A small wrong network told the schedule."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([0.6, 0.3]).double())

    def forward(self, x, t):
        return self.w[0] * x * (1 - dc.expand(t, x)) - self.w[1] * x


def setting(learn_ends=False):
    process, net = bent(learn_ends=learn_ends), Net()
    model = dc.Denoiser(net, dc.Reading("v", "feature", "unit"), process)
    return process, net, model, Gaussian([0.3, -0.2], 0.5).sample(32)


def plain(process, model, x0, draw):
    """The diffusion part of each sample, written out, its gradients left alone."""
    t = spread(draw.fold(1))
    at = process.coeffs(t)
    eps = draw.fold(2).normal_like(x0)
    xt = dc.lincomb((at.alpha, x0), (at.sigma, eps))
    found = model(xt, at._replace(time=process.embed_time(t))).eps
    return -at.dlam * ((found - eps) ** 2).sum(1) / (2 * BITS)


def test_the_network_gets_the_gradient_of_the_bound_and_the_schedule_that_of_its_square():
    process, net, model, x0 = setting()
    draw = dc.Draw(3, range(32))
    inner = [process.line, process.heights, process.slopes, process.middles]
    loss = VDMLoss()(model, x0, draw).sum()
    got = torch.autograd.grad(loss, [net.w, *inner], retain_graph=True)
    (network,) = torch.autograd.grad(plain(process, model, x0, draw).sum(), [net.w])
    squares = torch.autograd.grad((plain(process, model, x0, draw) ** 2).sum(), inner)
    biased = torch.autograd.grad(plain(process, model, x0, draw).sum(), inner)
    assert torch.allclose(got[0], network, rtol=1e-6)
    for mine, want, other in zip(got[1:], squares, biased, strict=True):
        assert torch.allclose(mine, want, rtol=2e-4, atol=1e-6 * float(want.abs().max()))
        assert not torch.allclose(mine, other, rtol=0.05)


def test_learned_ends_get_the_gradient_of_the_whole_bound():
    """d/d gamma_max of diffusion + prior at fixed draws, by central differences of the loss; likewise gamma_min."""
    process, _, model, x0 = setting(learn_ends=True)
    draw, loss = dc.Draw(3, range(32)), VDMLoss(levels=None)
    (got,) = torch.autograd.grad(loss(model, x0, draw).sum(), [process.ends])
    for i in range(2):
        values = []
        for step in (0.01, -0.01):
            with torch.no_grad():
                process.ends[i] += step
                values.append(float(loss(model, x0, draw).sum()))
                process.ends[i] -= step
        assert abs(float(got[i]) - (values[0] - values[1]) / 0.02) < 2e-3 * (1 + abs(float(got[i])))


def test_training_the_schedule_lowers_the_variance_and_leaves_the_bound():
    """The exact denoiser of a Gaussian, only the schedule learns: E[d^2] falls towards E[d]^2 (its least), E[d] stays."""
    data = Gaussian([0.3, -0.2, 0.1, 0.0], 0.5)
    process = VDM(schedule="network", width=32).build()
    model = dc.Denoiser(lambda x, t: data.net(process, "v")(x, t), "v", process)
    trainer = dc.Trainer(steps=200, batch=128, lr=0.03, warmup=0, betas=(0.8, 0.95), ema=0.0, clip=None)
    parts = {"process": process}

    def second_moment(nodes=4000):
        with torch.no_grad():
            c = process.coeffs((torch.arange(nodes).double() + 0.5) / nodes)
            mmse = 0.25 * c.alpha**2 / (0.25 * c.alpha**2 + c.sigma**2)
            return float(((-c.dlam * mmse) ** 2).mean())

    before, mean = second_moment(), expected_diffusion(process, data) / 4
    players = trainer.players(parts)
    loss = VDMLoss()
    for step in range(trainer.steps):
        x0 = data.sample(128, dc.Draw(step, range(128), block=128))
        values = loss(model, x0, dc.Draw(7, range(128), index=step, block=128))
        grads = torch.autograd.grad(values.mean(), list(players[0].parameters.values()))
        for parameter, grad in zip(players[0].parameters.values(), grads, strict=True):
            parameter.grad = grad
        players[0].optimizer.step()
    after = second_moment()
    assert before > 1.2 * mean**2
    assert after - mean**2 < 0.5 * (before - mean**2)
    assert abs(expected_diffusion(process, data, 20000) / 4 - mean) < 1e-3


def test_trees_are_refused():
    with pytest.raises(dc.DataError, match="one tensor"):
        VDMLoss()(dc.Denoiser(lambda x, t: x, "v", VDM()), {"a": torch.zeros(2, 3)}, dc.Draw(0, range(2)))


def test_a_learned_process_samples_the_data():
    """The exact field of a mean and a deviation, sampled ancestrally under the bent schedule: moments within 4.5 s.e. + 2%."""
    data, process, n = Gaussian([0.3, -0.2], 0.5), bent(), 2048

    @dc.component
    class Ancestral(dc.Stepper):
        requires = frozenset({"reverse"})

        def plan(self, process, grid):
            t, s = process.pairs(grid)
            return dc.Plan(t=t, s=s, noise=process.reverse_noise(t, s))

        def step(self, field, x, row, carry, z):
            return dc.Moved(field.reverse(x, row.t, row.s, z))

    assert isinstance(process, LearnedVDM)
    x = process.prior((2,), dc.Draw(0, range(n)))
    with torch.no_grad():
        y = dc.sample(data.field(process), Ancestral(steps=100), x, seed=1).x
    assert float((y.mean(0) - data.m).abs().max()) < 4.5 * 0.5 / n**0.5 + 0.01
    assert float((y.var(0) / 0.25 - 1).abs().max()) < 4.5 * (2 / n) ** 0.5 + 0.02

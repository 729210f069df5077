"""Bounds against closed forms: probabilistic PCA, a linear-Gaussian chain, KLs of Gaussians, importance weights."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_vae.bound import VAEBound, log_weights
from diffcore_vae.collapse import VAELatents, information
from diffcore_vae.elbo import climb, log_weight, noise, terms
from diffcore_vae.gaussians import Normal
from diffcore_vae.held_out import HeldOut
from diffcore_vae.loss import NegativeELBO
from diffcore_vae.mlp import MLPVAE
from diffcore_vae.process import OneJump
from torch.distributions import MultivariateNormal, kl_divergence
from torch.distributions import Normal as Law

import diffcore as dc

torch.set_num_threads(1)
D, K, STD = 5, 2, 0.4


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def affine(flat, weight, bias):
    """Set a perceptron of depth 0."""
    flat.body.first.weight.data.copy_(weight)
    flat.body.first.bias.data.copy_(torch.as_tensor(bias, dtype=torch.float64))


def exact(net, std):
    """In float64, without gradients, with the standard deviation to its last digit."""
    net.double().requires_grad_(False).log_std.data.fill_(math.log(std))
    return net


class PCA:
    """x = W z + m + STD e, W with orthogonal columns, so that the posterior is diagonal: N(M^-1 W^T (x - m), STD^2 M^-1)."""

    def __init__(self, seed=0):
        basis = torch.linalg.qr(randn(D, K, seed=seed))[0]
        self.w, self.m = basis * torch.tensor([1.3, 0.6], dtype=torch.float64), randn(D, seed=seed + 1)
        self.law = MultivariateNormal(self.m, self.w @ self.w.T + STD**2 * torch.eye(D, dtype=torch.float64))
        inverse = 1 / ((self.w**2).sum(0) + STD**2)
        self.gain, self.log_var = inverse[:, None] * self.w.T, (STD**2 * inverse).log()

    def net(self, shift=0.0, widen=0.0):
        """The exact model, its encoder moved by `shift` and wider by `widen`."""
        net = exact(MLPVAE(latents=((K,),), depth=0, std=STD).build((D,), {}), STD)
        affine(net.decoder, self.w, self.m)
        mean = torch.cat([self.gain, torch.zeros_like(self.gain)])
        affine(net.encoder, mean, torch.cat([shift - self.gain @ self.m, self.log_var + widen]))
        return net

    def sample(self, n, seed=5):
        return self.m + randn(n, K, seed=seed) @ self.w.T + STD * randn(n, D, seed=seed + 1)


def expected(net, x):
    """The ELBO with its expectation over z exactly: 2 K points +-sqrt(K) e_i integrate quadratics."""
    points = math.sqrt(K) * torch.cat([torch.eye(K), -torch.eye(K)]).double()
    return torch.stack([terms(net, x, (p.expand(len(x), K),)).elbo for p in points]).mean(0)


def denoiser(net, latents):
    return dc.Denoiser(net, dc.Reading("decoder", "feature", "unit"), OneJump(latents=latents))


def evaluation(net, latents, x):
    process = OneJump(latents=latents)
    field = dc.Field(dc.Denoiser(net, "decoder", process))
    return dc.Evaluation(samples=x, reference=x, field=field)


@pytest.mark.item("1.07", "2.01")
def test_the_bound_is_the_likelihood_at_the_exact_posterior():
    model, x = PCA(), PCA().sample(50)
    assert float((expected(model.net(), x) - model.law.log_prob(x)).abs().max()) < 1e-8
    weights = log_weight(model.net(), x, (randn(50, K, seed=9),))
    assert float((weights - model.law.log_prob(x)).abs().max()) < 1e-8


@pytest.mark.item("2.01")
@pytest.mark.parametrize(("shift", "widen"), [(0.3, 0.0), (0.0, 0.5), (-0.2, -0.7)])
def test_the_gap_of_any_other_q_is_its_divergence_from_the_posterior(shift, widen):
    model, x = PCA(), PCA().sample(50)
    std = (0.5 * model.log_var).exp()
    gap = kl_divergence(Law(shift, std * math.exp(widen / 2)), Law(0.0, std)).sum()
    found = model.law.log_prob(x) - expected(model.net(shift, widen), x)
    assert float((found - gap).abs().max()) < 1e-8
    assert float(found.min()) > 0


@pytest.mark.item("2.03")
def test_closed_divergence_entropy_and_density():
    q = Normal(randn(4, 3), randn(4, 3, seed=1))
    law = Law(q.mean, (0.5 * q.log_var).exp())
    z = randn(4, 3, seed=2)
    for found, wanted in (
        (q.rate(), kl_divergence(law, Law(0.0, 1.0))),
        (q.entropy(), law.entropy()),
        (q.log_prob(z), law.log_prob(z)),
        (q.sample(z), law.mean + law.stddev * z),
    ):
        assert float((found - wanted).abs().max()) < 1e-12


def test_maximum_of_the_bound_is_probabilistic_pca():
    """Trained on a batch with sample covariance S: log-likelihood of pPCA, W W^T from the two leading eigenvectors."""
    x = PCA(3).sample(400)
    x = x - x.mean(0)
    values = torch.linalg.eigvalsh(x.T @ x / len(x)).flip(0)
    noise = values[K:].mean()
    best = -0.5 * (D * math.log(2 * math.pi) + values[:K].log().sum() + (D - K) * noise.log() + D)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MLPVAE(latents=((K,),), depth=0).build((D,), {}).double()
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=600, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure():
        optimiser.zero_grad()
        value = -expected(net, x).mean()
        value.backward()
        return value

    optimiser.step(closure)
    net.requires_grad_(False)
    assert abs(float(expected(net, x).mean()) - float(best)) < 1e-5
    assert abs(float((2 * net.log_std).exp() / noise) - 1) < 1e-2
    w = net.decoder.body.first.weight
    assert float((torch.linalg.eigvalsh(w.T @ w).flip(0) - (values[:K] - noise)).abs().max()) < 1e-2


# --- hierarchical -----------------------------------------------------------------------------------------------------

A, B, S1, SX = 0.8, 1.1, 0.5, 0.3


def chain(shift=0.0):
    """z2 ~ N(0, 1), z1 = A z2 + S1 e, x = B z1 + SX e, with the exact q(z1 | x) q(z2 | z1), moved by `shift`."""
    net = exact(MLPVAE(latents=((1,), (1,)), depth=0, std=SX).build((1,), {}), SX)
    v1 = A**2 + S1**2
    vx = B**2 * v1 + SX**2
    pairs = ((net.encoder, B * v1 / vx, v1 * SX**2 / vx), (net.ups[0], A / v1, S1**2 / v1), (net.downs[0], A, S1**2))
    for flat, gain, var in pairs:
        moved = shift if flat is net.encoder else 0.0
        affine(flat, torch.tensor([[gain], [0.0]], dtype=torch.float64), [moved, math.log(var)])
    affine(net.decoder, torch.tensor([[B]], dtype=torch.float64), [0.0])
    return net, Law(torch.zeros((), dtype=torch.float64), math.sqrt(vx))


@pytest.mark.item("2.05")
def test_chain_with_the_exact_posterior_has_constant_weights():
    net, law = chain()
    x = randn(30, 1)
    weights = log_weight(net, x, (randn(30, 1, seed=1), randn(30, 1, seed=2)))
    assert float((weights - law.log_prob(x[:, 0])).abs().max()) < 1e-8


@pytest.mark.item("2.05")
def test_bound_of_the_chain_is_its_marginal():
    """E over both noises by Gauss-Hermite: all terms are quadratic, three nodes each are exact."""
    nodes = torch.tensor([-math.sqrt(3), 0.0, math.sqrt(3)], dtype=torch.float64)
    weights = torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=torch.float64)
    x = randn(10, 1)

    def bound(net):
        return sum(
            w1 * w2 * terms(net, x, (a.expand(10, 1), b.expand(10, 1))).elbo
            for a, w1 in zip(nodes, weights, strict=True)
            for b, w2 in zip(nodes, weights, strict=True)
        )

    net, law = chain()
    assert float((bound(net) - law.log_prob(x[:, 0])).abs().max()) < 1e-8
    moved, _ = chain(0.2)
    v1 = A**2 + S1**2
    gap = 0.5 * 0.2**2 / (v1 * SX**2 / (B**2 * v1 + SX**2))
    assert float((law.log_prob(x[:, 0]) - bound(moved) - gap).abs().max()) < 1e-8


def test_samples_of_the_chain_have_its_variance():
    """The mean of x given z1: variance B^2 (A^2 + S1^2)."""
    net, _ = chain()
    process = OneJump(latents=((1,), (1,)))
    eps = tuple(e.double() for e in process.prior((1,), dc.Draw(0, range(20000), block=20000)))
    with torch.no_grad():
        found = net(eps, torch.ones(20000))
    wanted = B**2 * (A**2 + S1**2)
    assert abs(float(found.var()) / wanted - 1) < 4 * math.sqrt(2 / 20000)


def test_a_level_that_copies_the_prior_costs_nothing():
    """Where q(z2 | z1) p(z1) is the joint of the two levels, adding the level leaves the bound of the flat model."""
    net, _ = chain()
    flat = exact(MLPVAE(latents=((1,),), depth=0, std=SX).build((1,), {}), SX)
    scale = math.sqrt(A**2 + S1**2)
    v1, vx = scale**2, B**2 * scale**2 + SX**2
    affine(flat.encoder, torch.tensor([[B * v1 / vx / scale], [0.0]], dtype=torch.float64), [0.0, math.log(SX**2 / vx)])
    affine(flat.decoder, torch.tensor([[B * scale]], dtype=torch.float64), [0.0])
    x, eps = randn(6, 1), (randn(6, 1, seed=1), randn(6, 1, seed=2))
    assert float((log_weight(net, x, eps) - log_weight(flat, x, eps[:1])).abs().max()) < 1e-8


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.item("1.07", "2.01")
def test_the_loss_bounds_the_likelihood_and_meets_it():
    model, x = PCA(), PCA().sample(4000)
    wanted, draw = -model.law.log_prob(x) / D, dc.Draw(1, range(4000), block=4000)
    for shift, meets in ((0.0, True), (0.4, False)):
        gap = NegativeELBO()(denoiser(model.net(shift), ((K,),)), x, draw) - wanted
        error = float(gap.std()) / 4000**0.5
        assert (abs(float(gap.mean())) < 4 * error) is meets
        assert float(gap.mean()) > -4 * error


@pytest.mark.item("2.03")
def test_the_loss_of_a_gaussian_encoder_and_decoder_is_written_out():
    model, x, draw = PCA(), PCA().sample(8), dc.Draw(2, range(8))
    net = model.net(0.3, 0.5)
    std = (0.5 * (model.log_var + 0.5)).exp()
    q = Law((x - model.m) @ model.gain.T + 0.3, std)
    z = q.mean + std * noise(net, x, draw)[0]
    wanted = kl_divergence(q, Law(0.0, 1.0)).sum(1) - Law(z @ model.w.T + model.m, STD).log_prob(x).sum(1)
    assert float((NegativeELBO()(denoiser(net, ((K,),)), x, draw) - wanted / D).abs().max()) < 1e-10


def test_beta_and_free_bits_weigh_the_divergence():
    net, x, draw = PCA().net(), PCA().sample(8), dc.Draw(2, range(8))
    model = denoiser(net, ((K,),))
    rate = net.posterior(x).rate()
    losses = {beta: NegativeELBO(beta=beta)(model, x, draw) for beta in (0.0, 1.0, 3.0)}
    for beta in (1.0, 3.0):
        assert float((losses[beta] - losses[0.0] - beta * rate.sum(1) / D).abs().max()) < 1e-12
    floor = float(rate.median())
    floored = NegativeELBO(free_bits=floor)(model, x, draw)
    assert float((floored - losses[0.0] - rate.clamp_min(floor).sum(1) / D).abs().max()) < 1e-12


def test_free_bits_of_an_image_are_per_channel():
    divergence = randn(3, 2, 4, 4).abs()
    found = NegativeELBO(free_bits=12.0)._floored(divergence)
    assert torch.allclose(found, divergence.sum((2, 3)).clamp_min(12.0).sum(1))


def test_bernoulli_decoder_is_cross_entropy():
    net = MLPVAE(latents=((K,),), depth=0, decoder="bernoulli").build((D,), {}).double().requires_grad_(False)
    z, bits = randn(6, K), (randn(6, D, seed=1) > 0).double()
    p = (net.decode(z) + 1) / 2
    wanted = torch.distributions.Bernoulli(p).log_prob(bits).sum(1)
    assert float((net.log_likelihood(2 * bits - 1, z) - wanted).abs().max()) < 1e-10
    assert not dict(net.named_parameters()).keys() & {"log_std"}


@pytest.mark.item("2.04")
def test_the_optimal_decoder_is_a_conditional_mean():
    """Two points whose latents overlap: the best decoder at each z averages them by the posterior of the point given z."""
    points, z = torch.tensor([-1.0, 1.0]).double(), torch.linspace(-2, 2, 9).double()
    q = Law(torch.tensor([-0.5, 0.5]).double(), 0.6)
    mass = q.log_prob(z[:, None]).exp()
    best = (mass * points).sum(1) / mass.sum(1)
    decoder = best.clone().requires_grad_()
    net = MLPVAE(latents=((1,),), depth=0, std=0.5).build((1,), {}).double()
    net.decoder.forward = lambda h, cond: decoder[:, None]  # a table over z
    fit = sum(mass[:, i] @ net.log_likelihood(x.expand(9, 1), z[:, None]) for i, x in enumerate(points))
    (gradient,) = torch.autograd.grad(fit, decoder)
    assert float(gradient.abs().max()) < 1e-12
    assert float((best - torch.tanh(0.5 * z / 0.36)).abs().max()) < 1e-12


# --- the metrics ------------------------------------------------------------------------------------------------------


@pytest.mark.item("2.05")
def test_loss_and_metric_of_a_chain_with_its_exact_posterior_are_its_likelihood():
    """Level by level: the weights are constant, so the bound is the likelihood for every draw; the loss is so on average."""
    net, law = chain()
    latents, x = ((1,), (1,)), randn(40, 1)
    found = VAEBound(k=3, n=40).measure(evaluation(net, latents, x))
    error = float(law.log_prob(x).std()) / 40**0.5
    assert found["ELBO"].spread == pytest.approx(error, rel=1e-6)
    assert found["ELBO"].value == pytest.approx(float(law.log_prob(x).mean()), abs=1e-8)
    many = x.repeat(100, 1)
    gap = NegativeELBO()(denoiser(net, latents), many, dc.Draw(1, range(4000), block=4000)) + law.log_prob(many[:, 0])
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / 4000**0.5 < 0.1


@pytest.mark.item("2.01")
def test_importance_weights_tighten_to_the_likelihood():
    model = PCA()
    x, net = model.sample(400), model.net(0.5, 0.4)
    exact = float(model.law.log_prob(x).mean())
    bounds = []
    for k in (1, 10, 100, 1000):
        w = log_weights(net, HeldOut(x, {}, ""), k, 0)
        tight = w.logsumexp(0) - math.log(k)
        assert bool((tight >= w.mean(0) - 1e-12).all())
        bounds.append(float(tight.mean()))
    assert bounds == sorted(bounds)
    assert exact - bounds[0] > 0.2
    assert abs(exact - bounds[-1]) < 0.01
    found = VAEBound(k=100, n=400).measure(evaluation(net, ((K,),), x))
    assert abs(found["IWAE"].value * D - bounds[2]) < 1e-9
    assert found["ELBO"].value < found["IWAE"].value < exact / D + 1e-3


@pytest.mark.item("2.06")
def test_information_of_the_latents():
    """I_q(x; z) of pPCA in closed form, sum log(posterior std^-1) as q(z) = p(z); marginal-KL is then 0."""
    model, n = PCA(), 1000
    net, x = model.net(), model.sample(1000)
    found = VAELatents(n=n).measure(evaluation(net, ((K,),), x))
    exact = float(-0.5 * model.log_var.sum())
    drawn = climb(net, x, (randn(n, K),))
    error = float(information(drawn.q[0], drawn.z[0]).std()) / n**0.5
    assert exact > 1
    assert abs(found["information"].value - exact) < 4 * error + 0.02
    assert abs(found["marginal-KL"].value) < 0.1
    assert found["active-units z_1"].value == 1
    error = float(((model.m + (x - model.m) @ (model.w @ model.gain).T - x) ** 2).mean().sqrt())
    assert abs(found["reconstruction"].value - error) < 1e-6


@pytest.mark.item("2.06")
def test_collapse_is_seen():
    net = PCA().net()
    affine(net.encoder, torch.zeros(2 * K, D).double(), torch.zeros(2 * K))
    found = VAELatents(n=300).measure(evaluation(net, ((K,),), PCA().sample(300)))
    for name in ("active-units z_1", "rate", "information", "marginal-KL"):
        assert abs(found[name].value) < 1e-9


@pytest.mark.item("2.06")
def test_split_of_the_rate():
    """E ELBO = recon - I_q - KL(q(z) || p(z)) on Gaussians (monograph 2.06): a shifted encoder pays shift^2 / 2 per unit."""
    model, x = PCA(), PCA().sample(1000)
    plain, moved = (VAELatents(n=1000).measure(evaluation(model.net(s), ((K,),), x)) for s in (0.0, 0.7))
    assert abs(moved["information"].value - plain["information"].value) < 1e-9
    rise = moved["marginal-KL"].value - plain["marginal-KL"].value
    crossed = 0.7 * float(model.net().posterior(x).mean.mean(0).sum())
    assert abs(rise - K * 0.7**2 / 2 - crossed) < 1e-9


@pytest.mark.item("2.02")
def test_joint_divergence_splits_into_data_and_posterior():
    """KL(q(x, z) || p(x, z)) = KL(p_data || p) + E KL(q || p(z | x)) (monograph 2.02), all three in closed form for Gaussians."""
    model, other = PCA(), PCA(7)
    q_noise = torch.diag(other.log_var.exp())
    data = model.law
    gain, shift = other.gain, -other.gain @ other.m + 0.3

    def joint(mean, cov, a, b, noise):
        top = torch.cat([cov, cov @ a.T], 1)
        return MultivariateNormal(
            torch.cat([mean, a @ mean + b]), torch.cat([top, torch.cat([a @ cov, a @ cov @ a.T + noise], 1)])
        )

    posterior = torch.diag(other.log_var.exp())
    q = joint(data.mean, data.covariance_matrix, gain, shift, q_noise)
    p = joint(other.m, other.law.covariance_matrix, other.gain, -other.gain @ other.m, posterior)
    whole = kl_divergence(q, p)
    moved = MultivariateNormal(torch.full((K,), 0.3, dtype=torch.float64), q_noise)
    gap = kl_divergence(moved, MultivariateNormal(torch.zeros(K, dtype=torch.float64), posterior))
    assert abs(float(whole - kl_divergence(data, other.law) - gap)) < 1e-10
    x = model.sample(20000)
    bound = expected(other.net(0.3), x)
    found = data.log_prob(x) - bound
    assert abs(float(found.mean() - whole)) < 4 * float(found.std()) / 20000**0.5

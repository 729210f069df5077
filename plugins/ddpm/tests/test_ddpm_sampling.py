"""Ancestral sampling against closed recursions, and the learned variance."""

import itertools
import math

import pytest
import torch
from diffcore_ddpm.ancestral import DDPM
from diffcore_ddpm.chain import Chain
from diffcore_ddpm.kernels import kernels
from diffcore_ddpm.linspace import Linspace

import diffcore as dc
from diffcore.testing import FiniteSet, Gaussian, golden_mixture

DOUBLE, REGISTRY = torch.float64, dc.Registry.load()
MEAN, STD = 0.5, 0.6
GAUSS = Gaussian(MEAN, STD, shape=(1,))
X = torch.linspace(-2, 2, 9, dtype=DOUBLE)[:, None]


def exact(chain, grid):
    """Per step: (A, b, V) of the exact q(x_s | x_t) of Gaussian data, x_s ~ N(A x_t + b, V), from the joint covariance."""
    at = chain.coeffs(grid)
    for (a_t, s_t), (a_s, s_s) in itertools.pairwise(zip(at.alpha.tolist(), at.sigma.tolist(), strict=True)):
        v_t, v_s = a_t**2 * STD**2 + s_t**2, a_s**2 * STD**2 + s_s**2
        cross = a_t * a_s * STD**2 + a_t / a_s * s_s**2
        slope = cross / v_t
        yield slope, a_s * MEAN - slope * a_t * MEAN, v_s - slope * cross


def probed(solver, field, grid):
    """(A, b, V) of every step of a solver, read off by probing it."""
    plan, probe = solver.plan(field.process, grid), torch.tensor([[0.0], [1.0]], dtype=DOUBLE)
    for i, row in enumerate(plan.rows(field, probe)):
        drawn = plan.draws[i]
        still, moved = (solver.step(field, probe, row, None, torch.full_like(probe, z) if drawn else None).x for z in (0.0, 1.0))
        yield float(still[1] - still[0]), float(still[0]), float((moved - still)[0]) ** 2


def run(kernels_of_steps, mean=0.0, variance=1.0):
    for a, b, v in kernels_of_steps:
        mean, variance = a * mean + b, a * a * variance + v
    return mean, variance


@pytest.mark.item("2.12", "2.15")
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_every_step_is_algorithm_2(variance, prediction):
    """From beta alone: (x - beta / sqrt(1 - abar) eps*) / sqrt(1 - beta) and beta or beta~; no noise in the last step."""
    chain, beta = Chain(steps=40), Chain(steps=40).beta
    abar = torch.cumprod(1 - beta, 0).tolist()
    grid = torch.arange(40, -1, -1, dtype=DOUBLE) / 40
    found = list(probed(DDPM(variance=variance), GAUSS.field(chain, prediction), grid))
    for i in range(40):
        b, left = float(beta[39 - i]), abar[39 - i]
        slope = math.sqrt(1 - left) / (left * STD**2 + 1 - left)  # eps* = slope (x - alpha m)
        shrink = b / math.sqrt(1 - left) * slope
        before = abar[38 - i] if i < 39 else 1.0
        v = 0.0 if i == 39 else b if variance == "large" else (1 - before) / (1 - left) * b
        root = math.sqrt(1 - b)
        assert found[i] == pytest.approx(((1 - shrink) / root, shrink * math.sqrt(left) * MEAN / root, v), abs=1e-11)


@pytest.mark.item("2.15")
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_moments_of_gaussian_samples_approach_those_of_the_data(schedule):
    """Closed recursion: `small` falls short of the variance, `large` exceeds it, both errors halve as N doubles."""
    errors = {"small": [], "large": []}
    for n in (125, 250, 500):
        chain = Chain(steps=n, schedule=schedule)
        grid = torch.arange(n, -1, -1, dtype=DOUBLE) / n
        for variance, found in errors.items():
            _, spread = run(probed(DDPM(variance=variance), GAUSS.field(chain), grid))
            found.append(spread / STD**2 - 1)
    assert all(e < 0 for e in errors["small"])
    assert all(e > 0 for e in errors["large"])
    for found in errors.values():
        assert abs(found[-1]) < 0.05
        assert 1.7 < found[1] / found[2] < 2.3


@pytest.mark.item("2.11")
def test_the_optimal_variance_makes_any_number_of_steps_exact():
    """v = beta~ + gain^2 Var[x_0|x_t], reached by a learned fraction: 5 steps of the respaced chain have the exact kernels."""
    chain, steps = Chain(steps=100, schedule="cosine"), 5
    grid = Linspace().nodes(chain, steps, 1.0)
    k = kernels(chain, grid)
    left = STD**2 * k.t.sigma**2 / (k.t.alpha**2 * STD**2 + k.t.sigma**2)
    best = k.small + k.gain**2 * left
    fraction = ((best / k.small).log() / (k.large / k.small).log())[:-1]
    assert bool((best[:-1] < k.large[:-1]).all())
    field = ranged(GAUSS, chain, "eps", dict(zip(grid.tolist(), [*fraction.tolist(), 0.0], strict=False)))
    found, wanted = (list(p) for p in (probed(DDPM(variance="learned"), field, grid), exact(chain, grid)))
    for mine, theirs in zip(found[:-1], wanted[:-1], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-11)
    assert found[-1][2] == 0


def ranged(data, process, base, fraction):
    """A field whose network also gives the fraction: a number, or one by time."""
    inner = data.net(process, base)

    def net(x, t, **cond):
        f = fraction if isinstance(fraction, float) else fraction[min(fraction, key=lambda u: abs(u - float(t[0])))]
        return torch.cat([inner(x, t, **cond), torch.full_like(x, 2 * f - 1)], 1)

    return dc.Field(dc.Denoiser(net, f"{base}-range", process))


@pytest.mark.parametrize("base", ["x0", "eps", "v"])
def test_the_learned_variance_runs_from_small_to_large(base):
    chain, data = Chain(steps=60), golden_mixture()
    grid = torch.tensor([60, 45, 31, 8, 1, 0], dtype=DOUBLE) / 60
    small, large = (dc.sample(data.field(chain, base), DDPM(variance=v), X, grid=grid, seed=2).x for v in ("small", "large"))
    for fraction, want in ((0.0, small), (1.0, large)):
        got = dc.sample(ranged(data, chain, base, fraction), DDPM(variance="learned"), X, grid=grid, seed=2).x
        assert float((got - want).abs().max()) < 1e-10
    k = kernels(chain, grid)
    middle = list(probed(DDPM(variance="learned"), ranged(GAUSS, chain, base, 0.5), grid))
    for i in range(4):
        assert middle[i][2] == pytest.approx(math.sqrt(float(k.small[i] * k.large[i])), rel=1e-10)


def test_a_learned_variance_needs_a_network_that_has_one():
    with pytest.raises(dc.IncompatibleError, match="prediction 'eps-range'"):
        dc.sample(GAUSS.field(Chain(), "eps"), DDPM(variance="learned"), X, steps=3)
    chain = Chain()
    with pytest.raises(dc.DataError, match="twice the channels"):
        dc.sample(dc.Field(dc.Denoiser(lambda x, t: x, "eps-range", chain)), DDPM(), X, steps=3)
    assert chain.output_event((3, 8, 8), "v-range") == dc.Event(6, 8, 8)
    assert chain.output_event((3, 8, 8), "v") == dc.Event(3, 8, 8)


def test_guidance_moves_the_mean_and_keeps_the_variance():
    chain = Chain()
    known = ranged(GAUSS, chain, "eps", 0.3).posterior(X, 0.5)
    moved = known.replace("x0", torch.ones_like(X)).detach()
    assert torch.equal(moved.mean, torch.ones_like(X))
    assert torch.equal(moved.fraction, known.fraction)
    assert float((known.fraction - 0.3).abs().max()) < 1e-15


def test_other_solvers_read_a_range_prediction_as_its_mean():
    chain, data = Chain(), golden_mixture()
    for solver in (REGISTRY.make("solver", "ddim", steps=12), REGISTRY.make("solver", "heun", steps=6)):
        plain, wide = (dc.sample(f, solver, X).x for f in (data.field(chain, "eps"), ranged(data, chain, "eps", 0.7)))
        assert float((plain - wide).abs().max()) < 1e-9


@pytest.mark.item("2.13", "2.16")
def test_small_is_the_general_reverse_kernel_and_denoising_then_noising():
    """Equal to the process's own kernel, and to alpha_s x* + sqrt(sigma_s^2 - v) eps* + sqrt(v) z: 1e-12, every prediction."""
    chain, data, solver = Chain(), golden_mixture(), DDPM(steps=15)
    grid = solver.nodes(chain)
    want = dc.sample(data.field(chain, "x0"), REGISTRY.make("solver", "ancestral"), X, grid=grid, seed=3).x
    x, at, noise = X, chain.coeffs(grid), dc.Draw(3, range(len(X)))
    for i in range(15):
        here = chain.coeffs(grid[i])
        x0, eps = data.moments(x, here)
        fresh = 1 - float(at.alpha[i] * at.sigma[i + 1] / (at.alpha[i + 1] * at.sigma[i])) ** 2
        v = float(at.sigma[i + 1]) ** 2 * fresh
        x = (
            at.alpha[i + 1] * x0
            + math.sqrt(max(float(at.sigma[i + 1]) ** 2 - v, 0)) * eps
            + math.sqrt(v) * noise.at(i + 1).normal_like(x)
        )
    assert float((x - want).abs().max()) < 1e-11
    for prediction in ("x0", "eps", "v", "score", "velocity", "edm"):
        got = dc.sample(data.field(chain, prediction), solver, X, seed=3).x
        assert float((got - want).abs().max()) < 1e-10, prediction


@pytest.mark.parametrize("variance", ["small", "large"])
def test_samples_of_a_mixture_have_its_moments(variance):
    """8192 numbers, 400 steps: mean, variance and the weight of the left mode within 4.5 s.e. and a bias of .02."""
    chain, data = Chain(steps=400, schedule="cosine"), golden_mixture()

    def net(x, t):
        return data.mean(x.reshape(-1, 1), chain.coeffs(t[0].double())).reshape(x.shape)

    field, start = dc.Field(dc.Denoiser(net, "x0", chain)), chain.prior((1024,), dc.Draw(1, range(8))).double()
    x = dc.sample(field, DDPM(steps=400, variance=variance), start, seed=4).x
    (mean, var), n = (float(v) for v in data.average()), x.numel()
    assert abs(float(x.mean()) - mean) < 4.5 * (var / n) ** 0.5 + 0.02
    assert abs(float(x.var()) / var - 1) < 4.5 * (2 / n) ** 0.5 + 0.02
    assert abs(float((x < -0.4).double().mean()) - 0.3) < 4.5 * (0.21 / n) ** 0.5 + 0.01


def test_zero_terminal_snr_samples_from_pure_noise():
    """One point m, 25 trailing steps of v: m itself. The same with leading would start at alpha > 0."""
    chain, point = Chain(zero_terminal_snr=True), FiniteSet([[0.8]])
    x = dc.sample(point.field(chain, "v"), DDPM(steps=25), X, seed=1).x
    assert float((x - 0.8).abs().max()) < 1e-10


def big_step(beta):
    """KL(q(x_0|x_1) || its Gaussian fit), mean over x_1, for x_0 ~ two modes at +-1 of deviation .4 and one step of beta."""
    modes, s2 = torch.tensor([-1.0, 1.0], dtype=DOUBLE), 0.16
    a2 = 1 - beta
    x1 = torch.linspace(-5, 5, 801, dtype=DOUBLE)[:, None]
    v = a2 * s2 + beta
    weight = torch.exp(-((x1 - a2**0.5 * modes) ** 2) / (2 * v))
    density = weight.sum(1) / (2 * (2 * math.pi * v) ** 0.5)
    weight = weight / weight.sum(1, keepdim=True)
    means, left = modes + a2**0.5 * s2 / v * (x1 - a2**0.5 * modes), s2 * beta / v
    mean = (weight * means).sum(1, keepdim=True)
    spread = left + (weight * (means - mean) ** 2).sum(1, keepdim=True)
    u = torch.linspace(-9, 9, 1201, dtype=DOUBLE)
    x0 = mean + spread.sqrt() * u
    true = (
        sum(weight[:, j, None] * torch.exp(-((x0 - means[:, j, None]) ** 2) / (2 * left)) for j in (0, 1))
        / (2 * math.pi * left) ** 0.5
    )
    fit = torch.exp(-(u**2) / 2) / (2 * math.pi * spread) ** 0.5
    kl = torch.where(true > 0, true * (true.clamp_min(1e-300) / fit.clamp_min(1e-300)).log(), 0.0)
    inner = torch.trapezoid(kl, u, dim=1) * spread[:, 0].sqrt()
    return float(torch.trapezoid(inner * density, x1[:, 0]))


@pytest.mark.item("2.18")
def test_a_big_step_is_not_gaussian():
    """The KL falls like beta^3 (slope within .5), so many small steps lose little and one big step much."""
    betas = (0.1, 0.05, 0.025, 0.0125)
    found = [big_step(b) for b in betas]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(found)]
    assert all(s > 2 for s in slopes)
    assert abs(slopes[-1] - 3) < 0.5, (found, slopes)
    assert big_step(0.5) > 0.02

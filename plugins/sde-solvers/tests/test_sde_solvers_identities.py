"""Single steps against the published formulas, the eta family, its deterministic end, and samples of a mixture."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_sde_solvers.brownian import Brownian
from diffcore_sde_solvers.euler_maruyama_lam import EulerMaruyamaLam
from diffcore_sde_solvers.ode_ancestral import ODEAncestral
from diffcore_sde_solvers.restart import Restart
from diffcore_sde_solvers.seeds import SEEDS
from diffcore_sde_solvers.span import linear
from diffcore_sde_solvers.sra1 import SRA1
from diffcore_sde_solvers.stochastic_heun import StochasticHeun

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

VP, FLOW, VE = ReferenceVP(), ReferenceFlow(), ReferenceVE()
PROCESSES = [VP, FLOW, VE]
MIX = golden_mixture()
X = torch.linspace(-1.5, 1.5, 5, dtype=torch.float64)[:, None]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)


def one_step(solver, process, t, s, seed=3):
    """The solver's step from X and the noises it used."""
    got = dc.sample(MIX.field(process), solver, X, grid=[t * process.T, s * process.T], seed=seed).x
    z = solver.draws(process, X, dc.Draw(seed, range(5)).at(1))
    a, b = (process.coeffs(torch.tensor(v * process.T, dtype=torch.float64)) for v in (t, s))
    return got, z, a, b


def close(got, want, tol=1e-12):
    assert float((got - want).abs().max()) < tol


@every_process
@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
def test_euler_maruyama_is_drift_and_diffusion_of_the_sde(process, eta):
    """dx / dt = f x - (1 + eta) g^2 score / 2 and variance eta g^2, with f = alpha' / alpha, g^2 = -2 sigma^2 lam'."""
    got, z, a, b = one_step(EulerMaruyamaLam(eta=eta), process, 0.5, 0.4)
    h, rate = b.lam - a.lam, -a.dlam  # dt = -dlam / rate
    drift = a.dalpha / a.alpha * X - (1 + eta) / 2 * (2 * a.sigma**2 * rate) * MIX.score(X, a)
    want = X - h / rate * drift + (eta * 2 * a.sigma**2 * rate * h / rate) ** 0.5 * z
    close(got, want)


@every_process
def test_heun_and_sra1_are_runge_kutta_in_the_signal_to_noise_ratio(process):
    """eta = 1: dy = x* dtau + dB, y = alpha x / sigma^2, tau = (alpha / sigma)^2; the textbook schemes written in y and tau."""
    for solver, stage in ((StochasticHeun(), 1.0), (SRA1(), 0.75)):
        got, z, a, b = one_step(solver, process, 0.5, 0.4)
        tau, end = ((c.alpha / c.sigma) ** 2 for c in (a, b))
        step = end - tau
        z1, z2 = z if isinstance(z, tuple) else (z, None)
        u = instant(process, float(process.t_of_lam((tau + stage * step).log() / 2)))
        y, m = a.alpha / a.sigma**2 * X, MIX.mean(X, a)
        average = step**0.5 * (z1 if z2 is None else 1.5 * (z1 / 2 + z2 / 12**0.5))
        inner = MIX.mean((y + stage * step * m + average) * u.sigma**2 / u.alpha, u)
        weights = (0.5, 0.5) if z2 is None else (1 / 3, 2 / 3)
        want = y + step * (weights[0] * m + weights[1] * inner) + step**0.5 * z1
        close(got, want * b.sigma**2 / b.alpha, 1e-11)


@every_process
def test_seeds_is_the_published_step(process):
    """SEEDS-1 and SEEDS-2: 2 sigma (e^h - 1), sigma sqrt(e^2h - 1), sigma sqrt(e^2h - e^h), sigma sqrt(e^h - 1)."""
    got, (z,), a, b = one_step(SEEDS(stages=1), process, 0.5, 0.4)
    h = float(b.lam - a.lam)
    e = MIX.eps(X, a)
    close(got, b.alpha / a.alpha * X - 2 * b.sigma * math.expm1(h) * e + b.sigma * math.sqrt(math.expm1(2 * h)) * z)
    got, (z1, z2), a, b = one_step(SEEDS(), process, 0.5, 0.4)
    u = instant(process, float(process.t_of_lam((a.lam + b.lam) / 2)))
    y = u.alpha / a.alpha * X - 2 * u.sigma * math.expm1(h / 2) * e + u.sigma * math.sqrt(math.expm1(h)) * z1
    fresh = math.sqrt(math.exp(2 * h) - math.exp(h)) * z1 + math.sqrt(math.expm1(h)) * z2
    close(got, b.alpha / a.alpha * X - 2 * b.sigma * math.expm1(h) * MIX.eps(y, u) + b.sigma * fresh)


@every_process
def test_seeds_3_is_the_published_step(process):
    """With phi(h) = (e^h - 1) / h - 1 and r = 1/3, 2/3; the noises of three parts of one path."""
    got, z, a, b = one_step(SEEDS(stages=3), process, 0.5, 0.4)
    h = float(b.lam - a.lam)
    u, v = (instant(process, float(process.t_of_lam(a.lam + r * h))) for r in (1 / 3, 2 / 3))
    e = MIX.eps(X, a)

    def path(c, upto):
        ends = [math.exp(2 * h * r) for r in (upto, upto - 1 / 3, upto - 2 / 3, upto - 1)]
        parts = [math.sqrt(max(ends[k] - ends[k + 1], 0)) for k in range(round(3 * upto))]
        return c.sigma * sum(w * n for w, n in zip(parts, z, strict=False))

    y = u.alpha / a.alpha * X - 2 * u.sigma * math.expm1(h / 3) * e + path(u, 1 / 3)
    d1 = MIX.eps(y, u) - e
    k = 2 * h / 3
    y = v.alpha / a.alpha * X - 2 * v.sigma * math.expm1(k) * e - 4 * v.sigma * (math.expm1(k) / k - 1) * d1 + path(v, 2 / 3)
    d2 = MIX.eps(y, v) - e
    want = b.alpha / a.alpha * X - 2 * b.sigma * math.expm1(h) * e - 3 * b.sigma * (math.expm1(h) / h - 1) * d2 + path(b, 1.0)
    close(got, want, 1e-11)


@every_process
@pytest.mark.parametrize("eta", [0.3, 1.0, 2.5])
def test_the_eta_family_keeps_the_marginal_of_a_known_point(process, eta):
    """x_t = alpha_t x_0 + sigma_t eps and x* = x_0 give alpha_s x_0 and variance sigma_s^2, from T and to 0, in four steps."""
    nodes = torch.tensor([1.0, 0.6, 0.3, 0.05, 0.0], dtype=torch.float64) * process.T
    t, s = process.pairs(nodes)
    for w in (
        linear(t, s, eta),
        StochasticHeun(eta=eta).plan(process, nodes).entries,
        SRA1(eta=eta).plan(process, nodes).entries,
    ):
        keep, gain, noise = w if isinstance(w, tuple) else (w["keep"], w["gain"], w["noise"])
        torch.testing.assert_close(keep * t.alpha + gain, s.alpha, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(keep**2 * t.sigma**2 + noise**2, s.sigma**2, rtol=1e-12, atol=1e-15)
        assert float(noise[-1]) == 0


@every_process
@pytest.mark.parametrize("eta", [0.3, 1.0, 2.0])
def test_the_noise_of_a_short_step(process, eta):
    """Variance / h -> 2 eta sigma^2 as h -> 0, for every solver of the family (SEEDS: eta (rho_t^2 - rho_s^2) alpha_s^2)."""
    t = 0.4 * process.T
    nodes = torch.tensor([t, t * (1 - 1e-5)], dtype=torch.float64)
    a, b = process.pairs(nodes)
    for solver in (EulerMaruyamaLam(eta=eta), StochasticHeun(eta=eta), SRA1(eta=eta), SEEDS(eta=eta), SEEDS(eta=eta, stages=3)):
        rate = float(solver.plan(process, nodes).noise ** 2 / (b.lam - a.lam))
        assert rate == pytest.approx(2 * eta * float(a.sigma) ** 2, rel=2e-4)


PAIRS = [
    (EulerMaruyamaLam, {}),
    (StochasticHeun, {}),
    (SRA1, {}),
    (SEEDS, {"stages": 1}),
    (SEEDS, {"stages": 2}),
    (SEEDS, {"stages": 3}),
    (ODEAncestral, {}),
]


@pytest.mark.parametrize(("cls", "fields"), PAIRS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_eta_zero_is_the_limit_and_draws_nothing(cls, fields):
    """Samples at eta = 1e-14 are within 1e-5 of those at 0, which have no seed."""
    field, nodes = MIX.field(VP), torch.tensor([0.8, 0.5, 0.2, 0.0], dtype=torch.float64)
    still = dc.sample(field, cls(eta=0.0, **fields), X, grid=nodes, seed=1).x
    near = dc.sample(field, cls(eta=1e-14, **fields), X, grid=nodes, seed=1).x
    assert float((near - still).abs().max()) < 1e-5
    assert torch.equal(dc.sample(field, cls(eta=0.0, **fields), X, grid=nodes, seed=2).x, still)


@every_process
def test_the_deterministic_ends(process):
    """SEEDS at eta = 0: DDIM and DPM-Solver-2; SRA1: Ralston's rule for x / sigma in alpha / sigma."""
    t, s = 0.5, 0.4
    got, _, a, b = one_step(SEEDS(stages=1, eta=0.0), process, t, s)
    close(got, b.alpha * MIX.mean(X, a) + b.sigma * MIX.eps(X, a))
    got, _, a, b = one_step(SEEDS(eta=0.0), process, t, s)
    h = float(b.lam - a.lam)
    u = instant(process, float(process.t_of_lam((a.lam + b.lam) / 2)))
    y = u.alpha / a.alpha * X - u.sigma * math.expm1(h / 2) * MIX.eps(X, a)
    close(got, b.alpha / a.alpha * X - b.sigma * math.expm1(h) * MIX.eps(y, u))
    got, _, a, b = one_step(SRA1(eta=0.0), process, t, s)
    p, end = (c.alpha / c.sigma for c in (a, b))
    u = instant(process, float(process.t_of_lam((p + 0.75 * (end - p)).log())))
    m = MIX.mean(X, a)
    y = X / a.sigma + 0.75 * (end - p) * m
    close(got, b.sigma * (X / a.sigma + (end - p) * (m + 2 * MIX.mean(y * u.sigma, u)) / 3), 1e-11)


SOLVERS = [
    EulerMaruyamaLam(),
    StochasticHeun(),
    StochasticHeun(eta=0.4),
    SRA1(),
    SEEDS(),
    SEEDS(stages=3),
    ODEAncestral(),
    ODEAncestral(of=SEEDS(stages=1, eta=0.0)),
    Restart(),
    Brownian(of=SRA1(), depth=8),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_samples_of_a_mixture_have_its_moments(solver):
    """4096 samples in 60 steps to t = 0: mean and variance within 4 standard errors of the exact ones, plus .02 of bias.

    They are 64 ids of 64 independent coordinates each.
    """

    def net(x, t):
        return MIX.mean(x.reshape(-1, 1), VP.coeffs(t.double()[0])).reshape(x.shape)

    field, x = dc.Field(dc.Denoiser(net, "x0", VP)), VP.prior((64,), dc.Draw(1, range(64))).double()
    nodes = torch.cat([VP.t_of_lam(torch.linspace(-5.0, 4.0, 60, dtype=torch.float64)), torch.zeros(1, dtype=torch.float64)])
    nodes[0] = 1.0
    got = dc.sample(field, solver, x, grid=nodes, seed=2).x.flatten()
    mean, variance = (float(v) for v in MIX.average())
    assert abs(float(got.mean()) - mean) < 4 * math.sqrt(variance / 4096) + 0.02
    assert abs(float(got.var()) / variance - 1) < 4 * math.sqrt(2 / 4096) + 0.02


class Shifted(ReferenceVP):
    def coeffs(self, t):
        return super().coeffs(t)._replace(shift=torch.ones_like(t), dshift=torch.zeros_like(t))


@pytest.mark.parametrize("solver", [EulerMaruyamaLam(), StochasticHeun(), SRA1(), SEEDS(), ODEAncestral(), Restart(), Brownian()])
def test_a_moving_mean_is_refused(solver):
    with pytest.raises(dc.IncompatibleError, match="Shifted shifts the mean"):
        dc.sample(Gaussian(0.0, 1.0, shape=(1,)).field(Shifted()), solver, X, grid=[0.5, 0.1])

"""Ten systems that the core must carry without being touched, each asserted in closed form.

Every fake is a few classes of a plugin author's size (under 40 lines), written against the public names only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import nn

import diffcore as dc
from diffcore.learning.trainer import Job
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVP, instant

DOUBLE = torch.float64


@dc.component
class Heun(dc.Stepper):
    """x_s = x_t + h (v(x_t, t) + v(x_t + h v, s)) / 2: knows nothing of the process but its velocity."""

    requires: ClassVar[frozenset[str]] = frozenset({"velocity", "flat"})

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, s=s, h=s.t - t.t, asks=dc.asked(t, s))

    def step(self, field, x, row, carry, z):
        v = field.velocity(x, row.t)
        w = field.velocity(dc.lincomb((1, x), (row.h, v)), row.s)
        return dc.Moved(dc.lincomb((1, x), (row.h / 2, v), (row.h / 2, w)))


@dc.component
class Ancestral(dc.Stepper):
    """The process's own reverse kernel."""

    requires: ClassVar[frozenset[str]] = frozenset({"reverse"})
    additive_noise: ClassVar[bool] = True

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, s=s, noise=process.reverse_noise(t, s))

    def step(self, field, x, row, carry, z):
        return dc.Moved(field.reverse(x, row.t, row.s, torch.zeros_like(x) if z is None else z))


def numbers(*shape, seed=0):
    return torch.empty(shape, dtype=DOUBLE).normal_(generator=torch.Generator().manual_seed(seed))


def linspace(start, end, steps):
    return torch.linspace(start, end, steps + 1, dtype=DOUBLE)


def close(a, b, tolerance):
    assert float((a - b).detach().abs().max()) < tolerance


# --- 1. time per pixel: known pixels rest at t = 0 while the others are sampled -----------------------------------------
class Inpainting:
    """The exact velocity net of correlated Gaussian data when every entry has its own time."""

    def __init__(self, process, mean, cov):
        self.process, self.mean, self.cov = process, mean, cov

    def __call__(self, x, t):
        at = self.process.coeffs(t)
        gain = self.cov * at.alpha[:, None, :]
        spread = at.alpha[:, :, None] * gain + torch.diag_embed(at.sigma**2)
        x0 = self.mean + (gain @ torch.linalg.solve(spread, (x - at.alpha * self.mean)[..., None]))[..., 0]
        eps = torch.where(at.sigma > 0, (x - at.alpha * x0) / at.sigma, 0.0)
        return at.dalpha * x0 + at.dsigma * eps


def test_time_per_pixel_samples_the_conditional_distribution():
    """Known entries stay bit-equal; the unknown one follows the flow map of its conditional Gaussian, second order in N."""
    process, mean = ReferenceFlow(), torch.tensor([0.5, -1.0], dtype=DOUBLE)
    cov = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=DOUBLE)
    field = dc.Field(dc.Denoiser(Inpainting(process, mean, cov), "velocity", process))
    x, errors = numbers(5, 2), []
    known = x[:, :1].clone()
    conditional_mean, variance = mean[1] + 0.6 * (known - mean[0]), 0.8 - 0.36
    start = 0.9
    want = conditional_mean + (variance / (0.01 * variance + 0.81)) ** 0.5 * (x[:, 1:] - 0.1 * conditional_mean)
    for steps in (40, 80):
        times = torch.stack([torch.zeros(steps + 1, 5).double(), linspace(start, 0.0, steps)[:, None].expand(-1, 5)], 2)
        out = dc.sample(field, Heun(), x, grid=times).x
        assert torch.equal(out[:, :1], known)
        errors.append(float((out[:, 1:] - want).abs().max()))
    assert errors[1] < 1e-3
    assert math.log2(errors[0] / errors[1]) > 1.8


# --- 2. integer states: masked tokens ------------------------------------------------------------------------------------
MASK = 3


@dc.component
class Masking(dc.Process):
    """Each token is masked with probability t; the network gives p(token | visible ones)."""

    provides: ClassVar[frozenset[str]] = frozenset({"unmask"})
    predictions: ClassVar[tuple[str, ...]] = ("probabilities",)

    def prior(self, event, draw):
        return torch.full((len(draw.ids), *dc.Event.of(event).shape), MASK)

    def corrupt(self, x0, t, draw):
        hidden = draw.uniform(x0.shape[1:]) < dc.expand(t, x0)
        return dc.Corruption(torch.where(hidden, MASK, x0), self.coeffs(t), x0, targets={"probabilities": x0})

    def posterior(self, x, out, at, reading):
        return out


@dc.component
class Unmask(dc.Stepper):
    """A masked token is revealed with probability 1 - s/t; the same uniform number chooses its value."""

    requires: ClassVar[frozenset[str]] = frozenset({"unmask"})

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, reveal=1 - s.t / t.t, noise=torch.ones_like(t.t))

    def step(self, field, x, row, carry, z):
        levels = field.posterior(x, row.t).cumsum(-1) * row.reveal
        value = (z[..., None] >= levels).sum(-1).clamp_max(MASK)
        return dc.Moved(torch.where((x == MASK) & (z < row.reveal), value.clamp_max(MASK - 1), x))


def test_integer_states_reproduce_the_joint_distribution_of_two_tokens():
    """Frequencies of all nine pairs within 4.5 standard errors plus the 1/N of revealing both at once."""
    joint = torch.tensor([[0.30, 0.02, 0.05], [0.01, 0.20, 0.07], [0.15, 0.05, 0.15]], dtype=DOUBLE)
    n, steps = 3000, 25

    def net(x, t):
        rows = torch.cat([joint, joint.sum(0, keepdim=True)])
        columns = torch.cat([joint.T, joint.sum(1)[None]])
        given = torch.stack([columns[x[:, 1]], rows[x[:, 0]]], 1)
        return given / given.sum(-1, keepdim=True)

    process = Masking()
    field = dc.Field(dc.Denoiser(net, "probabilities", process))
    start = process.prior((2,), dc.Draw(0, range(n)))
    x = dc.sample(field, Unmask(), start, steps=steps, seed=3).x
    assert x.dtype == torch.int64
    assert int(x.max()) < MASK
    counts = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9).reshape(3, 3) / n
    both_at_once = (joint.sum(1)[:, None] * joint.sum(0) - joint).abs() / steps
    assert bool(((counts - joint).abs() < 4.5 * (joint * (1 - joint) / n) ** 0.5 + both_at_once).all())
    made = process.corrupt(x, torch.full((n,), 0.3, dtype=DOUBLE), dc.Draw(1, range(n)))
    assert abs(float((made.xt == MASK).double().mean()) - 0.3) < 4.5 * (0.21 / (2 * n)) ** 0.5


# --- 3. a state on the sphere --------------------------------------------------------------------------------------------
def tangent(x, y):
    """log_x(y): the tangent vector at x that points to y with the length of the arc."""
    cosine = (x * y).sum(-1, keepdim=True).clamp(-1, 1)
    across = y - cosine * x
    return torch.arccos(cosine) * across / across.norm(dim=-1, keepdim=True).clamp_min(1e-300)


@dc.component
class Geodesic(dc.Process):
    """x_t is the point at the fraction t of the arc from x_0 to a uniform point of the sphere."""

    provides: ClassVar[frozenset[str]] = frozenset({"velocity", "retract"})
    predictions: ClassVar[tuple[str, ...]] = ("x0",)

    def prior(self, event, draw):
        return nn.functional.normalize(draw.normal(dc.Event.of(event).shape, DOUBLE), dim=-1)

    def corrupt(self, x0, t, draw):
        away = tangent(x0, self.prior(x0.shape[1:], draw))
        return dc.Corruption(self.retract(x0, dc.expand(t, x0) * away), self.coeffs(t), x0)

    def posterior(self, x, out, at, reading):
        return out

    def velocity(self, x, at, posterior):
        return -tangent(x, posterior) / at.t

    def retract(self, x, v):
        length = v.norm(dim=-1, keepdim=True)
        return torch.cos(length) * x + torch.sinc(length / torch.pi) * v


@dc.component
class Walk(dc.Stepper):
    """x_s = exp_x((s - t) v): Euler's method on any space with a retraction."""

    requires: ClassVar[frozenset[str]] = frozenset({"velocity", "retract"})

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, h=s.t - t.t)

    def step(self, field, x, row, carry, z):
        return dc.Moved(field.retract(x, row.h * field.velocity(x, row.t)))


def test_a_state_on_the_sphere_stays_on_it_and_follows_the_geodesic():
    """To one data point the path is the great circle: distance s/T of the whole at every time, exactly; no flat solver fits."""
    process, point = Geodesic(), nn.functional.normalize(torch.tensor([1.0, 2.0, -1.0], dtype=DOUBLE), dim=0)
    field = dc.Field(dc.Denoiser(lambda x, t: point.expand_as(x), "x0", process))
    start = process.prior((3,), dc.Draw(0, range(50)))
    whole = torch.arccos(start @ point)
    for frame in dc.frames(field, Walk(), start, steps=7):
        close(frame.x.norm(dim=-1), torch.ones(50, dtype=DOUBLE), 1e-12)
        close(torch.arccos((frame.x @ point).clamp(-1, 1)), frame.t * whole, 1e-6)
    with pytest.raises(dc.IncompatibleError, match=r"Heun needs 'flat'; process Geodesic provides 'retract', 'velocity'"):
        dc.sample(field, Heun(), start)
    many = process.prior((3,), dc.Draw(1, range(4000)))
    close(many.T @ many / 4000, torch.eye(3, dtype=DOUBLE) / 3, 4.5 * (4 / 45 / 4000) ** 0.5)


# --- 4. a dict state with coupled parts ----------------------------------------------------------------------------------
def test_a_dict_state_with_coupled_parts_equals_the_flat_one():
    """Position and velocity of correlated Gaussian data, as a dict: the joint flow map, and the same noise per part."""
    process, data = ReferenceVP(), Gaussian([0.5, -1.0, 0.2], cov=[[1.0, 0.6, 0.1], [0.6, 0.8, 0.0], [0.1, 0.0, 0.5]])

    def net(state, t):
        x0 = data.mean(torch.cat([state["place"], state["speed"]], 1), process.coeffs(t))
        return {"place": x0[:, :2], "speed": x0[:, 2:]}

    field, x = dc.Field(dc.Denoiser(net, "x0", process)), numbers(6, 3)
    state, grid = {"place": x[:, :2], "speed": x[:, 2:]}, linspace(0.6, 0.05, 200)
    found = dc.sample(field, Heun(), state, grid=grid).x
    flat = dc.sample(data.field(process), Heun(), x, grid=grid).x
    close(torch.cat([found["place"], found["speed"]], 1), flat, 1e-12)
    close(flat, data.flow(process, x, 0.6, 0.05), 1e-3)
    t = torch.full((6,), 0.4, dtype=DOUBLE)
    made = process.corrupt(state, t, dc.Draw(0, range(6)))
    for part in state:
        at = instant(process, 0.4)
        close(made.xt[part], at.alpha * state[part] + at.sigma * made.eps[part], 1e-12)
    assert not torch.equal(made.eps["place"][:, :1], made.eps["speed"])


# --- 5. a learned process, its parameter in the loss ---------------------------------------------------------------------
class LearnedShift(nn.Module, dc.AffineProcess):
    """x_t = (1 - t) x_0 + t (eps + mu), the number mu learned: the prior moves to where paths are shortest."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Parameter(torch.zeros((), dtype=DOUBLE))

    def coeffs(self, t):
        one = torch.ones_like(t)
        return dc.Coeffs(t, 1 - t, t, -one, one, t * self.mu, one * self.mu)


def test_a_learned_process_has_its_parameter_in_the_loss():
    """E|v|^2 = sum_j (mu - m_j)^2 + d^2 + 1: its gradient is 2 sum_j (mu - m_j), and training moves mu to the mean of m."""
    data, process = Gaussian([0.7, -0.4], 0.5), LearnedShift()

    def loss(x0, draw, **cond):
        made = process.corrupt(x0, draw.uniform(), draw.fold(1))
        return (made.target("velocity") ** 2).sum(1)

    x0, draw = data.sample(512), dc.Draw(0, range(512))
    (gradient,) = torch.autograd.grad(loss(x0, draw).mean(), process.mu)
    eps = process.corrupt(x0, draw.uniform(), draw.fold(1)).eps
    close(gradient, 2 * (process.mu - x0.mean(0) + eps.mean(0)).sum(), 1e-12)
    trainer = dc.Trainer(steps=150, batch=64, lr=0.05, warmup=0, betas=(0.5, 0.9), final_lr=1e-3, ema=0.0)
    job = Job(parts={"process": process}, loss=loss, batches=lambda k: (data.sample(64, dc.Draw(k, range(64))), {}))
    for _ in trainer.run(job, trainer.players(job.parts)):
        pass
    close(process.mu, data.m.mean(), 0.1)
    x = numbers(4, 2) + process.mu.detach()
    out = dc.sample(data.field(process, "velocity"), Heun(), x, grid=linspace(1.0, 0.0, 100)).x
    close(out, data.m + 0.5 * (x - process.mu), 1e-3)


# --- 6. matrix-valued coefficients: position and momentum ----------------------------------------------------------------
DRIFT = torch.tensor([[0.0, 1.0], [-4.0, -4.0]], dtype=DOUBLE)
DIFFUSION = torch.diag(torch.tensor([0.0, 8.0], dtype=DOUBLE))


def transition(t):
    """exp(F t), and the covariance of dx = F x dt + G dw at time t from a point (Van Loan)."""
    block = torch.cat([torch.cat([-DRIFT, DIFFUSION], 1), torch.cat([torch.zeros_like(DRIFT), DRIFT.T], 1)])
    power = torch.linalg.matrix_exp(block * t)
    forward = power[2:, 2:].T
    return forward, forward @ power[:2, 2:]


@dc.component
class Langevin(dc.Process):
    """Critically damped dx = F x dt + G dw of (position, momentum), a state (B, D, 2) (Dockhorn et al. 2022)."""

    provides: ClassVar[frozenset[str]] = frozenset({"velocity", "flat"})
    predictions: ClassVar[tuple[str, ...]] = ("x0",)

    def corrupt(self, x0, t, draw):
        moved = [transition(u) for u in t]
        mean = torch.stack([x @ a.T for x, (a, _) in zip(x0, moved, strict=True)])
        noise = draw.normal(x0.shape[1:], DOUBLE)
        spread = [z @ torch.linalg.cholesky(c).T for z, (_, c) in zip(noise, moved, strict=True)]
        return dc.Corruption(mean + torch.stack(spread), self.coeffs(t), x0, noise)

    def posterior(self, x, out, at, reading):
        return out

    def velocity(self, x, at, posterior):
        forward, cov = transition(at.t)
        score = -(x - posterior @ forward.T) @ torch.linalg.inv(cov)
        return x @ DRIFT.T - 0.5 * score @ DIFFUSION


def test_matrix_valued_coefficients_carry_the_covariance():
    """The probability flow of Gaussian (position, momentum) is linear, x -> M x + b, with M V_t M^T = V_s."""
    process, prior = Langevin(), torch.diag(torch.tensor([0.3, 0.25], dtype=DOUBLE))

    def moments(t):
        forward, cov = transition(t)
        return forward, forward @ prior @ forward.T + cov

    def net(x, t):
        forward, total = moments(t[0])
        return x @ (prior @ forward.T @ torch.linalg.inv(total)).T

    field = dc.Field(dc.Denoiser(net, "x0", process))
    basis = torch.eye(2, dtype=DOUBLE)[:, None, :]
    errors = []
    for steps in (50, 100):
        rows = dc.sample(field, Heun(), basis, grid=linspace(1.0, 0.2, steps)).x[:, 0]
        errors.append(float((rows.T @ moments(1.0)[1] @ rows - moments(0.2)[1]).abs().max()))
    assert errors[1] < 1e-3
    assert math.log2(errors[0] / errors[1]) > 1.8
    x0, t = numbers(2000, 1, 2) @ prior.sqrt(), torch.full((2000,), 0.5, dtype=DOUBLE)
    xt = process.corrupt(x0, t, dc.Draw(0, range(2000), block=500)).xt[:, 0]
    close(xt.T @ xt / 2000, moments(0.5)[1], 4.5 * 2**0.5 * float(moments(0.5)[1].max()) / 2000**0.5)


# --- 7. an ensemble that resamples between steps -------------------------------------------------------------------------
@dc.component
class Tilted(dc.Program):
    """Ancestral particles with weights exp(r (x*_s - x*_t)), resampled systematically when the effective number halves."""

    requires: ClassVar[frozenset[str]] = frozenset({"reverse"})
    tilt: float = dc.param(default=1.0, doc="r: the target is proportional to p(x_0) exp(r x_0)")

    def frames(self, field, x, grid, draw) -> Iterator[dc.Frame]:
        process, logw, reward = field.process, torch.zeros(len(x), dtype=DOUBLE), torch.zeros(len(x), dtype=DOUBLE)
        t, s = process.pairs(grid)
        yield dc.Frame(0, float(grid[0]), x, logw=logw)
        for i in range(len(grid) - 1):
            at, to = t.at(i).map(float), s.at(i).map(float)
            now = self.tilt * field.posterior(x, at).mean[:, 0]
            logw, reward = logw + now - reward, now
            if 1 / (logw.softmax(0) ** 2).sum() < len(x) / 2:
                places = (torch.arange(len(x)) + draw.fold(i).shared_uniform()) / len(x)
                chosen = torch.searchsorted(logw.softmax(0).cumsum(0), places.double()).clamp_max(len(x) - 1)
                x, reward, logw = x[chosen], reward[chosen], torch.zeros_like(logw)
            x = field.reverse(x, at, to, process.noise.like(x, draw.at(i + 1)))
            yield dc.Frame(
                i + 1,
                float(grid[i + 1]),
                x,
                logw=logw + self.tilt * x[:, 0] * (i == len(grid) - 2) - reward * (i == len(grid) - 2),
            )


def test_an_ensemble_that_resamples_samples_the_tilted_distribution():
    """p(x_0) exp(r x_0) of N(m, d^2) is N(m + r d^2, d^2): weighted mean and variance of 2500 particles."""
    process, data, n = ReferenceVP(), Gaussian([0.5], 0.8), 2500
    start = process.prior((1,), dc.Draw(0, range(n))).double()
    run = list(dc.frames(data.field(process), Tilted(tilt=1.5), start, steps=60, seed=1))
    weight, x = run[-1].logw.softmax(0), run[-1].x[:, 0]
    effective = float(1 / (weight**2).sum())
    mean = float((weight * x).sum())
    variance = float((weight * (x - mean) ** 2).sum())
    assert any(f.logw is not None and bool((f.logw == 0).all()) for f in run[5:]), "never resampled"
    assert abs(mean - (0.5 + 1.5 * 0.64)) < 4.5 * 0.8 / (effective / 4) ** 0.5
    assert abs(variance / 0.64 - 1) < 4.5 * (2 / (effective / 4)) ** 0.5


# --- 8. a nested program whose inner solver starts mid-way ---------------------------------------------------------------
@dc.component
class Restarts(dc.Program):
    """At each time: an inner solver runs from (x_t, t) to 0, its result is noised again to s. Every frame is usable."""

    inner: dc.Solver = dc.param(factory=Heun, doc="the inner solver")
    inner_steps: int = dc.param(default=8, ge=1, doc="its steps")

    def frames(self, field, x, grid, draw) -> Iterator[dc.Frame]:
        process = field.process
        yield dc.Frame(0, float(grid[0]), x)
        for i, (t, s) in enumerate(pairwise(grid)):
            *_, last = self.inner.frames(field, x, linspace(float(t), 0.0, self.inner_steps), draw.fold(i))
            x = process.corrupt(last.x, s.expand(len(x)), draw.at(i + 1)).xt
            yield dc.Frame(i + 1, float(s), x, x0=last.x)


def test_a_nested_program_starts_its_inner_solver_mid_way():
    """With an exact inner flow every restart has the exact marginal, and the anytime x_0 has the data's moments."""
    process, data = ReferenceFlow(), Gaussian(0.5, 0.8, shape=(4000,))
    solver, field = Restarts(inner_steps=40), data.field(process, "velocity")
    start = process.prior((4000,), dc.Draw(3, range(2))).double()
    for frame in dc.frames(field, solver, start, grid=[1.0, 0.6, 0.3, 0.0], seed=1):
        at, n = instant(process, frame.t), frame.x.numel()
        variance = float(at.alpha**2 * 0.64 + at.sigma**2)
        assert abs(float(frame.x.mean() - at.alpha * 0.5)) < 4.5 * (variance / n) ** 0.5 + 2e-3
        assert abs(float(frame.x.var()) / variance - 1) < 4.5 * (2 / n) ** 0.5 + 5e-3
        if frame.step:
            assert abs(float(frame.x0.var()) / 0.64 - 1) < 4.5 * (2 / n) ** 0.5 + 5e-3
            assert frame.calls == 80 * frame.step
    assert dc.sample(field, solver, start, grid=[1.0, 0.5]).calls == 80


# --- 9. two players: a generator and the score of what it makes ----------------------------------------------------------
class Affine(nn.Module):
    """w x + c."""

    def __init__(self, w, c):
        super().__init__()
        self.w, self.c = (nn.Parameter(torch.tensor(v, dtype=DOUBLE)) for v in (w, c))

    def forward(self, x):
        return self.w * x + self.c


@dc.component
class Distillation(dc.Trainer):
    """A generator, and a fake denoiser that follows it at four times its rate (Yin et al. 2024)."""

    def players(self, parts):
        named = {role: dict(parts[role].named_parameters()) for role in ("generator", "fake")}
        return [self.player("generator", named["generator"]), self.player("fake", named["fake"], lr=4 * self.lr)]


def test_two_players_distil_the_teacher():
    """The generator moves along x*_fake - x*_teacher; its only rest is the teacher's N(m, d^2): c = m, |w| = d."""
    process, data = ReferenceFlow(), Gaussian([0.6], 0.5)
    parts = {"generator": Affine(1.0, 0.0), "fake": Affine(0.5, 0.0)}
    t = torch.full((256,), 0.5, dtype=DOUBLE)

    def loss(z, draw, **cond):
        made = parts["generator"](z)
        noised = process.corrupt(made.detach(), t, draw)
        fake = parts["fake"](noised.xt)
        push = fake.detach() - data.mean(noised.xt, noised.at)
        return {"generator": (push * made).sum(1), "fake": ((fake - noised.x0) ** 2).sum(1)}

    def batches(step):
        return dc.Draw(5, range(256), index=step, block=64).normal((1,), DOUBLE), {}

    trainer = Distillation(steps=600, batch=256, lr=0.02, warmup=0, betas=(0.5, 0.9), clip=None, final_lr=1e-3, ema=0.0)
    job = Job(parts=parts, loss=loss, batches=batches)
    numbers_seen = [report.numbers for report in trainer.run(job, trainer.players(parts))]
    assert set(numbers_seen[-1]) >= {"loss/generator", "loss/fake"}
    generator = parts["generator"]
    assert abs(float(generator.c.detach()) - 0.6) < 0.05
    assert abs(float(generator.w.detach().abs()) - 0.5) < 0.05


# --- 10. re-scoring a stored stochastic trajectory -----------------------------------------------------------------------
def test_stored_trajectories_are_rescored_with_gradients():
    """log N(x_s; kept x_t + fresh (x* + theta), c^2) per step: value and d/dtheta in closed form, per stored sample."""
    process, data, solver = ReferenceVP(), Gaussian([0.5, -0.2], 0.8), Ancestral()
    theta, grid = torch.zeros((), dtype=DOUBLE, requires_grad=True), linspace(0.8, 0.0, 6)

    def net(x, t):
        return data.mean(x, process.coeffs(t)) + theta

    field = dc.Field(dc.Denoiser(net, "x0", process))
    stored = [f.x for f in dc.frames(field, solver, numbers(3, 2), grid=grid, seed=2)]
    plan = solver.plan(process, grid)
    total, value, slope = torch.zeros((), dtype=DOUBLE), 0.0, 0.0
    for i, row in enumerate(plan.rows(field, stored[0])):
        if not plan.draws[i]:
            continue
        total = total + dc.kernel(field, solver, stored[i], row, None).log_prob(stored[i + 1]).sum()
        t, s = (instant(process, u) for u in grid[i : i + 2])
        r = (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2
        kept, fresh, c2 = (s.sigma / t.sigma) ** 2 * t.alpha / s.alpha, s.alpha * (1 - r), s.sigma**2 * (1 - r)
        off = stored[i + 1] - kept * stored[i] - fresh * data.mean(stored[i], t)
        value += (-(off**2) / (2 * c2) - 0.5 * torch.log(2 * torch.pi * c2)).sum()
        slope += (fresh * off / c2).sum()
    assert sum(plan.draws) == 5
    close(total, value, 1e-8)
    close(torch.autograd.grad(total, theta)[0], slope, 1e-8)
    with pytest.raises(dc.IncompatibleError, match="Heun has no known step kernel"):
        dc.kernel(field, Heun(), stored[0], next(iter(Heun().plan(process, grid).rows(field, stored[0]))), None)

"""A check that has never failed proves nothing: each check of the kit against a component with one planted error."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import nn

import diffcore as dc
from diffcore.declare.hookspecs import KINDS
from diffcore.declare.kinds import CORE
from diffcore.run import scaffold
from diffcore.testing import Gaussian
from diffcore.testing.base import RULES
from diffcore.testing.references import Correlated
from diffcore.testing.suite import cases

DOUBLE = torch.float64
HISTORY: list[torch.Tensor] = []


# --- solvers ---------------------------------------------------------------------------------------------------------
def centred(process, grid):
    """Both ends of every step of a process that does not shift the mean of its states."""
    t, s = process.pairs(grid)
    if bool((torch.as_tensor(t.shift) != 0).any()):
        raise dc.IncompatibleError("these formulas leave out the shift")
    return t, s


@dc.component
class Multistep(dc.Stepper):
    """x_s = (sigma_s/sigma_t) x + gain ((1 + r/2) m_i - (r/2) m_(i-1)), r the ratio of steps in lam (Lu et al. 2022)."""

    source: ClassVar[str] = "arXiv 2211.01095"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    order: ClassVar[int | None] = 2

    def plan(self, process, grid):
        t, s = centred(process, grid)
        h, keep = s.lam - t.lam, s.sigma / t.sigma
        half = torch.cat([torch.zeros_like(h[:1]), h[1:] / h[:-1]]) / 2
        half = torch.where(half.isfinite(), half, 0.0)
        return self.rows(t, s, keep, s.alpha - t.alpha * keep, half)

    def rows(self, t, s, keep, gain, half):
        return dc.Plan(t=t, keep=keep, now=gain * (1 + half), before=-gain * half)

    def init(self, x):
        return dc.tree_map(torch.zeros_like, x)

    def step(self, field, x, row, carry, z):
        m = field.posterior(x, row.t).mean
        return dc.Moved(dc.lincomb((row.keep, x), (row.now, m), (row.before, carry)), m)


@dc.component
class SwappedIndex(Multistep):
    """t and s exchanged in the gain = alpha_s - alpha_t keep."""

    def rows(self, t, s, keep, gain, half):
        return super().rows(t, s, keep, t.alpha - s.alpha * keep, half)


@dc.component
class WrongSign(Multistep):
    """The history with the sign of + r/2."""

    def rows(self, t, s, keep, gain, half):
        return dc.Plan(t=t, keep=keep, now=gain * (1 - half), before=gain * half)


@dc.component
class LostCarry(Multistep):
    """Never hands its history m_(i-1) on: = first order."""

    def step(self, field, x, row, carry, z):
        m = field.posterior(x, row.t).mean
        return dc.Moved(dc.lincomb((row.keep, x), (row.now + row.before, m)), m)


@dc.component
class SharedHistory(Multistep):
    """m_(i-1) = 0, and a carry of one number for the whole batch."""

    def init(self, x):
        return x.new_zeros(())

    def step(self, field, x, row, carry, z):
        m = field.posterior(x, row.t).mean
        return dc.Moved(dc.lincomb((row.keep, x), (row.now + row.before, m)), carry + 1)


@dc.component
class LooksAtPlaces(Multistep):
    """m + 1e-3 k in row k of the batch."""

    def step(self, field, x, row, carry, z):
        m = field.posterior(x, row.t).mean
        place = 1e-3 * torch.arange(len(x), dtype=x.dtype)
        return dc.Moved(dc.lincomb((row.keep, x), (row.now, m), (row.before, carry), (place, torch.ones_like(m))), m)


@dc.component
class StaleHistory(Multistep):
    """Keeps m_(i-1) in a global = shared by all runs."""

    def step(self, field, x, row, carry, z):
        m = field.posterior(x, row.t).mean
        before = HISTORY[-1] if HISTORY and HISTORY[-1].shape == m.shape else torch.zeros_like(m)
        HISTORY[:] = [m]
        return dc.Moved(dc.lincomb((row.keep, x), (row.now, m), (row.before, before)), m)


@dc.component
class GlobalNoise(Multistep):
    """Adds 1e-9 randn of the global generator."""

    def step(self, field, x, row, carry, z):
        x, carry = super().step(field, x, row, carry, z)[:2]
        return dc.Moved(x + 1e-9 * torch.randn(x.shape).to(x), carry)


@dc.component
class MutatesInput(Multistep):
    """x *= keep, in place."""

    def step(self, field, x, row, carry, z):
        m = field.posterior(x, row.t).mean
        x.mul_(row.keep)
        return dc.Moved(dc.lincomb((1, x), (row.now, m), (row.before, carry)), m)


@dc.component
class MutatesCarry(Multistep):
    """carry = m, in place."""

    def step(self, field, x, row, carry, z):
        m = field.posterior(x, row.t).mean
        x = dc.lincomb((row.keep, x), (row.now, m), (row.before, carry))
        return dc.Moved(x, carry.copy_(m))


@dc.component
class BoastsOfOrder(Multistep):
    """order = 3, which it is not."""

    order: ClassVar[int | None] = 3


@dc.component
class HidesEvaluations(Multistep):
    """m = (m + m) / 2: two evaluations, one declared."""

    def step(self, field, x, row, carry, z):
        field.posterior(x, row.t)
        return super().step(field, x, row, carry, z)


@dc.component
class OwnTimes(Multistep):
    """Evaluates at 0.99 t, which is in no plan."""

    def step(self, field, x, row, carry, z):
        m = field.posterior(x, 0.99 * float(row.t.t)).mean
        return dc.Moved(dc.lincomb((row.keep, x), (row.now, m), (row.before, carry)), m)


@dc.component
class LooksAtValues(Multistep):
    """if |m| > 100 then clip = a branch on a tensor."""

    def step(self, field, x, row, carry, z):
        m = field.posterior(x, row.t).mean
        m = m.clamp(-100, 100) if float(m.abs().max()) > 100 else m
        return dc.Moved(dc.lincomb((row.keep, x), (row.now, m), (row.before, carry)), m)


@dc.component
class SinglePlan(Multistep):
    """keep in float32 = 1e-7 of error."""

    def rows(self, t, s, keep, gain, half):
        return super().rows(t, s, keep.float(), gain, half)


@dc.component
class CouplesBatch(Multistep):
    """m - mean of m over the batch * 1e-3."""

    def step(self, field, x, row, carry, z):
        m = field.posterior(x, row.t).mean
        return dc.Moved(dc.lincomb((row.keep, x), (row.now, m - 1e-3 * m.mean(0)), (row.before, carry)), m)


@dc.component
class ReusesTooEarly(Multistep):
    """Writes to `out` and keeps x -> the carry is overwritten two steps later."""

    def init(self, x):
        return torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)

    def step(self, field, x, row, carry, z):
        m = field.posterior(x, row.t).mean
        oldest = carry[2]
        return dc.Moved(dc.lincomb((row.keep, x), (row.now + row.before, m), (1e-3, oldest), out=row.out), (x, *carry[:2]))


@dc.component
class ForgetsLastStep(Multistep):
    """The last step with h = inf: = NaN."""

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        h = s.lam - t.lam
        return dc.Plan(t=t, keep=s.sigma / t.sigma, now=s.alpha - t.alpha * s.sigma / t.sigma, before=0 * h)


@dc.component
class ChangesType(Multistep):
    """x = x.double()."""

    def step(self, field, x, row, carry, z):
        x, carry = super().step(field, x, row, carry, z)[:2]
        return dc.Moved(x.double(), carry)


@dc.component
class SkipsTime(Multistep):
    """keep = keep - 1e-4 under a time per pixel."""

    def rows(self, t, s, keep, gain, half):
        return super().rows(t, s, keep - 1e-4 * (keep.ndim > 1), gain, half)


@dc.component
class StartsAsEnds(Multistep):
    """r = (lam_i - lam_(i-1)) / (lam_(i+1) - lam_i), with lam = inf where a step at rest starts = the last ends."""

    def plan(self, process, grid):
        t, s = centred(process, grid)
        still = t.t == s.t
        level = torch.cat([torch.where(still, torch.inf, t.lam), s.lam[-1:]])
        h, keep = level[1:] - level[:-1], torch.where(still, 1.0, s.sigma / t.sigma)
        half = torch.cat([torch.zeros_like(h[:1]), h[1:] / h[:-1]]) / 2
        return self.rows(t, s, keep, torch.where(still, 0.0, s.alpha - t.alpha * keep), torch.where(half.isfinite(), half, 0.0))


@dc.component
class WrongAtPureNoise(dc.Stepper):
    """x_s = (alpha_s / alpha_t) x_t + (sigma_s - sigma_t alpha_s / alpha_t) e, = 2 e at alpha_s = 0."""

    both_ways: ClassVar[bool] = True
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    def plan(self, process, grid):
        t, s = centred(process, grid)
        keep = s.alpha / t.alpha
        return dc.Plan(t=t, keep=keep, gain=torch.where(s.alpha > 0, s.sigma - t.sigma * keep, 2 * s.sigma))

    def step(self, field, x, row, carry, z):
        return dc.Moved(dc.lincomb((row.keep, x), (row.gain, field.posterior(x, row.t).eps)))


@dc.component
class NeedsMore(Multistep):
    """requires = {"affine"}, but claims nothing."""

    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    def plan(self, process, grid):
        return super().plan(process, grid)


@dc.component
class Ancestral(dc.Stepper):
    """N(kept x_t + fresh x*, sigma_s^2 (1 - r)), r = (alpha_t sigma_s / alpha_s sigma_t)^2 (Ho et al. 2020)."""

    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    additive_noise: ClassVar[bool] = True

    def plan(self, process, grid):
        t, s = centred(process, grid)
        fresh = 1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2
        keep = (s.sigma / t.sigma) ** 2 * t.alpha / s.alpha
        return dc.Plan(t=t, keep=keep, gain=s.alpha * fresh, noise=self.weight(t, s, fresh))

    def weight(self, t, s, fresh):
        return s.sigma * fresh**0.5

    def step(self, field, x, row, carry, z):
        m = field.posterior(x, row.t).mean
        x = dc.lincomb((row.keep, x), (row.gain, m))
        return dc.Moved(x if z is None else dc.lincomb((1, x), (row.noise, z)))


@dc.component
class VarianceAsNoise(Ancestral):
    """noise = sigma_s (1 - r): variance for deviation."""

    def weight(self, t, s, fresh):
        return s.sigma * fresh


@dc.component
class NoiseAtTheEnd(Ancestral):
    """noise = that of t at the last step."""

    def weight(self, t, s, fresh):
        return torch.where(s.sigma > 0, s.sigma, 0.5) * fresh**0.5


@dc.component
class UndeclaredNoise(Ancestral):
    """Adds 2 noise z, declares noise z."""

    def step(self, field, x, row, carry, z):
        x, carry = super().step(field, x, row, carry, z)[:2]
        return dc.Moved(x if z is None else x + row.noise * z, carry)


@dc.component
class WhiteNoise(Ancestral):
    """z ~ N(0, I), drawn by itself = whatever the law of the process's noise is."""

    def draws(self, process, x, draw):
        return draw.normal_like(x)


@dc.component
class OneNoiseForTwo(Ancestral):
    """z = (z_1 + z_2) / sqrt(2), with z_1 = z_2."""

    def draws(self, process, x, draw):
        return dc.lincomb((0.5**0.5, process.noise.like(x, draw)), (0.5**0.5, process.noise.like(x, draw)))


@dc.component
class PastTheCounter(Multistep):
    """m = net(x, t), = free of charge."""

    def step(self, field, x, row, carry, z):
        field.base.net(x, torch.full((len(x),), 0.5, dtype=x.dtype))
        return super().step(field, x, row, carry, z)


@dc.component
class OverstatesWeakOrder(Ancestral):
    """weak order = 2, which it is not."""

    weak_order: ClassVar[float | None] = 2.0


@dc.component
class PlainArithmetic(Multistep):
    """keep x + now m + before m' by * and + = weights (B,) broadcast along the last axis."""

    def step(self, field, x, row, carry, z):
        m = field.posterior(x, row.t).mean
        return dc.Moved(row.keep * x + row.now * m + row.before * carry, m)


@dc.component
class TensorHistory(Multistep):
    """m' = zeros_like(x): of a tensor, not of a tree."""

    def init(self, x):
        return torch.zeros_like(x)


@dc.component
class Slope(dc.Stepper):
    """x_s = x_t + (s - t) v (Song et al. 2021)."""

    requires: ClassVar[frozenset[str]] = frozenset({"velocity", "flat"})

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, s=s, dt=s.t - t.t)

    def step(self, field, x, row, carry, z):
        return dc.Moved(dc.lincomb((1, x), (row.dt, field.velocity(x, row.t))))


@dc.component
class RequiresNothing(Slope):
    """x_s = x + (s - t) v of a process that need not have any v."""

    requires: ClassVar[frozenset[str]] = frozenset()


@dc.component
class AssumesFlat(Slope):
    """x_s = x + (s - t) v where the space may be curved."""

    requires: ClassVar[frozenset[str]] = frozenset({"velocity"})


@dc.component
class ReadsSigma(Slope):
    """x_s = x_t + (s - t) v, with v = 0 at sigma = 0, read from a time that has no sigma."""

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, s=s, dt=torch.where(t.sigma > 0, s.t - t.t, 0.0))


@dc.component
class IgnoresShift(Slope):
    """x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) E[x_0], where x_t may have a mean of its own."""

    requires: ClassVar[frozenset[str]] = frozenset({"affine", "flat"})

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        keep = s.sigma / t.sigma
        return dc.Plan(t=t, keep=keep, gain=s.alpha - t.alpha * keep)

    def step(self, field, x, row, carry, z):
        return dc.Moved(field.posterior(x, row.t).blend(row.keep, row.gain))


@dc.component
class ReadsMean(Slope):
    """x_s = x_t + 0 E[x_0]: the mean of a posterior that may be of tokens."""

    def step(self, field, x, row, carry, z):
        return dc.Moved(dc.lincomb((1, super().step(field, x, row, carry, z).x), (1e-3, field.posterior(x, row.t).mean)))


@dc.component
class StepsBack(Slope):
    """x_s ~ p(x_s | x_t) = the reverse kernel, undeclared."""

    def step(self, field, x, row, carry, z):
        return dc.Moved(field.reverse(x, row.t, row.s, torch.zeros_like(x)))


@dc.component
class Jumps(Slope):
    """x_s = Psi(x_t) of a flow map that may not be there."""

    def step(self, field, x, row, carry, z):
        return dc.Moved(field.jump(x, row.t, row.s))


SOLVERS = [
    (PlainArithmetic, "time_per_sample", "sample 0 is .* off its run alone"),
    (PlainArithmetic, "tree_state", "write dc.lincomb"),
    (TensorHistory, "tree_state", "zeros_like"),
    (RequiresNothing, "only_what_it_requires", "the velocity, which needs the capability 'velocity'"),
    (AssumesFlat, "only_what_it_requires", "'flat', or move by `field.retract`"),
    (IgnoresShift, "shifted", r"moved by `shift` are .* off"),
    (ReadsSigma, "only_what_it_requires", "reads `sigma` of a time"),
    (ReadsMean, "only_what_it_requires", "`mean` of a posterior, which needs the capability 'affine'"),
    (StepsBack, "only_what_it_requires", "needs the capability 'reverse'"),
    (Jumps, "only_what_it_requires", "needs the capability 'flow_map'"),
    (SwappedIndex, "order", "does not converge|order"),
    (SwappedIndex, "from_the_middle", "errors by steps"),
    (WrongSign, "order", "has order|does not converge"),
    (LostCarry, "order", "order 1.0"),
    (SharedHistory, "rows_in_order", r"the carry holds a tensor of shape \(\), of which rows cannot be taken"),
    (LooksAtPlaces, "rows_in_order", "rows in another order change step"),
    (StaleHistory, "interleaved", "interleaved with another run"),
    (StaleHistory, "pure_steps", "two results"),
    (GlobalNoise, "no_global_noise", "global generator"),
    (GlobalNoise, "deterministic", "two runs with one seed"),
    (MutatesInput, "start_untouched", "changed in place"),
    (MutatesInput, "pure_steps", "changed in place"),
    (MutatesCarry, "pure_steps", "changed in place"),
    (BoastsOfOrder, "order", "declared is 3"),
    (HidesEvaluations, "asks", "evaluates the field at"),
    (OwnTimes, "planned_times", "was called at t"),
    (LooksAtValues, "rows_as_tensors", "value of a tensor"),
    (SinglePlan, "planned_in_double", "float32"),
    (CouplesBatch, "batch_partition", "batch of 64"),
    (ReusesTooEarly, "start_untouched", "reused buffers"),
    (ForgetsLastStep, "any_length", "NaN or Inf"),
    (ChangesType, "precision", "came back as"),
    (SkipsTime, "time_per_pixel", "entries at rest|moving entries"),
    (VarianceAsNoise, "marginals", "relative errors of mean and variance"),
    (NoiseAtTheEnd, "lands_on_data", "away from the only data point"),
    (UndeclaredNoise, "noise_weight", "not row.noise"),
    (UndeclaredNoise, "marginals", "relative errors of mean and variance"),
    (StartsAsEnds, "staggered", "used for their ends"),
    (WrongAtPureNoise, "both_ways", "off the exact flow from .05 T up to T"),
    (WhiteNoise, "coloured_noise", "take noise from `process.noise.like"),
    (OneNoiseForTwo, "draws_differ", "same numbers serve as two noises"),
    (PastTheCounter, "counted_calls", "10 calls of networks, 5 reported|12 calls of networks, 6 reported"),
    (OverstatesWeakOrder, "marginals", "must be 1.8 or more"),
]


# --- processes -------------------------------------------------------------------------------------------------------
@dc.component
class Line(dc.AffineProcess):
    """alpha = 1 - t, sigma = t (Liu et al. 2022)."""

    def coeffs(self, t):
        one = torch.ones_like(t)
        return dc.Coeffs(t, 1 - t, t, -one, one)


@dc.component
class WrongSlope(Line):
    """sigma' = 1 + t."""

    def coeffs(self, t):
        return super().coeffs(t)._replace(dsigma=1 + t)


@dc.component
class RisingSignal(Line):
    """alpha = 1 - t + t^2: lam rises near T = no process."""

    def coeffs(self, t):
        return super().coeffs(t)._replace(sigma=t * (1 - 0.9 * t), dsigma=1 - 1.8 * t, alpha=torch.ones_like(t), dalpha=0 * t)


@dc.component
class WrongInverse(Line):
    """t_of_lam = 1 / (1 + exp(2 lam)): the full log-SNR."""

    def t_of_lam(self, lam):
        return torch.sigmoid(-2 * lam)


@dc.component
class VarianceForDeviation(Line):
    """x_t = alpha x_0 + sigma^2 eps."""

    def corrupt(self, x0, t, draw):
        made = super().corrupt(x0, t, draw)
        xt = dc.lincomb((made.at.alpha, x0), (made.at.sigma**2, made.eps))
        return dc.Corruption(xt, made.at, x0, made.eps)


@dc.component
class WidePrior(Line):
    """N(0, 1.5^2) = not sigma_T."""

    def prior(self, event, draw):
        return 1.5 * super().prior(event, draw)


@dc.component
class WrongReverse(Line):
    """The reverse kernel with t and s exchanged in 1 - r = its variance."""

    def reverse(self, x, t, s, posterior, z):
        return super().reverse(x, t, s._replace(sigma=s.sigma * 1.01), posterior, z)


@dc.component
class VarianceForLaw(Line):
    """The law of its reverse step has std = its variance."""

    def reverse_law(self, x, t, s, posterior):
        law = super().reverse_law(x, t, s, posterior)
        return law._replace(std=law.std**2)


@dc.component
class DoublesLaw(Line):
    """The law of its reverse step draws right, and has the density of std = half its deviation."""

    def reverse_law(self, x, t, s, posterior):
        right = super().reverse_law(x, t, s, posterior)

        class Doubled:
            sample = staticmethod(right.sample)
            log_prob = staticmethod(right._replace(std=right.std / 2).log_prob)

        return Doubled()


@dc.component
class LiftsFromTheRight(Line):
    """t broadcast as torch does = from the right."""

    def corrupt(self, x0, t, draw):
        at, eps = self.coeffs(t.to(x0.dtype)), self.noise.like(x0, draw)
        alpha, sigma = (at.alpha, at.sigma) if t.shape[-1] == x0.shape[-1] else (at.alpha[:, None], at.sigma[:, None])
        return dc.Corruption(alpha * x0 + sigma * eps, at, x0, eps)


@dc.component
class GlobalCorruption(Line):
    """eps = randn of the global generator."""

    def corrupt(self, x0, t, draw, eps=None):
        return super().corrupt(x0, t, draw, torch.randn(x0.shape, dtype=x0.dtype))


@dc.component
class WrongVelocity(Line):
    """v = sigma' eps = without the data."""

    def velocity(self, x, at, posterior):
        return posterior.eps


@dc.component
class DeafFeature(Line):
    """embed_time = 0."""

    def embed_time(self, t):
        return torch.zeros_like(t)


@dc.component
class MutatesData(Line):
    """x_0 *= alpha."""

    def corrupt(self, x0, t, draw):
        made = super().corrupt(x0, t, draw)
        x0.mul_(0.5)
        return made


@dc.component
class SingleCoefficients(Line):
    """alpha = 1 - t in float32."""

    def coeffs(self, t):
        return super().coeffs(t)._replace(alpha=(1 - t).float())


@dc.component
class Misreads(Line):
    """E[x_0|x_t] = 0.9 net."""

    def posterior(self, x, out, at, reading):
        return super().posterior(x, 0.9 * out, at, reading)


@dc.component
class Anonymous(Line):
    """fingerprint = nothing."""

    def fingerprint(self):
        return []


@dc.component
class RisingGrid(Line):
    """t_i = start i / N."""

    def default_grid(self, steps, start):
        return super().default_grid(steps, start).flip(0)


@dc.component
class SamePrior(Line):
    """x_T = N(0, 1) of seed 0, always."""

    def prior(self, event, draw):
        return dc.Draw(0, draw.ids).normal(dc.Event.of(event).shape)


@dc.component
class TakesAnything(Line):
    """Every prediction = fine."""

    def check_prediction(self, prediction, sigma_data):
        return


@dc.component
class TenPercentMore(Line):
    """alpha = 1.1 - t^2 = 1.1 x_0 at t = 0."""

    def coeffs(self, t):
        return super().coeffs(t)._replace(alpha=1.1 - t**2, dalpha=-2 * t)


@dc.component
class FromNoiseToData(Line):
    """alpha = t^2, sigma = 1 - t: data at t = 1."""

    def coeffs(self, t):
        one = torch.ones_like(t)
        return dc.Coeffs(t, t**2, 1 - t, 2 * t, -one)


@dc.component
class BlurredData(Line):
    """sigma = .1 + .9 t: the samples keep noise of .1."""

    def coeffs(self, t):
        return super().coeffs(t)._replace(sigma=0.1 + 0.9 * t, dsigma=torch.full_like(t, 0.9))


@dc.component
class MovedData(Line):
    """shift = .2 (1 - t): the samples are moved by .2."""

    def coeffs(self, t):
        return super().coeffs(t)._replace(shift=0.2 * (1 - t), dshift=torch.full_like(t, -0.2))


@dc.component
class BeyondT(Line):
    """t_of_lam = 2 / (1 + exp(lam)) - t, = above T where lam is below all levels."""

    def t_of_lam(self, lam):
        return torch.where(lam < -39, 1.5, torch.sigmoid(-lam.double()))


PROCESSES = [
    (BeyondT, "lam_beyond_the_ends", "must be within 0 and T = 1: clamp it"),
    (TenPercentMore, "data_to_noise", r"alpha\(0\) = 1.1, must be 1: .* 1.1 times as large"),
    (FromNoiseToData, "data_to_noise", r"sigma is 0 at T = 1 and 1 at 0: time runs from 0 \(data\) to T \(noise\)"),
    (BlurredData, "data_to_noise", r"sigma\(0\) = 0.1"),
    (MovedData, "data_to_noise", r"shift\(0\) is 0.2"),
    (SingleCoefficients, "double_precision", "float32"),
    (Misreads, "one_point", "only possible x_0"),
    (Anonymous, "fingerprint", "must have a fingerprint"),
    (RisingGrid, "default_grid", "fall strictly"),
    (SamePrior, "prior_is_keyed", "not depend on the seed"),
    (TakesAnything, "refuses_unknown_prediction", "was accepted"),
    (WrongSlope, "derivatives", "dsigma is not the derivative"),
    (WrongSlope, "velocity_of_flow", "velocity at"),
    (RisingSignal, "signal_falls", "does not fall"),
    (WrongInverse, "inverse_of_lam", "t_of_lam"),
    (VarianceForDeviation, "kernel_moments", "variance"),
    (WidePrior, "prior_moments", "variance"),
    (WrongReverse, "reverse_kernel", "Bayes|noise of the step"),
    (VarianceForLaw, "reverse_law", r"sample\(z\) of the law .* is not reverse"),
    (DoublesLaw, "reverse_law", "log-density of reverse_law"),
    (LiftsFromTheRight, "times_per_entry", "from the left"),
    (GlobalCorruption, "noise_is_an_argument", "global generator"),
    (MutatesData, "noise_is_an_argument", "changed in place"),
    (WrongVelocity, "velocity_of_flow", "velocity at"),
    (WrongVelocity, "predictions_agree", "velocity read from"),
    (DeafFeature, "time_feature", "one feature"),
]


# --- grids -----------------------------------------------------------------------------------------------------------
@dc.component
class Even(dc.Grid):
    """t_i = start (1 - i / N)."""

    def nodes(self, process, steps, start):
        return torch.linspace(start, 0.0, steps + 1, dtype=DOUBLE)


@dc.component
class RepeatedNode(Even):
    """t_N = t_(N-1)."""

    def nodes(self, process, steps, start):
        nodes = super().nodes(process, steps, start)
        nodes[-1] = nodes[-2] if steps > 1 else 0.0
        return nodes


@dc.component
class SingleNodes(Even):
    """t_i in float32 = rounded."""

    def nodes(self, process, steps, start):
        return super().nodes(process, steps, start).float()


@dc.component
class IgnoresStart(Even):
    """t_0 = T."""

    def nodes(self, process, steps, start):
        return super().nodes(process, steps, process.T)


@dc.component
class OneTooMany(Even):
    """N + 2 nodes = one more step."""

    def nodes(self, process, steps, start):
        return super().nodes(process, steps + 1, start)


@dc.component
class MovingEnd(Even):
    """t_N = 1 / (10 N)."""

    def nodes(self, process, steps, start):
        return torch.linspace(start, 0.1 * start / steps, steps + 1, dtype=DOUBLE)


@dc.component
class Jittered(Even):
    """t_i + 1e-3 u."""

    def nodes(self, process, steps, start):
        nodes = super().nodes(process, steps, start)
        return torch.cat([nodes[:1], nodes[1:-1] + 1e-3 * torch.rand(steps - 1), nodes[-1:]])


@dc.component
class ShortAtSmallest(Even):
    """N times where `min_time` is not 0 = one too few."""

    def nodes(self, process, steps, start):
        return super().nodes(process, max(steps - (process.min_time > 0), 1), start)


GRIDS = [
    (Jittered, "pure", "global generator"),
    (RepeatedNode, "nodes", "not strictly falling"),
    (SingleNodes, "nodes", "float32"),
    (IgnoresStart, "nodes", "first node"),
    (OneTooMany, "nodes", "nodes, must be"),
    (MovingEnd, "same_end", "last node"),
]


# --- losses, time laws, weightings, couplings ------------------------------------------------------------------------
@dc.component
class Regression(dc.Loss):
    """E |net(x_t, t) - target|^2 with t uniform (Ho et al. 2020)."""

    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    def __call__(self, model, x0, draw, **cond):
        t = 0.05 * model.process.T + 0.9 * model.process.T * draw.uniform()
        made = model.process.corrupt(x0, t, draw.fold(1))
        return self.compare(model(made.xt, t, **cond).value, made, model)

    def compare(self, out, made, model):
        return ((out - made.target(model.prediction)) ** 2).mean(1)


@dc.component
class WrongTarget(Regression):
    """target + 0.3 = another minimiser."""

    def compare(self, out, made, model):
        return ((out - made.target(model.prediction) - 0.3) ** 2).mean(1)


@dc.component
class AbsoluteError(Regression):
    """E |net - target|: its minimiser is the median = not the mean."""

    def compare(self, out, made, model):
        return (out - made.target(model.prediction)).abs().mean(1)


@dc.component
class ReducesBatch(Regression):
    """mean over all = one number."""

    def compare(self, out, made, model):
        return super().compare(out, made, model).mean()


@dc.component
class Detached(Regression):
    """stop-gradient(net) = nothing to learn."""

    def compare(self, out, made, model):
        return super().compare(out.detach() + 0 * out, made, model)


@dc.component
class NoisyLoss(Regression):
    """eps ~ the global generator, = not the draw."""

    def compare(self, out, made, model):
        return super().compare(out, made, model) * (1 + 0 * torch.rand(len(out)))


@dc.component
class CoupledLoss(Regression):
    """|net - target|^2 - its mean over the batch."""

    def compare(self, out, made, model):
        each = super().compare(out, made, model)
        return each - 0.5 * each.mean()


@dc.component
class AverageVelocity(dc.Loss):
    """|u(x_t, t, s) - sg(v + (s - t) du/dt)|^2, d/dt along v, s < t uniform (Geng et al. 2025)."""

    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    predictions: ClassVar[tuple[str, ...]] = ("velocity",)
    oracle: ClassVar[str | None] = "flow_map"
    second_time: ClassVar[bool] = True
    sign: ClassVar[float] = 1.0

    def __call__(self, model, x0, draw, **cond):
        process = model.process
        t = (0.1 + 0.8 * draw.uniform()) * process.T
        s = t * draw.fold(2).uniform()
        made = process.corrupt(x0, t, draw.fold(1))
        v = made.target("velocity")
        rates = (v, torch.ones_like(t))
        with torch.no_grad():
            slope = torch.func.jvp(lambda x, t: model.net(x, t, s), (made.xt, t), rates)[1]
        out = model.network(made.xt, made.at, dc.Instant(s))
        return ((out - v - self.sign * (s - t)[:, None] * slope) ** 2).sum(1)


@dc.component
class WrongIdentity(AverageVelocity):
    """|u - sg(v - (s - t) du/dt)|^2 = the sign of the book's other convention."""

    sign: ClassVar[float] = -1.0


@dc.component
class UniformLaw(dc.TimeLaw):
    """t = min_time + (T - min_time) u."""

    def __call__(self, process, draw):
        return process.min_time + (process.T - process.min_time) * draw.uniform()


@dc.component
class TooEarly(UniformLaw):
    """t = u - 0.1: below min_time."""

    def __call__(self, process, draw):
        return super().__call__(process, draw) - 0.1


@dc.component
class SortedLaw(UniformLaw):
    """t sorted = no law of a sample."""

    def __call__(self, process, draw):
        return super().__call__(process, draw).sort().values


@dc.component
class NegativeWeight(dc.Weighting):
    """w = -1."""

    def __call__(self, at, row):
        return -torch.ones_like(at.alpha)


@dc.component
class NormalisedWeight(dc.Weighting):
    """w / sum of w: = depends on the batch."""

    def __call__(self, at, row):
        weight = torch.as_tensor(at.alpha)
        return weight / weight.sum()


@dc.component
class Shuffled(dc.Coupling):
    """eps in another order = the same marginals."""

    def pair(self, x0, eps, draw, **cond):
        return eps[draw.uniform().argsort()]


@dc.component
class Shrinks(Shuffled):
    """eps / 2 = other noise."""

    def pair(self, x0, eps, draw, **cond):
        return eps / 2


@dc.component
class TimesAsNoise(Regression):
    """t and the noise = from one key."""

    def __call__(self, model, x0, draw, **cond):
        t = 0.05 * model.process.T + 0.9 * model.process.T * draw.uniform()
        keep = draw.uniform() > 0.5
        made = model.process.corrupt(x0, t, draw.fold(1))
        return self.compare(model(made.xt, t, **cond).value, made, model) * (1 + keep)


@dc.component
class TimesAsDropping(Regression):
    """t and what is dropped = from one key, which takes a condition to be seen."""

    def __call__(self, model, x0, draw, **cond):
        t = 0.05 * model.process.T + 0.9 * model.process.T * draw.uniform()
        made = model.process.corrupt(x0, t, draw.fold(1))
        return self.compare(model(made.xt, t, **dc.dropped(cond, model.null, 0.5, draw)).value, made, model)


@dc.component
class OwnCorruption(Regression):
    """x_t = alpha x_0 + sigma eps, eps ~ N(0, I) = not the process's."""

    def __call__(self, model, x0, draw, **cond):
        t = 0.05 * model.process.T + 0.9 * model.process.T * draw.uniform()
        made = model.process.corrupt(x0, t, draw, draw.fold(1).normal_like(x0))
        return self.compare(model(made.xt, t, **cond).value, made, model)


OTHERS = [
    (TimesAsNoise, "draws_differ", "same numbers serve as two draws"),
    (TimesAsDropping, "draws_differ", "same numbers serve as two draws"),
    (OwnCorruption, "coloured_noise", "take noise from `process.corrupt`"),
    (WrongTarget, "minimised_by_the_oracle", "s.e. off 0"),
    (AbsoluteError, "minimised_by_the_oracle", "s.e. off 0"),
    (WrongIdentity, "minimised_by_the_flow_map", "s.e. off 0"),
    (ReducesBatch, "per_sample", "do not reduce"),
    (Detached, "reaches_the_network", "gradient"),
    (NoisyLoss, "noise_is_an_argument", "global generator"),
    (CoupledLoss, "batch_partition", "alone differ"),
    (TooEarly, "lawful", "outside"),
    (SortedLaw, "lawful", "rest of its batch"),
    (NegativeWeight, "positive", "weights"),
    (NormalisedWeight, "positive", "other times"),
    (Shrinks, "keeps_marginals", "variance of eps"),
]


# --- guidance, flow maps, networks, data, metrics --------------------------------------------------------------------
@dc.component
class Scale(dc.Guidance):
    """E[x_0] <- w E[x_0]."""

    neutral: ClassVar[dict[str, Any]] = {"weight": 1.0}
    weight: float = dc.param(default=1.2, doc="factor of the mean")

    def guide(self, denoiser, x, t, **cond):
        found = denoiser(x, t, **cond)
        return found.replace("x0", self.weight * found.mean)


@dc.component
class ScalesOutput(Scale):
    """net <- w net, whatever it predicts."""

    def guide(self, denoiser, x, t, **cond):
        found = denoiser(x, t, **cond)
        return found.replace(found.name, self.weight * found.value)


@dc.component
class NeverNeutral(Scale):
    """w = 1 is not the identity: (w + 1)."""

    def guide(self, denoiser, x, t, **cond):
        found = denoiser(x, t, **cond)
        return found.replace("x0", (self.weight + 1) * found.mean)


@dc.component
class ClipsInPlace(Scale):
    """x clamped to [-1, 1], in place = the caller's."""

    def guide(self, denoiser, x, t, **cond):
        return super().guide(denoiser, x.clamp_(-1, 1), t, **cond)


@dc.component
class CentresBatch(Scale):
    """mean - mean over the batch."""

    def guide(self, denoiser, x, t, **cond):
        found = denoiser(x, t, **cond)
        return found.replace("x0", found.mean - found.mean.mean(0))


@dc.component
class SecretGradient(Scale):
    """grad |x*|^2, with needs = {}."""

    def guide(self, denoiser, x, t, **cond):
        x = x.detach().requires_grad_()
        found = denoiser(x, t, **cond)
        grad = torch.autograd.grad((found.mean**2).sum(), x)[0]
        return found.replace("x0", found.mean - grad)


@dc.component
class UncountedCalls(Scale):
    """net called past the denoiser = free of charge."""

    def guide(self, denoiser, x, t, **cond):
        denoiser.base.net(x, torch.full((len(x),), 0.5, dtype=x.dtype))
        return super().guide(denoiser, x, t, **cond)


@dc.component
class Explodes(Scale):
    """E[x_0] <- 1e200 E[x_0]."""

    def guide(self, denoiser, x, t, **cond):
        found = denoiser(x, t, **cond)
        return found.replace("x0", 1e200 * found.mean)


@dc.component
class LosesTheSolver(Scale):
    """solver = nothing."""

    def solver(self, solver):
        return None


@dc.component
class Mix(dc.Guidance):
    """w m_c + (1 - w) m_u of the means, its deviation moved to that of m_c (Ho and Salimans 2022; Lin et al. 2023)."""

    weight: float = dc.param(default=2.0, doc="w, 1 is conditional")

    def guide(self, denoiser, x, t, **cond):
        if self.weight == 1 or not cond:
            return denoiser(x, t, **cond)
        given, free = denoiser.many(x, t, [cond, dict.fromkeys(cond)])
        return given.replace("x0", self.rescaled(self.mixed(given.mean, free.mean), given.mean))

    def mixed(self, given, free):
        return dc.lincomb((self.weight, given), (1 - self.weight, free))

    def rescaled(self, mean, given):
        want, have = given.flatten(1).std(1), mean.flatten(1).std(1)
        return (0.3 + 0.7 * dc.expand(want / have, mean)) * mean


@dc.component
class BothWithWeight(Mix):
    """w m_c + w m_u = weights of sum 2 w."""

    def mixed(self, given, free):
        return dc.lincomb((self.weight, given), (self.weight, free))


@dc.component
class FreeAdded(Mix):
    """w m_c + (w - 1) m_u = the wrong sign of the free branch."""

    def mixed(self, given, free):
        return dc.lincomb((self.weight, given), (self.weight - 1, free))


@dc.component
class MeanAsNoise(Mix):
    """eps <- the mixed means = another target."""

    def guide(self, denoiser, x, t, **cond):
        found = super().guide(denoiser, x, t, **cond)
        return found if found.name != "x0" or self.weight == 1 else found.replace("eps", found.value)


@dc.component
class OnlyWithout(Mix):
    """if cond: plain = guides where there is no condition."""

    def guide(self, denoiser, x, t, **cond):
        return denoiser(x, t, **cond) if cond else super().guide(denoiser, x, t, **cond)


@dc.component
class DropsCondition(Mix):
    """if cond: cond = {}, the network is never told."""

    def guide(self, denoiser, x, t, **cond):
        found = denoiser(x, t, **(dict.fromkeys(cond) if cond else {}))
        return found.replace("x0", self.weight * found.mean)


@dc.component
class ForgetsGiven(Mix):
    """0 m_c + m_u: evaluated = not used."""

    def mixed(self, given, free):
        return dc.lincomb((0, given), (self.weight, free))

    def rescaled(self, mean, given):
        return mean


@dc.component
class Reversed(Mix):
    """m_c + (w - 1) (m_u - m_c) = away from the condition."""

    def mixed(self, given, free):
        return dc.lincomb((2 - self.weight, given), (self.weight - 1, free))


@dc.component
class Projected(Mix):
    """m_c + (w - 1) (d - (1 - eta) (d . m_c) m_c / |m_c|^2), d = m_c - m_u (Sadat et al. 2024, APG)."""

    eta: float = dc.param(default=0.0, doc="share of what is parallel")
    sign: ClassVar[float] = 1.0

    def guide(self, denoiser, x, t, **cond):
        if not cond:
            return denoiser(x, t, **cond)
        given, free = denoiser.many(x, t, [cond, dict.fromkeys(cond)])
        return given.replace("x0", self.mixed(given.mean, free.mean))

    def mixed(self, given, free):
        d, size = self.sign * (given - free), (given**2).flatten(1).sum(1)
        along = dc.expand((given * d).flatten(1).sum(1) / size, given) * given
        return given + (self.weight - 1) * (d - (1 - self.eta) * along)


@dc.component
class ProjectedReversed(Projected):
    """d = m_u - m_c, = away from the condition."""

    sign: ClassVar[float] = -1.0


@dc.component
class CallsAnother(Scale):
    """E[x_0] of a second network, = free of charge."""

    def guide(self, denoiser, x, t, **cond):
        nn.Tanh()(x)
        return super().guide(denoiser, x, t, **cond)


@dc.component
class ScalesInPlace(Mix):
    """m_c *= w, in the memory of the network's answer."""

    def mixed(self, given, free):
        return given.mul_(self.weight).add_(free, alpha=1 - self.weight)

    def rescaled(self, mean, given):
        return mean


@dc.component
class Average(dc.FlowMap):
    """Psi = x + (s - t) u (Geng et al. 2025)."""

    predictions: ClassVar[tuple[str, ...]] = ("velocity",)

    def map(self, model, x, t, s, **cond):
        t, s = model.point(t, x), model.point(s, x)
        return x + dc.expand(s.t - t.t, x) * model.network(x, t, s, **cond)


@dc.component
class NotTheIdentity(Average):
    """Psi = x + (s - t - 0.1) u."""

    def map(self, model, x, t, s, **cond):
        return super().map(model, x, t, s, **cond) - 0.1 * model(x, t).velocity


@dc.component
class TwiceTheJump(Average):
    """Psi = x + 2 (s - t) u, = twice too far."""

    def exact(self, oracle, process):
        def net(x, t, s=None):
            gap = dc.expand(s - t, x)
            return (oracle.flow(process, x, t, s) - x) / torch.where(gap == 0, 1.0, gap)

        return net

    def map(self, model, x, t, s, **cond):
        return 2 * super().map(model, x, t, s, **cond) - x


@dc.component
class CouplesJumps(Average):
    """Psi - its mean over the batch = coupled."""

    def map(self, model, x, t, s, **cond):
        y = super().map(model, x, t, s, **cond)
        return y - 1e-3 * (y - x).mean(0)


class Layers(nn.Module):
    """A perceptron of x, t and label, to be spoiled."""

    def __init__(self, width, spoil):
        super().__init__()
        self.null_cond, self.spoil = ({"label": 4} if spoil == "null" else {"label": 3}), spoil
        self.body, self.time, self.label = nn.Linear(width, width), nn.Linear(1, width), nn.Embedding(4, width)
        self.norm = nn.BatchNorm1d(width, affine=False, track_running_stats=False)
        self.spare = nn.Parameter(torch.zeros(1)) if spoil == "spare" else None
        self.hidden = [nn.Linear(width, width)]

    def forward(self, x, t, s=None, label=None):
        h = self.body(x.flatten(1))
        h = h if self.spoil == "time" else h + self.time(t[:, None])
        h = h if label is None else h + self.label(label)
        h = self.norm(h) if self.spoil == "batch" else h
        h = self.hidden[0](h) if self.spoil == "hidden" else h
        return torch.tanh(h.double() if self.spoil == "dtype" else h).reshape(x.shape)


@dc.component
class Perceptron(dc.Network):
    """tanh(W x + b t + e_label) = net."""

    spoil: str = dc.param(default="", doc="what is wrong")
    event_shape: ClassVar[tuple[int, ...]] = (6,)

    def build(self, event, cond, outputs=None):
        net = Layers(self.shapes(event)[0][0], self.spoil)
        net.null_cond = net.null_cond if cond else {}
        return net


@dc.component
class IgnoresTime(Perceptron):
    """tanh(W x) = without t."""

    spoil: str = dc.param(default="time", doc="what is wrong")


@dc.component
class NormalisesBatch(Perceptron):
    """h / its deviation over the batch."""

    spoil: str = dc.param(default="batch", doc="what is wrong")


@dc.component
class SpareParameter(Perceptron):
    """A parameter that nothing reads = DDP hangs."""

    spoil: str = dc.param(default="spare", doc="what is wrong")


@dc.component
class WrongNull(Perceptron):
    """null = classes + 1."""

    spoil: str = dc.param(default="null", doc="what is wrong")


@dc.component
class HidesWeights(Perceptron):
    """A layer in a list = not in the state_dict."""

    spoil: str = dc.param(default="hidden", doc="what is wrong")


@dc.component
class DoubleOutput(Perceptron):
    """float64 = not like x."""

    spoil: str = dc.param(default="dtype", doc="what is wrong")


class Numbers:
    """Uniform numbers by id, to be spoiled."""

    event, size, classes = (2,), 100, {}

    def __init__(self, spoil):
        self.spoil, self.count = spoil, 0
        self.table = dc.Draw(0, range(100)).uniform((2,), torch.float32)

    def batch(self, ids):
        self.count += 1
        if self.spoil == "view":
            return self.table[: len(ids)] if bool((ids == torch.arange(len(ids))).all()) else self.table[int(ids[0]) :][
                : len(ids)
            ], {}
        draw = dc.Draw(self.count if self.spoil == "state" else 0, ids)
        x = draw.uniform((2,), torch.float32)
        return (x * 2 if self.spoil == "range" else x.double() if self.spoil == "dtype" else x), {}


@dc.component
class Square(dc.Data):
    """Uniform on the unit square."""

    spoil: str = dc.param(default="", doc="what is wrong")
    range: dc.Range = dc.param(default=dc.Range(lo=0.0, hi=1.0), doc="raw values")

    def open(self):
        return Numbers(self.spoil)


@dc.component
class StatefulData(Square):
    """Another sample at each reading."""

    spoil: str = dc.param(default="state", doc="what is wrong")


@dc.component
class BeyondRange(Square):
    """Values up to 2, declared up to 1."""

    spoil: str = dc.param(default="range", doc="what is wrong")


@dc.component
class DoubleData(Square):
    """float64."""

    spoil: str = dc.param(default="dtype", doc="what is wrong")


@dc.component
class LendsItsTable(Square):
    """Views of the table."""

    spoil: str = dc.param(default="view", doc="what is wrong")


@dc.component
class ClaimsGaussian(Square):
    """Uniform on the unit square, said to be N(1/2, 1/36) = another law."""

    def oracle(self):
        return Gaussian(0.5, 1 / 6, shape=(2,))


@dc.component
class MeanDistance(dc.Metric):
    """d = |mean(samples) - mean(reference)|."""

    def measure(self, ev):
        gap = float((ev.samples.mean() - ev.reference.mean()).abs())
        return {"mean-distance": dc.Measured(value=gap, n=len(ev.samples), better="lower")}


@dc.component
class WrongWayRound(MeanDistance):
    """better = higher, = wrong."""

    def measure(self, ev):
        value = super().measure(ev)["mean-distance"].value
        return {"mean-distance": dc.Measured(value=value, n=len(ev.samples), better="higher")}


@dc.component
class RandomMetric(MeanDistance):
    """|mean - mean| of a random subset = of the global generator."""

    def measure(self, ev):
        value = float(ev.samples[torch.randperm(len(ev.samples))[:5]].mean())
        return {"mean-distance": dc.Measured(value=value, n=5, better="lower")}


@dc.component
class NotANumber(MeanDistance):
    """d = 0 / 0."""

    def measure(self, ev):
        return {"mean-distance": dc.Measured(value=float("nan"), n=len(ev.samples), better="lower")}


@dc.component
class TrainsFrozen(dc.Trainer):
    """Every parameter learns, frozen or not."""

    def players(self, parts):
        return [self.player("model", {f"{r}.{k}": p for r, m in parts.items() for k, p in m.named_parameters()})]


REST = [
    (Reversed, "direction", "fall by .* must rise: the difference has the wrong sign"),
    (ProjectedReversed, "direction", "fall by .* must rise: the difference has the wrong sign"),
    (CallsAnother, "counted_cost", "2 calls of networks, 1 counted"),
    (Explodes, "composes", "applied twice"),
    (LosesTheSolver, "samples", "not a solver"),
    (CouplesJumps, "pure", "depends on its batch"),
    (TwiceTheJump, "as_solver", "1 and 10 steps"),
    (HidesWeights, "state_round_trip", "another network"),
    (DoubleOutput, "like_x", "float64"),
    (LendsItsTable, "independent_openings", "return copies"),
    (NotANumber, "measured", "is nan"),
    (TrainsFrozen, "players_own_parameters", "frozen parameter is trained"),
    (ScalesOutput, "same_for_every_prediction", "off that of 'x0'"),
    (NeverNeutral, "neutral", "still changes the mean"),
    (BothWithWeight, "neutral", "with {'weight': 1.000001} it changes the mean"),
    (BothWithWeight, "deaf_network", "weights of the branches must sum to 1"),
    (BothWithWeight, "direction", "log-odds"),
    (FreeAdded, "direction", "log-odds"),
    (MeanAsNoise, "direction", "log-odds"),
    (FreeAdded, "deaf_network", "weights of the branches must sum to 1"),
    (MeanAsNoise, "neutral", "with {'weight': 1.000001} it changes the mean"),
    (MeanAsNoise, "deaf_network", "'x0' for means"),
    (OnlyWithout, "has_an_effect", "changes the mean nowhere"),
    (DropsCondition, "heeds_the_condition", "have the label 0; the network was asked for it 0 times"),
    (ForgetsGiven, "heeds_the_condition", "does not depend on their label"),
    (ScalesInPlace, "leaves_answers_alone", "changed in place"),
    (ClipsInPlace, "leaves_inputs_alone", "changed in place"),
    (CentresBatch, "row_by_row", "alone differ"),
    (SecretGradient, "honest_needs", "grad"),
    (UncountedCalls, "counted_cost", "counted"),
    (NotTheIdentity, "identity", "moves x"),
    (TwiceTheJump, "semigroup", "off the exact flow"),
    (IgnoresTime, "uses_every_input", "depend on t"),
    (NormalisesBatch, "row_by_row", "changes by"),
    (SpareParameter, "every_parameter_learns", "spare"),
    (WrongNull, "null_condition", "null_cond"),
    (StatefulData, "addressed_by_number", "other samples"),
    (BeyondRange, "as_declared", "outside its declared range"),
    (DoubleData, "as_declared", "float64"),
    (ClaimsGaussian, "oracle", "not those of the law that `oracle\\(\\)` declares"),
    (WrongWayRound, "direction", "higher is better"),
    (RandomMetric, "repeatable", "global generator"),
]


# --- every kind ------------------------------------------------------------------------------------------------------
@dc.component
class Undocumented(Even):
    speed: float = 1.0


@dc.component
class NeedsAField(Even):
    """t_i = start (1 - i / N)^power."""

    power: float = dc.param(doc="exponent")


@dc.component
class WrongExample(Even):
    """t_i = start (1 - i / N)."""

    example: ClassVar[dict[str, Any]] = {"speed": 2.0}


@dc.component
class NotAValue(Even):
    """t_i = start (1 - i / N)."""

    token: Any = dc.param(factory=object, doc="a new object each time")


@attrs.define(kw_only=True)
class Mutable(dc.Grid):
    """t_i = start (1 - i / N)."""

    power: float = attrs.field(default=1.0, metadata={"doc": "exponent"})


@dc.component
class Doubles(Even):
    """t_i = start (1 - i / N)."""

    power: float = attrs.field(default=1.0, converter=lambda v: 2 * v, metadata={"doc": "exponent"})


GENERAL = [
    (Mutable, "frozen", "can be set"),
    (Doubles, "spec_round_trip", "read back from its spec"),
    (Undocumented, "documented", "no docstring"),
    (NeedsAField, "example", "example"),
    (WrongExample, "example", "do not exist"),
    (NotAValue, "by_value", "not equal"),
]


def outcomes(cls: type, only: str = "") -> list[Any]:
    registry = dc.Registry()
    registry.add(dc.White, "white")
    registry.add(cls)
    chosen = [c for c in cases(registry, "local") if "noise-white" not in c.name]
    return [c.run() for c in chosen if not only or c.name.endswith(f"-{only}")]


# --- laws of noise ---------------------------------------------------------------------------------------------------
@dc.component
class SmoothNoise(Correlated):
    """A random walk, C_ij = min(i, j)."""


@dc.component
class NotWhitened(SmoothNoise):
    """C_ij = min(i, j); score = -eps / sigma."""

    def whiten(self, eps):
        return eps


@dc.component
class OffCentre(SmoothNoise):
    """C_ij = min(i, j), mean = .05."""

    def like(self, x, draw):
        return super().like(x, draw) + 0.05


@dc.component
class OtherCovariance(SmoothNoise):
    """C_ij = min(i, j), and 1.1 times that of its draws."""

    def covariance(self, v):
        return 1.1 * super().covariance(v)

    def whiten(self, eps):
        return super().whiten(eps) / 1.1


@dc.component
class OtherDensity(SmoothNoise):
    """log p = that of white noise."""

    def log_prob(self, eps):
        return dc.WHITE.log_prob(eps)


@dc.component
class OfTheBatch(SmoothNoise):
    """C_ij = min(i, j), drawn for the batch."""

    def like(self, x, draw):
        return super().like(x, dc.Draw(draw.seed, range(len(x)), index=draw.index))


@dc.component
class KeysOfASolver(SmoothNoise):
    """C_ij = min(i, j), in two halves, the second at a key that solvers fold too."""

    def like(self, x, draw):
        return dc.lincomb((0.5**0.5, super().like(x, draw)), (0.5**0.5, super().like(x, draw.fold(1))))


NOISES = [
    (KeysOfASolver, "keys_of_its_own", "draws have .* keys; twice"),
    (NotWhitened, "covariance", "`whiten` is .* from the inverse"),
    (OffCentre, "covariance", "standard errors from 0"),
    (OtherCovariance, "covariance", "standard errors from what `covariance` says"),
    (OtherDensity, "density", "from that of N.0, C."),
    (OfTheBatch, "keyed", "depends on the batch"),
]

PLANTED = [*SOLVERS, *PROCESSES, *NOISES, *GRIDS, *OTHERS, *REST, *GENERAL]


@pytest.mark.parametrize(("broken", "check", "message"), PLANTED, ids=[f"{c.__name__}-{n}" for c, n, _ in PLANTED])
def test_a_planted_error_fails_its_check(broken, check, message):
    HISTORY.clear()
    (outcome,) = outcomes(broken, check)
    assert outcome.status == "failed", outcome
    assert re.search(message, outcome.message), outcome.message


ALONE = (
    *(PlainArithmetic, TensorHistory, RequiresNothing, AssumesFlat, ReadsSigma, TenPercentMore, BlurredData, MovedData),
    *(BothWithWeight, FreeAdded, MeanAsNoise, OnlyWithout, ScalesInPlace),
    *(StartsAsEnds, WhiteNoise, OneNoiseForTwo, TimesAsNoise, OwnCorruption, Reversed, ProjectedReversed, CallsAnother),
    *(BeyondT, OverstatesWeakOrder, VarianceForLaw, DoublesLaw),
)


@pytest.mark.parametrize("broken", ALONE, ids=lambda c: c.__name__)
def test_what_no_other_check_finds(broken):
    """The checks named for these errors are all that find them: without them the component would pass."""
    found = {o.check for o in outcomes(broken) if o.status == "failed"}
    assert found == {check for cls, check, _ in PLANTED if cls is broken}


def test_the_direction_of_time_is_said_first():
    first = next(o for o in outcomes(FromNoiseToData) if o.status == "failed")
    assert first.check == "data_to_noise"


def test_guidance_without_a_neutral_setting_says_so():
    """A declared None and an unknown setting are reported as such, and nothing is assumed."""

    @dc.component
    class Never(Scale):
        """E[x_0] <- 2 w E[x_0]."""

        neutral: ClassVar[Any] = None

    @dc.component
    class Unknown(dc.Guidance):
        """E[x_0] <- (1 - c) E[x_0]."""

        cut: float = dc.param(default=0.1, doc="share")

        def guide(self, denoiser, x, t, **cond):
            found = denoiser(x, t, **cond)
            return found.replace("x0", (1 - self.cut) * found.mean)

    for cls, reason in ((Never, "no setting of it is neutral"), (Unknown, "declare `neutral`")):
        (outcome,) = outcomes(cls, "neutral")
        assert outcome.status == "skipped"
        assert reason in outcome.message


# --- what is left of the template --------------------------------------------------------------------------------------
def documented(name: str, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *changes: tuple[str, str]) -> Any:
    """The outcome of `documented` for a plugin as `diffcore new plugin` writes it, with some changes of its files."""
    for path, text in scaffold.render(name, CORE[kind]).items():
        for old, new in changes:
            text = text.replace(old, new)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    monkeypatch.syspath_prepend(folder)
    hooks = importlib.import_module(f"diffcore_{name}")
    (declared,) = next(value for key, value in vars(hooks).items() if key.startswith("diffcore_"))()
    entry = dc.Entry(name, kind, declared.target, declared.summary, "diffcore-x", "1")
    registry = dc.Registry([dc.Plugin(name, "diffcore-x", "1", name, "ok", components=(entry,))])
    return next(c.run() for c in cases(registry, name) if c.name.endswith("-documented"))


SLIP = ("(grid[:-1] + grid[1:]) / 2", "(grid[:-1] + 2 * grid[1:]) / 3")


def test_the_words_of_the_template_for_other_formulas_fail(tmp_path, monkeypatch):
    outcome = documented("slipa", "solver", tmp_path, monkeypatch, SLIP)
    assert outcome.status == "failed"
    for place in ("summary of its declaration", "docstring of the class", "docstring of the module", "README.md"):
        assert place in outcome.message


@pytest.mark.parametrize(
    ("name", "kind", "changes"),
    [
        ("slipb", "solver", ()),
        ("slipc", "grid", [("default=2.0", "default=3.0")]),
        (
            "slipd",
            "solver",
            [
                SLIP,
                ("midpoint rule (Runge 1895)", "two-thirds rule"),
                ("m = (t + s) / 2", "m = (t + 2 s) / 3"),
                ("Replace the formulas by yours, run the tests again, publish.", ""),
            ],
        ),
    ],
    ids=["unchanged", "another default", "rewritten"],
)
def test_the_words_of_the_template_for_its_formulas_pass(name, kind, changes, tmp_path, monkeypatch):
    outcome = documented(name, kind, tmp_path, monkeypatch, *changes)
    assert outcome.status == "passed", outcome.message


def test_a_core_that_accepts_everything_fails_the_refusal(monkeypatch):
    monkeypatch.setattr(dc.Field, "check", lambda self, part: None)
    (outcome,) = outcomes(Multistep, "refusal")
    assert outcome.status == "failed"


def test_a_grid_that_fails_on_one_installed_process_only():
    """On the references it is sound; a process with a smallest time is what shows it."""

    @dc.component
    class Late(Line):
        """alpha = 1 - t, sigma = t, trained from t = 0.01 on."""

        @property
        def min_time(self):
            return 0.01

    registry = dc.Registry()
    registry.add(dc.White, "white")
    registry.add(ShortAtSmallest)
    registry.add(Late)
    found = {c.rule.name: c.run() for c in cases(registry, "short-at-smallest") if c.rule}
    assert {name for name, outcome in found.items() if outcome.status == "failed"} == {"every_process"}
    assert "2 steps on Late: 2 nodes, must be 3" in found["every_process"].message


def test_a_time_law_that_leaves_one_installed_process_only():
    @dc.component
    class Later(Line):
        """alpha = 1 - t, sigma = t, trained from t = 0.2 on."""

        @property
        def min_time(self):
            return 0.2

    @dc.component
    class AllTimes(dc.TimeLaw):
        """t ~ U(T / 100, T), whatever the process is trained on."""

        def __call__(self, process, draw):
            return process.T * (0.01 + 0.99 * draw.uniform())

    registry = dc.Registry()
    registry.add(dc.White, "white")
    registry.add(AllTimes)
    registry.add(Later)
    found = {c.rule.name: c.run() for c in cases(registry, "all-times") if c.rule}
    assert {name for name, outcome in found.items() if outcome.status == "failed"} == {"every_process"}
    assert re.search(r"Later: times from 0\.0\d+ to .*: clamp them", found["every_process"].message)


ELSEWHERE = ("refusal", "calibration", "every_process")
"""Checks that are seen to fail in tests of their own."""


def test_every_check_of_the_kit_has_failed_once():
    seen = {(cls.kind, check) for cls, check, _ in PLANTED}
    names = {check for _, check in seen}
    here = [r for r in RULES if r.kind not in KINDS["diffcore_components"]]  # those are in test_kit_contracts.py
    never = [r for r in here if (r.kind, r.name) not in seen and (r.kind or r.name not in names) and r.name not in ELSEWHERE]
    assert not never, [f"{r.kind}: {r.name}" for r in never]


@dc.component
class Kinked(dc.AffineProcess):
    """alpha = 1 - sigma, sigma = (t + (u |u| + 1/4) / 2) / (5/4), u = t - 1/2: one derivative, a kink in it at T / 2."""

    def coeffs(self, t):
        u = t - 0.5
        sigma, rate = (t + (u * u.abs() + 0.25) / 2) / 1.25, (1 + u.abs()) / 1.25
        return dc.Coeffs(t, 1 - sigma, sigma, -rate, rate)


SOUND = [
    SmoothNoise,
    Kinked,
    Multistep,
    Ancestral,
    Slope,
    Line,
    Even,
    Regression,
    AverageVelocity,
    UniformLaw,
    Shuffled,
    Scale,
    Mix,
    Projected,
    Average,
    Perceptron,
    Square,
    MeanDistance,
]


@pytest.mark.parametrize("sound", SOUND, ids=lambda c: c.__name__)
def test_the_sound_version_passes_everything(sound):
    found = outcomes(sound)
    bad = [o.line() for o in found if o.status == "failed"]
    assert not bad
    assert sum(o.status == "passed" for o in found) >= 6


@pytest.mark.parametrize(
    ("fields", "status"), [("grid: {type: karras}", "passed"), ("grid: {type: no-such}", "failed"), ("a: b: c", "failed")]
)
def test_a_name_in_another_tool_must_make_the_component(fields, status):
    declared = dc.Registry.load().find("solver", "heun")
    entry = dc.Entry("heun", "solver", declared.target, declared.summary, "diffcore-x", "1", (dc.Alias("Tool", "Heun!", fields),))
    grids = next(p for p in dc.Registry.load().plugins if p.dist == "diffcore-solvers")
    other = tuple(e for e in grids.components if e.kind == "grid")
    registry = dc.Registry([dc.Plugin("x", "diffcore-x", "1", "x", "ok", components=(entry, *other))])
    outcome = next(c.run() for c in cases(registry, "heun") if c.name.endswith("-example"))
    assert outcome.status == status, outcome.message

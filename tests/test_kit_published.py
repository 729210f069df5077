"""A published program is a place where two convergent members of one family of methods differ."""

from __future__ import annotations

import math

import pytest

import diffcore as dc
from diffcore.testing import ReferenceVE, ReferenceVP, equals_published

R = dc.Registry.load()


def sde_2m(power=1.0, eta=1.0):
    """DPM-Solver++(2M) SDE, midpoint, as k-diffusion publishes it: in sigma of a process with alpha = 1, t = -log sigma."""

    def program(run):
        x, old, last = run.x, None, None
        for i, (a, b) in enumerate(zip(run.times, run.times[1:], strict=False)):
            denoised, h = run.denoise(x, a), math.log(a / b)
            x = b / a * math.exp(-eta * h) * x - math.expm1(-h - eta * h) * denoised
            if old is not None:
                x = x - 0.5 * math.expm1(-h - eta * h) * (h / last) ** power * (denoised - old)
            x = x + run.noise(i) * b * math.sqrt(-math.expm1(-2 * eta * h))
            old, last = denoised, h
            yield x

    return program


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_dpmpp_2m_sde_is_the_published_program(eta):
    equals_published(R.make("solver", "dpmpp-2m-sde", eta=eta), sde_2m(eta=eta), ReferenceVE())


def ancestral(run):
    """Ho et al. 2020, algorithm 2, in alpha-bar: the posterior of x_s given x_t and x_0."""
    x = run.x
    for i, (a, b) in enumerate(zip(run.times, run.times[1:], strict=False)):
        t, s = run.coeffs(a), run.coeffs(b)
        beta = 1 - (t.alpha / s.alpha) ** 2
        mean = s.alpha * beta / t.sigma**2 * run.denoise(x, a) + t.alpha / s.alpha * s.sigma**2 / t.sigma**2 * x
        x = mean + (s.sigma**2 / t.sigma**2 * beta) ** 0.5 * run.noise(i)
        yield x


def test_ancestral_is_the_published_program():
    equals_published(R.make("solver", "ancestral"), ancestral, ReferenceVP())


def test_another_convergent_method_is_named_with_its_step():
    """Another noise rate has the same marginals, and DPM-Solver++ (3M) the same limit: neither is this program."""
    for solver, step in (("dpmpp-2m-sde", 0), ("dpmpp-3m-sde", 1)):
        fields = {"eta": 0.9} if step == 0 else {}
        with pytest.raises(AssertionError, match=f"step {step} ends .* off the published program"):
            equals_published(R.make("solver", solver, **fields), sde_2m(), ReferenceVE())


def test_a_program_that_yields_too_little_is_told():
    with pytest.raises(AssertionError, match="yields 1 states for 8 steps"):
        equals_published(R.make("solver", "ancestral"), lambda run: [run.x], ReferenceVP())

"""The algebra of one step, against Gaussian conditioning and the exponential integrals it stands for."""

from __future__ import annotations

import math

import pytest
import torch

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, ReferenceVP

DOUBLE = torch.float64
PROCESSES = [ReferenceVP(), ReferenceFlow(), ReferenceVE()]


def spans(process, first=0.9, last=0.1, steps=7):
    t, s = process.pairs(torch.linspace(first, last, steps + 1, dtype=DOUBLE) * process.T)
    return process.span(t, s)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_a_step_of_the_ode_keeps_a_state_of_constant_x0_on_its_path(process):
    """x_t = alpha_t m + sigma_t e goes to alpha_s m + sigma_s e."""
    span, m, e = spans(process), 0.7, -1.3
    close(span.keep * (span.t.alpha * m + span.t.sigma * e) + span.gain * m, span.s.alpha * m + span.s.sigma * e)
    close(span.h, (span.s.alpha / span.s.sigma).log() - (span.t.alpha / span.t.sigma).log(), 1e-10)
    close(span.damping, torch.exp(-span.h), 1e-10)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 2.5])
def test_a_stochastic_step_keeps_the_marginal_given_x0(process, eta):
    """keep^2 sigma_t^2 + noise^2 = sigma_s^2 and keep alpha_t + gain = alpha_s, in both families."""
    span = spans(process)
    for keep, gain, noise in (span.damped(span.damping**eta), span.fresh(min(eta, 1.0))):
        close(keep**2 * span.t.sigma**2 + noise**2, span.s.sigma**2)
        close(keep * span.t.alpha + gain, span.s.alpha)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_the_reverse_kernel_is_that_of_bayes_rule(process):
    """q(x_s | x_t, x_0): precision 1 / sigma_s^2 + a^2 / b^2 with x_t = a x_s + b w."""
    span = spans(process)
    a = span.t.alpha / span.s.alpha
    b2 = span.t.sigma**2 - a**2 * span.s.sigma**2
    variance = 1 / (1 / span.s.sigma**2 + a**2 / b2)
    for found in (span.damped(span.damping), span.fresh(1.0)):
        close(found.noise**2, variance, 1e-10)
        close(found.keep, variance * a / b2, 1e-10)
        close(found.gain, variance * span.s.alpha / span.s.sigma**2, 1e-10)


def test_pure_noise_clean_data_and_rest_are_finite():
    """From alpha = 0 to sigma = 0 nothing is kept; an entry that rests keeps all of itself, also at clean data."""
    process = ReferenceFlow()
    span = process.span(*process.pairs(torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 0.0]], dtype=DOUBLE)))
    for found in ((span.keep, span.gain), span.damped(span.damping)[:2], span.fresh(1.0)[:2]):
        assert [v[0].tolist() for v in found] == [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    assert span.damped(span.damping).noise[0].tolist() == [0.0, 0.0, 0.0]
    assert span.inside().tolist() == [[False, False, False]]
    assert span.h[0, 0] == math.inf


def test_readable_coefficients_change_only_where_there_is_no_noise():
    at = ReferenceFlow().coeffs(torch.tensor([0.0, 0.5], dtype=DOUBLE)).readable()
    assert (at.sigma[0] > 0, at.t[0], at.sigma[1]) == (True, 0.0, 0.5)
    assert dc.Instant(torch.zeros(1)).readable().t.tolist() == [0.0]

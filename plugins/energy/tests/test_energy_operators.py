"""Score matching of an energy is maximum likelihood for Gaussians, and one case of a family over linear operators."""

from __future__ import annotations

import attrs
import pytest
import torch
from diffcore_energy.implicit import ImplicitScoreMatching

import diffcore as dc
from diffcore.testing import ReferenceVE, golden_mixture, instant

DOUBLE = torch.float64
DATA, PROCESS = golden_mixture(), ReferenceVE()
LINE = torch.linspace(-8, 8, 8001, dtype=DOUBLE)
AT = instant(PROCESS, 0.5)
P = DATA.log_prob(LINE[:, None], AT).exp()


class GaussianEnergy(torch.nn.Module):
    """The score -dE/dx of E = (x - m)^2 / (2 v), v = exp(theta_1)."""

    def __init__(self):
        super().__init__()
        self.theta, self.null_cond = torch.nn.Parameter(torch.zeros(2, dtype=DOUBLE)), {}

    def forward(self, x, t):
        return -(x - self.theta[0]) * torch.exp(-self.theta[1])


@pytest.mark.item("3.03")
def test_score_matching_of_a_gaussian_energy_is_maximum_likelihood(at, draw):
    """On 512 fixed noised samples the minimiser of E[-tr Hess E + |grad E|^2 / 2] is their mean and variance (1e-6)."""
    loss, net = attrs.evolve(ImplicitScoreMatching(), time_law=at(t=0.5)), GaussianEnergy()
    model, x0, noise = dc.Denoiser(net, "score", PROCESS), DATA.sample(512), draw(512, seed=2)
    seen = PROCESS.corrupt(x0, torch.full((512,), 0.5, dtype=DOUBLE), noise.fold(2)).xt
    steps = torch.optim.LBFGS(
        net.parameters(), max_iter=100, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        steps.zero_grad()
        value = loss(model, x0, noise).mean()
        value.backward()
        return value

    steps.step(closure)
    mean, variance = net.theta[0].item(), net.theta[1].exp().item()
    assert abs(mean - float(seen.mean())) < 1e-6
    assert abs(variance / float(seen.var(correction=0)) - 1) < 1e-6


def mean_over(values):
    """E over p_t, by the trapezoidal rule; p_t vanishes at both ends."""
    return float(torch.trapezoid(P * values, LINE))


def grad_of(f):
    x = LINE.clone().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


S2 = float(AT.sigma) ** 2
SCORE, MEAN = DATA.score(LINE[:, None], AT)[:, 0], DATA.mean(LINE[:, None], AT)[:, 0]
# (L p) / p, and L^+ f for a function f, of L p = p' and of L p = x p + sigma^2 p'
OPERATORS = {
    "gradient": (SCORE, lambda f: -grad_of(f)),
    "posterior mean": (LINE + S2 * SCORE, lambda f: LINE * f(LINE) - S2 * grad_of(f)),
}


@pytest.mark.item("3.13")
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("f", [torch.sin, torch.tanh, lambda x: x**3], ids=["sin", "tanh", "cubic"])
def test_the_loss_of_an_operator_differs_from_its_regression_by_a_constant(name, f):
    """E[f^2 / 2 - L^+ f] - E[(f - Lp/p)^2] / 2 = -E[(Lp/p)^2] / 2 for every f: matching f needs no density."""
    target, adjoint = OPERATORS[name]
    implicit = mean_over(f(LINE) ** 2 / 2 - adjoint(f))
    explicit = mean_over((f(LINE) - target) ** 2) / 2
    assert abs(implicit - explicit + mean_over(target**2) / 2) < 1e-8


@pytest.mark.item("3.13")
def test_the_second_operator_has_the_posterior_mean_as_target():
    """(x p + sigma^2 p') / p = E[x_0 | x_t] where alpha = 1, on the mixture where p_t is not negligible."""
    seen = P > 1e-12
    assert float((OPERATORS["posterior mean"][0] - MEAN)[seen].abs().max()) < 1e-10


@pytest.mark.item("3.13", "3.05")
def test_the_gradient_operator_is_implicit_score_matching(at):
    """sigma^2 (2 E[f^2 / 2 + f']) per entry is the expectation of the loss, here of f = -x / 2 on the mixture (4 s.e.)."""
    n = 4096
    model, draw = dc.Denoiser(lambda x, t: -x / 2, "score", PROCESS), dc.Draw(7, range(n), block=n)
    found = ImplicitScoreMatching(time_law=at(t=0.5))(model, DATA.sample(n), draw).detach()
    adjoint = OPERATORS["gradient"][1]
    want = 2 * S2 * mean_over((LINE / 2) ** 2 / 2 - adjoint(lambda x: -x / 2))
    assert abs(float(found.mean()) - want) < 4 * float(found.std()) / n**0.5

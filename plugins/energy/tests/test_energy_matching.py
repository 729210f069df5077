"""Score matching without the noise: its value, its minimiser, and what it costs a model to be wrong, in closed form."""

import attrs
import pytest
import torch
from diffcore_energy.contrastive import ContrastiveDivergence
from diffcore_energy.implicit import ImplicitScoreMatching
from diffcore_energy.sliced import SlicedScoreMatching
from diffcore_energy.sure import SURE

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceVE, ReferenceVP

T = 0.6
LOSSES = {
    "implicit": ImplicitScoreMatching(),
    "sliced": SlicedScoreMatching(),
    "sliced, plain": SlicedScoreMatching(variance_reduction=False, probe="gaussian", probes=2),
    "sure": SURE(),
    "sure, exact": SURE(divergence="exact"),
}


def made(loss, at):
    """The loss at one time."""
    return attrs.evolve(loss, time_law=at(t=T))


@pytest.mark.item("3.05")
def test_the_value_of_a_linear_score_on_a_gaussian(at, draw, near):
    """3.05: s = -(x - m) / v on N(mu, V): sigma^2 (-2 / v + (V + (mu - m)^2) / v^2)."""
    mu, spread, m, v = 0.4, 0.7**2 + T**2, -0.2, 1.3
    model = dc.Denoiser(lambda x, t: -(x - m) / v, "score", ReferenceVE())
    x0 = Gaussian(mu, 0.7, shape=(3,)).sample(4096, draw())
    near(ImplicitScoreMatching(time_law=at(t=T))(model, x0, draw(seed=2)), T**2 * (-2 / v + (spread + (mu - m) ** 2) / v**2))


@pytest.mark.item("3.05")
@pytest.mark.parametrize("name", LOSSES)
def test_a_wrong_model_loses_its_fisher_divergence(name, at, draw, near, mixture, off):
    """L(e* + d) - L(e*) = E|d|^2 / D for d = a + b x, on the same draws."""
    loss, x0 = made(LOSSES[name], at), mixture.sample(4096, draw())
    theta = (0.3, -0.2)
    gap = loss(off(mixture, theta), x0, draw(seed=2)) - loss(off(mixture), x0, draw(seed=2))
    mean, variance = mixture.average()
    moved = theta[0] + theta[1] * mean
    near(gap.detach(), float((moved**2 + theta[1] ** 2 * (variance + T**2)).mean()))


@pytest.mark.parametrize("name", LOSSES)
def test_the_true_score_is_stationary(name, at, draw, mixture, off, near):
    """Mean gradient 0 at the oracle (4 s.e.) in offset and slope, positive in both where they are too large."""
    loss = made(LOSSES[name], at)
    for theta, sign in (((0.0, 0.0), 0), ((0.3, 0.0), 1), ((0.0, 0.3), 1)):
        model, grads = off(mixture, theta), []
        for k in range(40):
            value = loss(model, mixture.sample(256, draw(256, seed=k)), draw(256, seed=100 + k)).mean()
            grads.append(torch.autograd.grad(value, model.net.theta)[0])
        grads = torch.stack(grads)
        if sign == 0:
            near(grads, 0.0)
        else:
            pushed = grads[:, 0 if theta[0] else 1]
            assert pushed.mean() > 4 * pushed.std() / 40**0.5


@pytest.mark.item("3.08", "3.14")
def test_the_optimum_of_a_level_is_bounded(at, draw, near, off):
    """3.14: E|e* - eps|^2 / D = v0 / (v0 + sigma^2) at every sigma, so implicit matching has -sigma^2 / (v0 + sigma^2)."""
    data = Gaussian(0.1, 0.5, shape=(4,))
    for sigma in (0.01, 0.3, 3.0):
        values = ImplicitScoreMatching(time_law=at(t=sigma))(off(data), data.sample(4096, draw()), draw(seed=3))
        near(values.detach(), -(sigma**2) / (0.25 + sigma**2))


@pytest.mark.item("3.07")
def test_denoising_differs_by_one(at, draw, near, mixture, off):
    """3.07: |e - eps|^2 / D - 1 has the same expectation for any model."""
    model, x0, d = off(mixture, (0.2, 0.4)), mixture.sample(4096, draw()), draw(seed=2)
    found = model.process.corrupt(x0, torch.full((4096,), T, dtype=torch.float64), d.fold(2))
    denoising = ((model(found.xt, found.at).eps - found.eps) ** 2).mean(1)
    near((ImplicitScoreMatching(time_law=at(t=T))(model, x0, d) - denoising).detach(), -1.0)


@pytest.mark.item("3.06")
def test_slices_are_unbiased_and_average_out(at, draw, near, mixture, off):
    """3.06: mean that of the exact trace within 4 s.e.; variance over probes falls as 1 / K (slope -1 +- .1)."""
    model, x0, d = off(mixture, (0.2, 0.4)), mixture.sample(4096, draw()), draw(seed=2)
    exact, spread = ImplicitScoreMatching(time_law=at(t=T))(model, x0, d), []
    for count in (1, 4, 16):
        loss = SlicedScoreMatching(time_law=at(t=T), probes=count, probe="gaussian", variance_reduction=False)
        gap = (loss(model, x0, d) - exact).detach()
        near(gap, 0.0)
        spread.append(float(gap.var().log()))
    assert abs((spread[2] - spread[0]) / torch.tensor(16.0).log() + 1) < 0.1


@pytest.mark.item("3.06")
def test_signs_are_exact_for_a_diagonal_jacobian(at, draw, off):
    """3.06: with Rademacher probes and |e|^2, sample by sample."""
    data = Gaussian(0.1, 0.5, shape=(4,))
    x0, d = data.sample(64, draw(64)), draw(64, seed=2)
    pair = [loss(time_law=at(t=T))(off(data, (0.1, 0.2)), x0, d) for loss in (SlicedScoreMatching, ImplicitScoreMatching)]
    assert torch.allclose(*pair, rtol=0, atol=1e-12)


@pytest.mark.item("3.11", "3.12")
@pytest.mark.parametrize("process", [ReferenceVE(), ReferenceVP()], ids=["ve", "vp"])
def test_sure_is_its_formula_and_implicit_matching_plus_one(process, at, draw, mixture, off):
    """3.11 and 3.12 for any model, sample by sample: (|m - x|^2 + 2 sigma^2 div m - D sigma^2) / (D sigma^2), m = alpha x*."""
    model, x0, d = off(mixture, (0.2, 0.4), process), mixture.sample(32, draw(32)), draw(32, seed=2)
    found = SURE(time_law=at(t=T), divergence="exact")(model, x0, d)
    noised = process.corrupt(x0, torch.full((32,), T, dtype=torch.float64), d.fold(2))
    x, s2, alpha = noised.xt.requires_grad_(), noised.at.sigma**2, noised.at.alpha[:, None]
    m = alpha * model(x, noised.at).mean
    div = sum(torch.autograd.grad(m[:, k].sum(), x, retain_graph=True)[0][:, k] for k in range(2))
    assert torch.allclose(found, (((m - x) ** 2).sum(1) + 2 * s2 * div - 2 * s2) / (2 * s2), rtol=0, atol=1e-10)
    assert torch.allclose(found, ImplicitScoreMatching(time_law=at(t=T))(model, x0, d) + 1, rtol=0, atol=1e-12)


@pytest.mark.item("3.11")
def test_sure_is_the_risk_without_clean_data(draw, near, mixture, off):
    """3.11: on data that is noisy itself, SURE less the true error of x_0 (in units of the noise) averages to 0 (4 s.e.)."""
    model, x0 = off(mixture, (0.2, 0.4)), mixture.sample(4096, draw())
    y = x0 + T * draw(seed=5).normal((2,), torch.float64)
    found = SURE(observed=T, divergence="exact")(model, y, draw(seed=2))
    error = ((model(y, T).mean - x0) ** 2).mean(1) / T**2
    near((found - error).detach(), 0.0)


def test_refusals(draw, mixture, off):
    with pytest.raises(dc.DataError, match="sliced-score-matching"):
        ImplicitScoreMatching(limit=1)(off(mixture), mixture.sample(4, draw(4)), draw(4))
    with pytest.raises(dc.SpecError, match="observed"):
        SURE(observed=50.0)(off(mixture), mixture.sample(4, draw(4)), draw(4))
    with pytest.raises(dc.DataError, match="one tensor"):
        SURE()(off(mixture), {"a": mixture.sample(4, draw(4))}, draw(4))


@pytest.mark.item("3.01")
def test_contrastive_divergence_of_a_gaussian_energy(at, draw, near):
    """3.01: with s = -x / v a chain's variance obeys V <- (1 - eta / v)^2 V + 2 eta, the value is (V_data - V_k) / (2 v)."""
    v, steps, size = 1.3, 6, 0.2
    spread = start = 0.7**2 + T**2
    for _ in range(steps):
        spread = (1 - size * T**2 / v) ** 2 * spread + 2 * size * T**2
    model = dc.Denoiser(lambda x, t: -x / v, "score", ReferenceVE())
    loss = ContrastiveDivergence(time_law=at(t=T), steps=steps, size=size, nodes=1)
    near(loss(model, Gaussian(0.0, 0.7, shape=(3,)).sample(4096, draw()), draw(seed=2)), (start - spread) / (2 * v))


@pytest.mark.item("3.01")
def test_contrastive_divergence_pushes_to_the_data(at, draw, near, off):
    """Gradient 0 at the oracle up to the steps' bias of O(size^2) (4 s.e.); a wrong mean is pushed back."""
    data = Gaussian(0.2, 0.7, shape=(2,))
    loss = ContrastiveDivergence(time_law=at(t=T), steps=10, size=0.05)
    for theta in (0.0, 0.4):
        model, grads = off(data, (theta, 0.0)), []
        for k in range(30):
            value = loss(model, data.sample(256, draw(256, seed=k)), draw(256, seed=100 + k)).mean()
            grads.append(torch.autograd.grad(value, model.net.theta)[0])
        grads = torch.stack(grads)
        if theta == 0:
            near(grads, 0.0)
        else:
            assert grads[:, 0].mean() > 4 * grads[:, 0].std() / 30**0.5

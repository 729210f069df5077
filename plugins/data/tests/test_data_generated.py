"""Sets without end: distributions against their closed forms, and numbers that do not depend on the batch."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_data.closed_form import FiniteSet, Gaussian, GaussianMixture
from diffcore_data.keyed import BLOCK, Keyed
from diffcore_data.planar import Checkerboard, EightGaussians, SwissRoll2D, TwoMoons

import diffcore as dc
from diffcore.testing import FiniteSet as FiniteOracle
from diffcore.testing import Gaussian as GaussianOracle
from diffcore.testing import Mixture

SETS = [
    TwoMoons(conditional=True),
    SwissRoll2D(),
    Checkerboard(conditional=True),
    EightGaussians(conditional=True),
    Gaussian(**Gaussian.example),
    GaussianMixture(**GaussianMixture.example, conditional=True),
    FiniteSet(**FiniteSet.example, conditional=True),
]
N = 40_960
SIGMAS = 4.5


def draws(data: Keyed, n: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    x, cond = data.open().batch(torch.arange(n))
    return x.double(), cond.get("label", torch.zeros(n, dtype=torch.int64))


def near(values: torch.Tensor, expected: torch.Tensor | float) -> None:
    """The mean of independent values (N, ...) is within 4.5 of its own standard errors of the expected one."""
    error = values.std(0) / math.sqrt(len(values))
    assert ((values.mean(0) - expected).abs() <= SIGMAS * error + 1e-12).all(), (values.mean(0), expected, error)


@pytest.mark.parametrize("data", SETS, ids=lambda d: type(d).__name__)
def test_sample_is_a_function_of_seed_and_number(data: Keyed):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    source = data.open()
    ids = torch.tensor([5, 3, 70_001, BLOCK - 1, BLOCK, 2**40 + 7, 3])
    together, cond = source.batch(ids)
    for row, number in enumerate(ids):
        alone, label = data.open().batch(number[None])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=0)
        assert all(label[name][0] == cond[name][row] for name in cond)
    sliced = torch.cat([source.batch(part)[0] for part in torch.arange(1000).split(37)])
    torch.testing.assert_close(sliced, source.batch(torch.arange(1000))[0], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("data", SETS, ids=lambda d: type(d).__name__)
def test_blocks_and_seeds_are_unrelated(data: Keyed):
    x, _ = draws(data, 2 * BLOCK)
    other, _ = (
        type(data)(**{**{a: getattr(data, a) for a in ("seed",)}, **type(data).example, "seed": 1})
        .open()
        .batch(torch.arange(BLOCK))
    )
    for y in (x[BLOCK:], other.double()):
        product = (x[:BLOCK] - x[:BLOCK].mean(0)) * (y - y.mean(0))
        near(product, 0.0)
        assert not torch.equal(x[:BLOCK], y)


def test_gaussian_has_the_moments_of_the_oracle():
    data = Gaussian(mean=(0.3, -0.2, 1.0), cov=((0.5, 0.2, 0.0), (0.2, 0.3, -0.1), (0.0, -0.1, 0.2)))
    oracle = GaussianOracle(data.mean, cov=data.cov)
    x, _ = draws(data)
    near(x, oracle.m)
    centred = x - oracle.m
    near(centred[:, :, None] * centred[:, None, :], oracle.cov)
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * oracle.cov)
    near(oracle.log_prob(x), float(-entropy))


@pytest.mark.item("6.02")
def test_the_oracle_of_a_finite_set_averages_the_points_that_are_drawn():
    """E[x_0 | x_t] = sum_k w_k x^k, w = softmax(-|x_t - a x^k|^2 / 2 s^2)."""
    data = FiniteSet(**FiniteSet.example)
    points = draws(data, 64)[0].unique(dim=0)
    assert len(points) == 3
    x, a, s = torch.tensor([[0.1, -0.2], [0.4, 0.3]], dtype=torch.float64), 0.8, 0.5
    weights = (-((x[:, None] - a * points) ** 2).sum(2) / (2 * s**2)).softmax(1)
    torch.testing.assert_close(data.oracle().mean(x, dc.Coeffs(0.0, a, s, 0.0, 0.0)), weights @ points, rtol=1e-6, atol=1e-6)


UNEVEN = {
    "weights": (0.1, 0.3, 0.2, 0.4),
    "means": ((0.0, 1.0), (1.0, 0.0), (-1.0, 0.5), (0.5, -1.0)),
    "stds": (0.1, 0.4, 0.2, 0.3),
}


@pytest.mark.parametrize("fields", [GaussianMixture.example, UNEVEN], ids=["two", "four"])
def test_mixture_has_the_modes_of_the_oracle(fields):
    data = GaussianMixture(**fields, conditional=True)
    oracle = Mixture(data.weights, data.means, data.stds)
    x, label = draws(data)
    mean, variance = oracle.average()
    near(x, mean)
    near((x - mean) ** 2, variance)
    near(torch.nn.functional.one_hot(label, data.count).double(), oracle.weights)
    near(torch.nn.functional.one_hot(label, data.count) - oracle.responsibilities(x), 0.0)
    for k in range(data.count):
        near((x[label == k] - oracle.means[k]) ** 2, oracle.stds[k] ** 2)


def test_finite_set_repeats_its_points_equally():
    data = FiniteSet(**FiniteSet.example, conditional=True)
    x, label = draws(data)
    points = FiniteOracle(data.points).points
    torch.testing.assert_close(x, points[label].float().double(), rtol=0, atol=0)
    near(torch.nn.functional.one_hot(label, 3).double(), 1 / 3)


def test_checkerboard_is_uniform_on_its_squares():
    x, label = draws(Checkerboard(conditional=True))
    cell = ((x + 1) * 2).floor().long()
    assert ((cell >= 0) & (cell < 4)).all()
    assert (cell.sum(1) % 2 == 0).all()
    assert torch.equal(label, 2 * cell[:, 1] + cell[:, 0] // 2)
    near(torch.nn.functional.one_hot(label, 8).double(), 1 / 8)
    place = (x + 1) * 2 - cell
    near(place, 0.5)
    near((place - 0.5) ** 2, 1 / 12)
    near((place[:, 0] - 0.5) * (place[:, 1] - 0.5), 0.0)


def test_eight_gaussians_lie_on_their_circle():
    data = EightGaussians(conditional=True)
    x, label = draws(data)
    angle = label * math.pi / 4
    residual = x - data.radius * torch.stack([angle.cos(), angle.sin()], 1)
    near(residual, 0.0)
    near(residual**2, data.std**2)
    near(residual[:, 0] * residual[:, 1], 0.0)
    near(torch.nn.functional.one_hot(label, 8).double(), 1 / 8)


def test_two_moons_are_half_circles_that_reflect_into_each_other():
    x, label = draws(TwoMoons(noise=0.0, conditional=True))
    upright = x * (1 - 2 * label)[:, None] + torch.tensor([0.3, 0.15])
    assert (upright[:, 1] >= -1e-6).all()
    torch.testing.assert_close(upright.norm(dim=1), torch.full((N,), 0.6, dtype=torch.float64), rtol=0, atol=1e-6)
    near(torch.atan2(upright[:, 1], upright[:, 0]), math.pi / 2)
    near(label.double(), 0.5)
    noisy, _ = draws(TwoMoons(noise=0.1, conditional=True))
    near((noisy - x) ** 2, 0.1**2)


def test_swiss_roll_has_radius_proportional_to_angle():
    x, _ = draws(SwissRoll2D(noise=0.0))
    t = x.norm(dim=1) * 4.5 * math.pi
    torch.testing.assert_close(torch.stack([t.cos(), t.sin()], 1), x / x.norm(dim=1, keepdim=True), rtol=0, atol=1e-5)
    near(t, 3 * math.pi)
    near((t - 3 * math.pi) ** 2, (3 * math.pi) ** 2 / 12)


@pytest.mark.parametrize("data", SETS[:4], ids=lambda d: type(d).__name__)
def test_planar_sets_have_the_scale_of_images(data: Keyed):
    x, _ = draws(data)
    assert (x.abs() < 1.2).all()
    assert 0.4 < x.std() < 0.6


def test_labels_are_offered_only_when_asked():
    assert TwoMoons().open().classes == {}
    assert TwoMoons().open().batch(torch.arange(3))[1] == {}
    assert EightGaussians(conditional=True).open().classes == {"label": 8}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(mean=(0.0, 0.0), cov=((1.0, 0.0),)), r"'cov' of gaussian must be 2 rows of 2 numbers"),
        (lambda: Gaussian(mean=(0.0, 0.0), cov=((1.0, 0.5), (0.4, 1.0))), "symmetric and positive definite"),
        (lambda: Gaussian(mean=(0.0, 0.0), cov=((1.0, 2.0), (2.0, 1.0))), "symmetric and positive definite"),
        (lambda: GaussianMixture(means=((0.0,), (1.0, 2.0)), stds=(1.0, 1.0), weights=(0.5, 0.5)), "points of one dimension"),
        (lambda: GaussianMixture(means=((0.0,), (1.0,)), stds=(1.0,), weights=(0.5, 0.5)), "2 numbers each.*got 1 and 2"),
        (lambda: GaussianMixture(means=((0.0,), (1.0,)), stds=(1.0, 1.0), weights=(0.5, 0.6)), r"sum to 1; their sum is 1\.1"),
        (lambda: FiniteSet(points=()), "one or more points"),
    ],
)
def test_impossible_parameters_are_refused(make, message: str):
    with pytest.raises(dc.SpecError, match=message):
        make()

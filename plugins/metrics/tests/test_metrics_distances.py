"""Distances and overlaps against closed forms, identities and other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffcore_metrics import neighbours
from diffcore_metrics.coverage import density_coverage
from diffcore_metrics.frechet import frechet_distance, moments, sqrt_psd
from diffcore_metrics.precision_recall import precision_recall
from diffcore_metrics.sliced import directions, sliced_wasserstein
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from torch import Tensor


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def exact_samples(mean: Tensor, factor: Tensor, n: int = 40) -> Tensor:
    """n samples whose mean and unbiased covariance are exactly `mean` and `factor factor^T`."""
    z = normal(n, len(mean), seed=7)
    z = z - z.mean(0)
    whitening = torch.linalg.inv(torch.linalg.cholesky(z.T @ z / (n - 1)))
    return mean + z @ whitening.T @ factor.T


def test_samples_with_exact_moments_are_measured_exactly():
    mean, factor = normal(3, seed=1), normal(3, 3, seed=2)
    found_mean, found_cov = moments(exact_samples(mean, factor))
    torch.testing.assert_close(found_mean, mean)
    torch.testing.assert_close(found_cov, factor @ factor.T)


def test_frechet_in_one_dimension_is_means_and_deviations():
    x, y = (exact_samples(torch.tensor([m]).double(), torch.tensor([[s]]).double()) for m, s in ((0.5, 2.0), (-1.0, 0.5)))
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(1.5**2 + 1.5**2, rel=1e-12)


def test_frechet_equals_the_formula_with_scipys_root():
    a, b = normal(6, 6, seed=3), normal(6, 6, seed=4)
    m1, m2 = normal(6, seed=5), normal(6, seed=6)
    s1, s2 = a @ a.T, b @ b.T
    root = np.trace(sqrtm((s1 @ s2).numpy())).real
    expected = float((m1 - m2).square().sum() + s1.trace() + s2.trace()) - 2 * root
    assert frechet_distance(moments(exact_samples(m1, a)), moments(exact_samples(m2, b))) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_commuting_covariances_is_the_distance_of_their_roots():
    q, _ = torch.linalg.qr(normal(5, 5))
    d1, d2 = torch.tensor([4.0, 1.0, 0.25, 0.0, 9.0]).double(), torch.tensor([1.0, 0.0, 4.0, 0.0, 1.0]).double()
    zero = torch.zeros(5).double()
    found = frechet_distance((zero, q @ d1.diag() @ q.T), (zero, q @ d2.diag() @ q.T))
    assert found == pytest.approx(float((d1.sqrt() - d2.sqrt()).square().sum()), rel=1e-7), "root of round-off"


def test_frechet_identities():
    x, y = normal(30, 4), 0.5 * normal(25, 4, seed=1) + 1
    fx, fy = moments(x), moments(y)
    q, _ = torch.linalg.qr(normal(4, 4, seed=2))
    distance = frechet_distance(fx, fy)
    assert frechet_distance(fx, fx) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(fy, fx) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(moments(x @ q.T + 3), moments(y @ q.T + 3)) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(moments(3 * x), moments(3 * y)) == pytest.approx(9 * distance, rel=1e-9)
    assert frechet_distance(moments(x[torch.randperm(30)]), fy) == pytest.approx(distance, rel=1e-9)


def test_frechet_of_fewer_samples_than_features_is_finite_and_zero_on_itself():
    x = normal(5, 20)
    assert frechet_distance(moments(x), moments(x)) == pytest.approx(0, abs=1e-6)


def test_symmetric_root_squares_to_its_matrix():
    a = normal(7, 3)
    torch.testing.assert_close(sqrt_psd(a @ a.T) @ sqrt_psd(a @ a.T), a @ a.T)


def test_sliced_wasserstein_of_a_translation_is_the_shift():
    x = normal(50, 1)
    assert sliced_wasserstein(x, x - 0.75, directions(16, 1, 0)) == pytest.approx(0.75, rel=1e-12)
    x, shift, theta = normal(50, 3), torch.tensor([1.0, -2.0, 0.5]).double(), directions(4000, 3, 0)
    squared = (shift @ theta).square()
    found = sliced_wasserstein(x, x + shift, theta)
    assert found**2 == pytest.approx(float(squared.mean()), rel=1e-12)
    standard_error = float(squared.std()) / math.sqrt(4000)
    assert abs(found**2 - float(shift.square().sum()) / 3) < 4 * standard_error


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 6), (12, 8), (5, 7)])
def test_sliced_wasserstein_is_the_optimal_assignment(n: int, m: int):
    x, y, theta = normal(n, 2), normal(m, 2, seed=1), directions(5, 2, 0)
    steps = math.lcm(n, m)
    costs = []
    for direction in theta.T:
        a, b = ((p @ direction).repeat_interleave(steps // len(p)).numpy() for p in (x, y))
        cost = (a[:, None] - b[None]) ** 2
        costs.append(cost[linear_sum_assignment(cost)].mean())
    assert sliced_wasserstein(x, y, theta) == pytest.approx(math.sqrt(np.mean(costs)), rel=1e-10)


def test_sliced_wasserstein_identities():
    x, y, theta = normal(20, 3), normal(30, 3, seed=1), directions(32, 3, 0)
    distance = sliced_wasserstein(x, y, theta)
    assert sliced_wasserstein(x, x[torch.randperm(20)], theta) == 0
    assert sliced_wasserstein(y, x, theta) == pytest.approx(distance, rel=1e-12)
    assert sliced_wasserstein(-2 * x, -2 * y, theta) == pytest.approx(2 * distance, rel=1e-12)
    assert sliced_wasserstein(x.repeat(3, 1), y, theta) == pytest.approx(distance, rel=1e-12)


@pytest.mark.parametrize("n", [40, 160, 640])
def test_floor_of_sliced_wasserstein_falls_as_one_over_root_n(n: int):
    """For two uniform samples on [0, 1] the variances of order statistics give E[W2^2] = 1 / (3 (n + 1))."""
    uniform = torch.rand(300, 2, n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    theta = torch.ones(1, 1).double()
    squared = torch.tensor([sliced_wasserstein(x, y, theta) ** 2 for x, y in uniform])
    assert abs(squared.mean() - 1 / (3 * (n + 1))) < 4 * squared.std() / math.sqrt(300)


def test_directions_are_uniform_on_the_sphere_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    theta = directions(4000, 3, 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(theta.norm(dim=0), torch.ones(4000).double())
    products = theta[:, None] * theta[None]
    error = products.std(2) / math.sqrt(4000)
    assert ((products.mean(2) - torch.eye(3) / 3).abs() < 4 * error).all()
    assert torch.equal(theta[:, :10], directions(10, 3, 1))
    assert not torch.equal(theta, directions(4000, 3, 2))


@pytest.mark.parametrize("rows", [7, 1024])
def test_neighbours_equal_a_search_tree(rows: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours, "ROWS", rows)
    x, y = normal(50, 3), normal(40, 3, seed=1)
    tree = cKDTree(x.numpy())
    radius = tree.query(x.numpy(), k=4)[0][:, 3]
    np.testing.assert_allclose(neighbours.squared_radii(x, 3).numpy(), radius**2, rtol=1e-9)
    held, holds = neighbours.ball_counts(y, x, torch.from_numpy(radius**2))
    inside = [set(tree_y) for tree_y in cKDTree(y.numpy()).query_ball_point(x.numpy(), radius)]
    assert holds.tolist() == [len(s) for s in inside]
    assert held.tolist() == [sum(j in s for s in inside) for j in range(40)]


def test_equal_sets_are_precise_and_covered():
    x = normal(200, 5)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert precision_recall(x[order], x, 3) == (1.0, 1.0)
    density, coverage = density_coverage(x[order], x, 5)
    assert coverage == 1.0
    assert density == pytest.approx(6 / 5), "each ball holds its centre and its k neighbours"


def test_disjoint_sets_share_nothing():
    x, y = normal(100, 5), normal(100, 5, seed=1) + 100
    assert precision_recall(x, y, 3) == (0.0, 0.0)
    assert density_coverage(x, y, 5) == (0.0, 0.0)


def test_recall_is_precision_with_the_roles_exchanged():
    x, y = normal(80, 3), normal(50, 3, seed=1) + 1
    precision, recall = precision_recall(x, y, 3)
    assert (recall, precision) == precision_recall(y, x, 3)
    assert 0 < recall < precision < 1


def test_repeated_points_lie_in_balls_of_no_size():
    points = 1e3 + normal(3, 2)
    real, fake = points.repeat(20, 1), points[:2].repeat(10, 1)
    assert precision_recall(fake, real, 3) == (1.0, pytest.approx(2 / 3))
    assert density_coverage(fake + 0.1, real, 5) == (0.0, 0.0)


def test_collapse_and_outliers_are_told_apart():
    real = torch.cat([normal(100, 2), normal(100, 2, seed=1) + 50])
    collapsed = normal(100, 2, seed=2)
    precision, recall = precision_recall(collapsed, real, 3)
    assert precision > 0.85
    assert 0.35 < recall <= 0.5
    half_noise = torch.cat([real[::2], normal(100, 2, seed=3) - 50])
    assert precision_recall(half_noise, real, 3)[0] == 0.5
    assert density_coverage(collapsed, real, 5)[1] <= 0.5


def test_overlaps_do_not_depend_on_order_scale_or_place():
    fake, real = normal(80, 3), 1.5 * normal(70, 3, seed=1)
    permuted = real[torch.randperm(70, generator=torch.Generator().manual_seed(0))]
    for overlap in (precision_recall, density_coverage):
        expected = overlap(fake, real, 4)
        assert overlap(4 * fake + 1, 4 * permuted + 1, 4) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("make", [normal, lambda *shape, seed: normal(*shape, seed=seed).exp()], ids=["normal", "lognormal"])
def test_density_and_coverage_of_one_distribution_have_their_closed_forms(make):
    """Expected coverage is 1 - (m-1)...(m-k) / ((m+n-1)...(m+n-k)) and expected density 1, whatever the distribution."""
    n, m, k, repeats = 60, 40, 5, 400
    pairs = torch.tensor([density_coverage(make(n, 2, seed=2 * r), make(m, 2, seed=2 * r + 1), k) for r in range(repeats)])
    missed = math.prod((m - i) / (m + n - i) for i in range(1, k + 1))
    error = pairs.std(0) / math.sqrt(repeats)
    assert abs(pairs[:, 0].mean() - 1) < 4 * error[0]
    assert abs(pairs[:, 1].mean() - (1 - missed)) < 4 * error[1]

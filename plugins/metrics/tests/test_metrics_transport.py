"""Transport, kernels and energies between two sets: closed forms, other libraries, direct double sums."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from diffcore_metrics.energy_distance import EnergyDistance, energy_distance
from diffcore_metrics.mmd import MMD, gaussian_mixture_kernel, median_distance
from diffcore_metrics.two_sample_statistic import relabellings, unbiased
from diffcore_metrics.wasserstein import Wasserstein, pot, transport, wasserstein
from scipy import stats
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import diffcore as dc


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def installed() -> bool:
    try:
        pot()
    except dc.DataError:
        return False
    return True


needs_pot = pytest.mark.skipif(not installed(), reason="POT is not installed")


# --- Wasserstein ------------------------------------------------------------------------------------------------------


@pytest.mark.item("1.04")
@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 25)])
def test_w1_on_the_line_is_scipys_and_the_area_between_the_distribution_functions(n: int, m: int):
    x, y = normal(n, 1), 1.5 * normal(m, 1, seed=1) + 0.3
    found = wasserstein(x, y, 1)
    assert found == pytest.approx(stats.wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-12)
    places = torch.cat([x, y])[:, 0].sort().values
    F, G = ((v[:, 0][:, None] <= places).double().mean(0) for v in (x, y))
    assert found == pytest.approx(float(((F - G).abs()[:-1] * places.diff()).sum()), rel=1e-12)


@needs_pot
@pytest.mark.parametrize("order", [1, 2])
def test_pot_agrees_with_the_closed_form_on_the_line(order):
    x, y = normal(30, 1), 2 * normal(21, 1, seed=1) - 0.5
    assert transport(x, y, order) ** (1 / order) == pytest.approx(wasserstein(x, y, order), rel=1e-10)


@needs_pot
@pytest.mark.parametrize("order", [1, 2])
def test_transport_is_the_best_assignment(order):
    x, y = normal(25, 3), normal(25, 3, seed=1) + 0.5
    cost = torch.cdist(x, y).numpy() ** order
    best = cost[linear_sum_assignment(cost)].mean()
    assert wasserstein(x, y, order) == pytest.approx(best ** (1 / order), rel=1e-9)


@pytest.mark.item("1.04")
@pytest.mark.parametrize("dim", [1, pytest.param(3, marks=needs_pot)])
@pytest.mark.parametrize("order", [1, 2])
def test_a_translation_is_at_its_length(order, dim: int):
    shift = torch.linspace(-1, 2, dim + 1)[1:].double()
    x = normal(30, dim)
    assert wasserstein(x, x + shift, order) == pytest.approx(float(shift.norm()), rel=1e-9)
    assert wasserstein(3 * x, 3 * (x + shift), order) == pytest.approx(3 * float(shift.norm()), rel=1e-9)
    assert wasserstein(x, x.flip(0), order) == pytest.approx(0, abs=1e-7)


@pytest.mark.item("1.04")
@pytest.mark.parametrize("order", [1, 2])
def test_the_metric_of_a_translated_set_is_its_length(order):
    x = normal(60, 1)
    found = Wasserstein(order=order).measure(dc.Evaluation(samples=x + 0.7, reference=x))
    assert found[f"W{order}"].value == pytest.approx(0.7, rel=1e-6)


@needs_pot
def test_w2_of_an_optimal_map_is_its_cost():
    """x -> A x with A symmetric and positive is a gradient of a convex function: no other pairing of x and A x is cheaper."""
    x, root = normal(40, 2), normal(2, 2, seed=1)
    A = root @ root.T + 0.1 * torch.eye(2)
    y = x @ A
    assert wasserstein(x, y[torch.randperm(40)], 2) == pytest.approx(float((x - y).square().sum(1).mean().sqrt()), rel=1e-9)
    assert wasserstein(x, x @ torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double(), 2) < float((2 * x.square().sum(1)).mean().sqrt())


def test_absent_pot_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    plane = dc.Evaluation(samples=normal(40, 2), reference=normal(80, 2, seed=1))
    with pytest.raises(dc.DataError, match=r"needs the package POT .* pip install 'diffcore-metrics\[pot\]'"):
        Wasserstein().measure(plane)
    line = dc.Evaluation(samples=normal(40, 1), reference=normal(80, 1, seed=1))
    assert list(Wasserstein(order=1).measure(line)) == ["W1"]


# --- MMD --------------------------------------------------------------------------------------------------------------


def double_sum(x: Tensor, y: Tensor, k) -> float:
    """The three averages over pairs, written out."""
    xx = sum(k(a, b) for a, b in itertools.permutations(x, 2)) / (len(x) * (len(x) - 1))
    yy = sum(k(a, b) for a, b in itertools.permutations(y, 2)) / (len(y) * (len(y) - 1))
    return float(xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y)))


def test_mmd_is_its_double_sum(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("diffcore_metrics.neighbours.ROWS", 7)
    x, y, widths = normal(12, 2), normal(9, 2, seed=1) + 0.4, (0.3, 1.1)
    want = double_sum(x, y, lambda a, b: sum(torch.exp(-((a - b) ** 2).sum() / (2 * h * h)) for h in widths) / 2)
    assert unbiased(x, y, gaussian_mixture_kernel(widths))[0] == pytest.approx(want, rel=1e-10)
    assert energy_distance(x, y) == pytest.approx(double_sum(x, y, lambda a, b: -(a - b).norm()), rel=1e-10)


def between_gaussians(m1: Tensor, c1: Tensor, m2: Tensor, c2: Tensor, h: float) -> float:
    """E exp(-|x - y|^2 / 2h^2) of independent Gaussians: h^d |h^2 I + C1 + C2|^{-1/2} exp(-r' (h^2 I + C1 + C2)^{-1} r / 2)."""
    total, r = h * h * torch.eye(len(m1)).double() + c1 + c2, m1 - m2
    return float(h ** len(m1) * torch.linalg.det(total) ** -0.5 * torch.exp(-0.5 * r @ torch.linalg.solve(total, r)))


def test_mmd_of_gaussians_has_its_closed_form_and_no_bias():
    m1, m2 = torch.tensor([0.0, 0.0]).double(), torch.tensor([0.4, -0.2]).double()
    f1, f2 = torch.tensor([[1.0, 0.0], [0.3, 0.8]]).double(), torch.tensor([[0.7, 0.0], [0.0, 1.2]]).double()
    c1, c2, widths = f1 @ f1.T, f2 @ f2.T, (0.6, 1.5)
    terms = [((m1, c1), (m1, c1), 1), ((m2, c2), (m2, c2), 1), ((m1, c1), (m2, c2), -2)]
    want = sum(w * between_gaussians(*a, *b, h) for a, b, w in terms for h in widths) / 2
    kernel = gaussian_mixture_kernel(widths)
    sets = [(m1 + normal(40, 2, seed=2 * k) @ f1.T, m2 + normal(30, 2, seed=2 * k + 1) @ f2.T) for k in range(300)]
    found = np.array([unbiased(x, y, kernel)[0] for x, y in sets])
    error = found.std(ddof=1) / math.sqrt(len(found))
    assert abs(found.mean() - want) < 3 * error
    assert error < 0.05 * want, "sharp enough to see the bias of pairs counted with themselves"


def test_permutation_p_values_are_uniform_under_one_distribution_and_small_under_two():
    kernel = gaussian_mixture_kernel((1.0,))
    p = np.array([unbiased(normal(20, 2, seed=k), normal(25, 2, seed=1000 + k), kernel, 49, seed=k)[1] for k in range(200)])
    assert set(np.round(p * 50)) <= set(range(1, 51))
    assert stats.kstest(p - 1 / 100, "uniform").pvalue > 0.01
    assert unbiased(normal(60, 2), normal(60, 2, seed=1) + 1, kernel, 99)[1] == 1 / 100


def test_relabellings_keep_the_sizes_of_the_sets():
    """All points, the first n, then random sets of n, every point as often as any other (within 5 s.e.)."""
    sets = relabellings(3, 8, 400, 1)
    assert sets.sum(0).tolist() == [8.0] + [3.0] * 401
    assert sets[:, 1].tolist() == [1.0] * 3 + [0.0] * 5
    assert float((sets[:, 2:].mean(1) - 3 / 8).abs().max()) < 5 * math.sqrt(3 / 8 * 5 / 8 / 400)


def test_relabellings_that_differ_by_rounding_only_are_ties():
    """Of the corners of a simplex, all of one distance, every split has the same value: p = 1."""
    turn = torch.linalg.qr(normal(8, 8, seed=5))[0]
    corners = (torch.eye(8, dtype=torch.float64) @ turn * 1.7).double()
    for seed in range(5):
        assert unbiased(corners[:3], corners[3:], gaussian_mixture_kernel([0.9]), 200, seed=seed)[1] == 1.0


def test_mmd_measures_all_with_the_kernel_of_the_real_data():
    reference, samples = normal(200, 2), normal(80, 2, seed=1) + 0.5
    got = MMD(scales=(1.0,)).measure(dc.Evaluation(samples=samples, reference=reference))
    real = reference[:120]
    distances = torch.pdist(real)
    assert median_distance(real) == pytest.approx(float(distances.sort().values[(len(distances) - 1) // 2]), rel=1e-9)
    kernel = gaussian_mixture_kernel((median_distance(real),))
    assert got["MMD2"].value == pytest.approx(unbiased(samples, real, kernel)[0])
    assert got["MMD2"].floor == pytest.approx(unbiased(reference[120:][-80:], real, kernel)[0])
    assert got["MMD-p"].better == "higher"
    assert got["MMD-p"].value < 0.01 < got["MMD-p"].floor
    assert got["MMD2"].value == pytest.approx(
        MMD(scales=(1.0,)).measure(dc.Evaluation(samples=5 * samples, reference=5 * reference))["MMD2"].value, rel=1e-9
    ), "the median makes it free of scale"


def test_real_data_that_coincide_need_a_bandwidth():
    ev = dc.Evaluation(samples=normal(20, 2), reference=torch.zeros(40, 2))
    with pytest.raises(dc.DataError, match="set 'bandwidth'"):
        MMD().measure(ev)
    assert MMD(bandwidth=1.0).measure(ev)["MMD2"].value > 0.1


# --- energy distance --------------------------------------------------------------------------------------------------


def mean_distance(gap: float, variance: float) -> float:
    """E|X - Y| of Gaussians on the line: the mean of a folded normal."""
    s = math.sqrt(variance)
    return s * math.sqrt(2 / math.pi) * math.exp(-((gap / s) ** 2) / 2) + gap * math.erf(gap / (s * math.sqrt(2)))


def test_energy_distance_of_gaussians_has_its_closed_form():
    want = 2 * mean_distance(0.5, 1 + 0.49) - mean_distance(0, 2) - mean_distance(0, 0.98)
    found = np.array([energy_distance(normal(40, 1, seed=2 * k), 0.5 + 0.7 * normal(30, 1, seed=2 * k + 1)) for k in range(300)])
    error = found.std(ddof=1) / math.sqrt(len(found))
    assert abs(found.mean() - want) < 3 * error
    assert error < 0.1 * want


def test_energy_distance_on_the_line_is_scipys():
    """scipy counts a point's distance to itself: n^2 in place of n (n - 1)."""
    x, y = normal(20, 1), normal(15, 1, seed=1) + 0.6
    within = [float(torch.cdist(v, v).sum()) * (1 / (len(v) * (len(v) - 1)) - 1 / len(v) ** 2) for v in (x, y)]
    biased = stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert energy_distance(x, y) == pytest.approx(biased - sum(within), rel=1e-9)
    assert energy_distance(4 * x, 4 * y) == pytest.approx(4 * energy_distance(x, y), rel=1e-9)


def test_energy_distance_tells_worse_samples():
    reference = normal(400, 2)
    good, bad = (
        EnergyDistance().measure(dc.Evaluation(samples=x, reference=reference))["energy-distance"]
        for x in (normal(200, 2, seed=1), normal(200, 2, seed=1) + 1)
    )
    assert abs(good.value) < 0.05 < bad.value
    assert good.floor == bad.floor

"""Divergences from data of known density: closed forms of Gaussians, definitions by another quadrature, bounds, models."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from diffcore_metrics.divergences import BOUNDS, between_densities, between_masses
from diffcore_metrics.f_divergence import FDivergence, binned, box_of, counts, masses
from diffcore_metrics.fisher import Fisher, time_of
from diffcore_metrics.kl import KL, gaussian_kl, log_ratios
from diffcore_metrics.knn_kl import KNNKL, knn_entropy, knn_kl
from diffcore_metrics.known import model_density, oracle_of
from diffcore_metrics.quadrature import rule
from scipy import integrate, stats
from torch import Tensor

import diffcore as dc
from diffcore.testing import Gaussian, Mixture, ReferenceFlow, ReferenceVP

A, B = Gaussian([0.3], cov=[[0.64]]), Gaussian([-0.4], cov=[[1.44]])
BOX = torch.tensor([-12.0]).double(), torch.tensor([12.0]).double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(id: str, **fields):
    return dc.Registry.load().make("data", id, **fields)


def blob(**more):
    return make("gaussian", mean=(0.3, -0.2), cov=((0.5, 0.2), (0.2, 0.3)), **more)


def draws(oracle, n: int, seed: int = 0) -> Tensor:
    return oracle.sample(n, dc.Draw(seed, range(n), block=n))


# --- KL ---------------------------------------------------------------------------------------------------------------


@pytest.mark.item("1.01")
def test_the_mean_log_ratio_is_the_divergence_of_gaussians():
    p, q = Gaussian([0.3, -0.2], cov=[[0.5, 0.2], [0.2, 0.3]]), Gaussian([0.0, 0.1], cov=[[1.0, -0.3], [-0.3, 0.6]])
    want = gaussian_kl(p.m, p.cov, q.m, q.cov)
    each = log_ratios(p.log_prob, q.log_prob, draws(p, 4000))
    assert abs(float(each.mean()) - want) < 3 * float(each.std()) / math.sqrt(4000)
    assert want == pytest.approx(
        float(
            torch.distributions.kl_divergence(
                *(torch.distributions.MultivariateNormal(g.m, covariance_matrix=g.cov) for g in (p, q))
            )
        )
    )
    assert gaussian_kl(p.m, p.cov, p.m, p.cov) == pytest.approx(0, abs=1e-12)


@pytest.mark.item("1.01")
def test_the_gaussian_of_least_forward_divergence_has_the_samples_moments():
    """argmin over (m, log d) of -E log N(x; m, d^2) is the maximum likelihood estimate."""
    x = draws(A, 500)
    free = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    steps = torch.optim.LBFGS([free], max_iter=100, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        steps.zero_grad()
        r = (x[:, 0] - free[0]) * torch.exp(-free[1])
        loss = log_ratios(A.log_prob, lambda _: -0.5 * r**2 - free[1] - 0.5 * math.log(2 * math.pi), x).mean()
        loss.backward()
        return loss

    steps.step(objective)
    assert float(free[0].detach()) == pytest.approx(float(x.mean()), abs=1e-6)
    assert float(free[1].detach().exp()) == pytest.approx(float(x.std(correction=0)), rel=1e-6)


@pytest.mark.parametrize("dim", [1, 3])
def test_neighbours_estimate_the_divergence_and_the_entropy_of_gaussians(dim: int):
    p, q = Gaussian(torch.zeros(dim), 1.0), Gaussian(torch.full((dim,), 0.5), 1.3)
    pairs = [(draws(p, 400, 2 * s), draws(q, 500, 2 * s + 1)) for s in range(24)]
    for found, want in (
        ([knn_kl(x, y, 5) for x, y in pairs], gaussian_kl(p.m, p.cov, q.m, q.cov)),
        ([knn_entropy(x, 5) for x, _ in pairs], dim / 2 * (1 + math.log(2 * math.pi))),
    ):
        error = np.std(found, ddof=1) / math.sqrt(len(found))
        assert abs(np.mean(found) - want) < 4 * error + 0.02 * dim, "the estimate has a bias that falls with n"
        assert error < 0.02


def test_neighbours_estimate_what_the_formula_says():
    x, y, k = normal(15, 2), normal(11, 2, seed=1), 3
    rho = torch.cdist(x, x).sort(1).values[:, k]
    nu = torch.cdist(x, y).sort(1).values[:, k - 1]
    assert knn_kl(x, y, k) == pytest.approx(2 * float((nu / rho).log().mean()) + math.log(11 / 14), rel=1e-9)
    unmoved = knn_kl(x, y, k)
    assert knn_kl(3 * x + 1, 3 * y + 1, k) == pytest.approx(unmoved, rel=1e-9), "a change of units changes no divergence"


def test_forward_and_reverse_divergence_see_different_faults():
    """A missed mode is seen by KL(real | samples), samples between the modes by KL(samples | real)."""
    two = Mixture([0.5, 0.5], [[-2.0, 0.0], [2.0, 0.0]], [0.3, 0.3])
    reference = draws(two, 1600)
    missed = draws(Gaussian([2.0, 0.0], 0.3), 400, 1)
    between = draws(Gaussian([0.0, 0.0], [2.0, 0.3]), 400, 2)
    one, other = (KNNKL().measure(dc.Evaluation(samples=x, reference=reference)) for x in (missed, between))
    assert one["kNN-reverse-KL"].value == pytest.approx(math.log(2), abs=0.15)
    assert one["kNN-KL"].value > 3 > 1.5 > other["kNN-KL"].value
    assert other["kNN-reverse-KL"].value > 1


def test_repeated_points_have_no_divergence():
    with pytest.raises(dc.DataError, match="points repeat"):
        knn_kl(torch.zeros(20, 2), normal(20, 2), 3)


@pytest.mark.item("1.10", "1.01")
def test_kl_against_known_data_is_that_of_the_samples():
    data = blob()
    p = Gaussian(data.mean, cov=data.cov)
    wide = Gaussian(data.mean, cov=[[2 * v for v in row] for row in data.cov])
    reference, samples = draws(p, 2000), draws(wide, 2000, 1)
    got = KL().measure(dc.Evaluation(samples=samples, reference=reference, data=data))
    assert list(got) == ["reverse-KL"], "no field: no density of a model"
    want = gaussian_kl(wide.m, wide.cov, p.m, p.cov)
    number = got["reverse-KL"]
    assert abs(number.value - want) < 4 * number.spread / 2 + 0.02
    assert abs(number.floor) < 0.06
    assert number.n == 2000


def test_kl_of_a_model_of_known_density_is_the_mean_log_ratio():
    """The exact field of another Gaussian: KL(p | model) in closed form, and zero for the field of the data itself."""
    data, process = blob(), ReferenceVP()
    p, q = Gaussian(data.mean, cov=data.cov), Gaussian([0.0, 0.0], cov=[[1.0, 0.0], [0.0, 0.5]])
    reference = draws(p, 3000)
    for model, want in ((q, gaussian_kl(p.m, p.cov, q.m, q.cov)), (p, 0.0)):
        ev = dc.Evaluation(samples=draws(model, 100, 1), reference=reference, data=data, field=model.field(process))
        number = KL().measure(ev)["KL"]
        error = float(log_ratios(p.log_prob, model.log_prob, reference).std()) / math.sqrt(3000)
        assert abs(number.value - want) <= 3 * error + 1e-12
        assert number.floor == 0.0
        assert f"standard error {error:.2g}" in number.against


def test_the_density_of_a_normalising_flow_is_its_own():
    """It integrates to one over the data, also where the input of the network is scaled."""
    registry = dc.Registry.load()
    try:
        flow = registry.make("network", "real-nvp").build((2,), {})
    except dc.DiffcoreError as error:
        pytest.skip(str(error))
    generator = torch.Generator().manual_seed(0)
    for part in flow.parameters():
        torch.nn.init.normal_(part, std=0.2, generator=generator)
    process = registry.make("process", "flow")
    model = dc.Denoiser(flow, dc.Reading("velocity", "feature", "unit", sigma_data=2.0), process)
    log_q = model_density(dc.Field(model))
    points, weights = rule(torch.tensor([-40.0, -40.0]).double(), torch.tensor([40.0, 40.0]).double(), 60, 6)
    total = float((log_q(points.reshape(-1, 2)).exp().reshape(points.shape[:2]) * weights).sum())
    assert total == pytest.approx(1, abs=2e-3)


# --- f-divergences ----------------------------------------------------------------------------------------------------


def test_the_rule_is_exact_for_polynomials():
    low, high = torch.tensor([-1.0, 0.0]).double(), torch.tensor([2.0, 0.5]).double()
    points, weights = rule(low, high, 3, 2)
    assert points.shape == (9, 4, 2)
    value = (points[..., 0] ** 3 * points[..., 1] ** 2 * weights).sum()
    assert float(value) == pytest.approx((16 - 1) / 4 * 0.125 / 3, rel=1e-12)
    assert torch.equal(points[1].mean(0) > points[0].mean(0), torch.tensor([False, True])), "last variable fastest"


@pytest.mark.item("1.02")
@pytest.mark.parametrize("name", ["KL", "reverse-KL", "JS", "TV", "H2", "chi2"])
def test_divergences_on_the_line_are_their_definitions(name: str):
    """Against scipy's quadrature of q f(p / q), with f written out."""
    f = {
        "KL": lambda u: u * math.log(u),
        "reverse-KL": lambda u: -math.log(u),
        "JS": lambda u: 0.5 * (u * math.log(2 * u / (1 + u)) + math.log(2 / (1 + u))),
        "TV": lambda u: abs(u - 1) / 2,
        "H2": lambda u: (math.sqrt(u) - 1) ** 2 / 2,
        "chi2": lambda u: (u - 1) ** 2,
    }[name]
    p, q = stats.norm(0.3, 0.8), stats.norm(-0.4, 1.2)
    cuts = [-6, -4, -3, -2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]
    want = sum(integrate.quad(lambda x: q.pdf(x) * f(p.pdf(x) / q.pdf(x)), a, b)[0] for a, b in itertools.pairwise(cuts))
    assert between_densities(A.log_prob, B.log_prob, *BOX)[name] == pytest.approx(want, rel=2e-4)


@pytest.mark.item("1.02")
def test_divergences_of_gaussians_have_their_closed_forms():
    found = between_densities(A.log_prob, B.log_prob, *BOX)
    s, t, gap = 0.8, 1.2, 0.7
    assert found["KL"] == pytest.approx(gaussian_kl(A.m, A.cov, B.m, B.cov), rel=1e-9)
    assert found["reverse-KL"] == pytest.approx(gaussian_kl(B.m, B.cov, A.m, A.cov), rel=1e-9)
    overlap = math.sqrt(2 * s * t / (s * s + t * t)) * math.exp(-(gap**2) / (4 * (s * s + t * t)))
    assert found["H2"] == pytest.approx(1 - overlap, rel=1e-9)
    left = 2 * t * t - s * s
    assert found["chi2"] == pytest.approx(t * t / (s * math.sqrt(left)) * math.exp(gap**2 / left) - 1, rel=1e-9)
    same = between_densities(Gaussian([0.5], 1.0).log_prob, Gaussian([-0.5], 1.0).log_prob, *BOX, cells=2400)
    assert same["TV"] == pytest.approx(math.erf(0.5 / math.sqrt(2)), rel=1e-6)


def test_divergences_in_the_plane():
    p, q = Gaussian([0.3, -0.2], cov=[[0.5, 0.2], [0.2, 0.3]]), Gaussian([0.0, 0.1], cov=[[1.0, -0.3], [-0.3, 0.6]])
    box = torch.tensor([-7.0, -7.0]).double(), torch.tensor([7.0, 7.0]).double()
    found = between_densities(p.log_prob, q.log_prob, *box, cells=40, nodes=6)
    assert found["KL"] == pytest.approx(gaussian_kl(p.m, p.cov, q.m, q.cov), rel=1e-7)
    middle = (p.cov + q.cov) / 2
    distance = (p.m - q.m) @ torch.linalg.solve(middle, p.m - q.m) / 8
    logs = 0.25 * (torch.logdet(p.cov) + torch.logdet(q.cov)) - 0.5 * torch.logdet(middle)
    assert found["H2"] == pytest.approx(1 - math.exp(float(logs - distance)), rel=1e-7)


@pytest.mark.item("1.02")
@pytest.mark.parametrize("gap", [0.0, 0.1, 1.0, 30.0])
def test_divergences_are_bounded_and_ordered(gap: float):
    p, q = Gaussian([gap / 2], 0.5), Gaussian([-gap / 2], 0.5)
    box = torch.tensor([-20.0]).double(), torch.tensor([20.0]).double()
    found = between_densities(p.log_prob, q.log_prob, *box)
    assert all(value >= -1e-12 for value in found.values())
    for name, most in BOUNDS.items():
        assert found[name] <= most + 1e-9
        assert gap < 30 or found[name] == pytest.approx(most, abs=1e-6)
    assert found["H2"] <= found["TV"] + 1e-9 <= math.sqrt(found["H2"] * (2 - found["H2"])) + 1e-6
    assert 2 * found["TV"] ** 2 <= found["KL"] + 1e-6 <= math.log1p(found["chi2"]) + 1e-5, "Pinsker, Jensen"


def test_divergences_of_equal_masses_vanish_and_empty_cells_are_infinite_only_where_they_must_be():
    p = torch.tensor([0.5, 0.5, 0.0]).double()
    assert set(between_masses(p, p).values()) == {0.0}
    found = between_masses(p, torch.tensor([1.0, 0.0, 0.0]).double())
    assert {name for name, value in found.items() if math.isinf(value)} == {"KL", "chi2"}
    assert found["reverse-KL"] == pytest.approx(math.log(2))


@pytest.mark.parametrize("oracle", [A, Gaussian([0.3, -0.2], cov=[[0.5, 0.2], [0.2, 0.3]])], ids=["line", "plane"])
def test_cells_hold_their_mass(oracle):
    """The share of exact samples in each cell, within four standard errors, and every sample in one."""
    low, high = box_of(oracle)
    p, n = masses(oracle.log_prob, low, high, 6), 20_000
    found = counts(draws(oracle, n, 7), low, high, 6)
    assert float(found.sum()) == n
    assert float(p.sum()) == pytest.approx(1, abs=1e-6)
    assert ((found / n - p).abs() < 4.5 * (p * (1 - p) / n).sqrt() + 1e-4).all()


def test_too_wide_cells_are_refused():
    narrow = Mixture([0.5, 0.5], [[-5.0], [5.0]], [0.001, 0.001])
    with pytest.raises(dc.DataError, match="set a larger 'cells'"):
        masses(narrow.log_prob, *box_of(narrow), 4)


def test_cells_hold_their_lower_ends():
    """[low, high) is cut into half-open cells: a point at `high` is outside, one at an edge is in the cell above it."""
    low, high = torch.tensor([-1.0, 0.0]).double(), torch.tensor([1.0, 4.0]).double()
    x = torch.tensor([[-1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-0.5, 4.0], [0.5, 1.0]]).double()
    assert counts(x, low, high, 2).tolist() == [1, 0, 1, 1, 2]


def test_the_plane_is_measured_and_exactly_enough_samples_are_enough():
    data, need = blob(), FDivergence().blocks * FDivergence().least
    p = Gaussian(data.mean, cov=data.cov)
    FDivergence().check(dc.Evaluation(samples=draws(p, need), reference=draws(p, need, 1), data=data))
    for n, m in ((need - 1, need), (need, need - 1)):
        with pytest.raises(dc.DataError, match=f"needs {need} samples and as many real ones; there are {n} and {m}"):
            FDivergence().check(dc.Evaluation(samples=draws(p, n), reference=draws(p, m, 1), data=data))


def test_counts_of_the_exact_law_scatter_as_the_chi_square_law_says():
    """Expectations under the law itself: chi2 exactly (K - 1) / n, reverse-KL about (K - 1) / 2n."""
    low, high = box_of(A)
    p, n = masses(A.log_prob, low, high, 8), 500
    found = [binned(p, counts(draws(A, n, s), low, high, 8)) for s in range(200)]
    K = len(p)
    chi2 = np.array([f["binned-chi2"] for f in found])
    assert abs(chi2.mean() - (K - 1) / n) < 4 * chi2.std() / math.sqrt(200) + 1e-4
    reverse = np.array([f["binned-reverse-KL"] for f in found])
    assert reverse.mean() == pytest.approx((K - 1) / (2 * n), rel=0.25)


@pytest.mark.item("1.02")
def test_f_divergence_of_samples_of_another_gaussian():
    """No more than the exact divergence (binning loses), and most of it; the floor far below."""
    data = make("gaussian", mean=(0.3,), cov=((0.64,),))
    samples, reference = draws(B, 6000, 1), draws(A, 6000)
    got = FDivergence(cells=40).measure(dc.Evaluation(samples=samples, reference=reference, data=data))
    exact = between_densities(A.log_prob, B.log_prob, *BOX)
    for name in ("KL", "reverse-KL", "JS", "TV", "H2"):
        number = got[f"binned-{name}"]
        assert 0.75 * exact[name] < number.value < 1.1 * exact[name]
        assert number.floor < 0.2 * number.value
        assert number.n == 6000
    assert got["binned-JS"].against == "exact density of data on 41 cells"


def test_other_data_is_refused():
    x = normal(100, 2)
    moons = dc.Evaluation(samples=x, reference=x, data=make("two-moons"))
    points = dc.Evaluation(samples=x, reference=x, data=make("finite-set", points=((0.0, 0.0), (1.0, 1.0))))
    for metric in (KL(), FDivergence()):
        with pytest.raises(dc.DataError, match="needs data of known density"):
            metric.measure(moons)
        with pytest.raises(dc.DataError, match="finite set"):
            metric.measure(points)
    cube = make("gaussian", mean=(0.0,) * 3, cov=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
    with pytest.raises(dc.DataError, match="one or two dimensions"):
        FDivergence().measure(dc.Evaluation(samples=normal(100, 3), reference=normal(100, 3), data=cube))


def test_the_law_of_data_is_that_of_its_samples():
    """The oracle built from the fields of a data set against the moments of what the data set draws."""
    mixture = make("gaussian-mixture", means=((-0.6, 0.0), (0.5, 0.4)), stds=(0.1, 0.2), weights=(0.25, 0.75), seed=3)
    for data in (blob(), mixture):
        x = data.open().batch(torch.arange(20_000))[0].double()
        oracle = oracle_of(dc.Evaluation(samples=x, reference=x, data=data), "kl")
        other = draws(oracle, 20_000)
        for power in (1, 2, 3):
            error = (x**power).std(0) * math.sqrt(2 / 20_000)
            assert (((x**power).mean(0) - (other**power).mean(0)).abs() < 4 * error).all()


# --- Fisher divergence ------------------------------------------------------------------------------------------------


@pytest.mark.item("1.03")
@pytest.mark.parametrize("process", [ReferenceVP(), ReferenceFlow()], ids=["vp", "flow"])
def test_fisher_divergence_of_gaussians_has_its_closed_form(process):
    """E((x - a m1) / V1 - (x - a m2) / V2)^2 over x ~ N(a m1, V1) is V1 (1/V1 - 1/V2)^2 + a^2 (m1 - m2)^2 / V2^2."""
    data = make("gaussian", mean=(0.3,), cov=((0.64,),))
    reference = draws(A, 8000)
    ev = dc.Evaluation(samples=reference, reference=reference, data=data, field=B.field(process))
    found = Fisher(lams=(2.0, 0.0, -1.0), n=8000, batch=3000).measure(ev)
    for lam, number in zip((2.0, 0.0, -1.0), found.values(), strict=True):
        c = process.coeffs(time_of(process, lam))
        a, s = float(c.alpha), float(c.sigma)
        v1, v2 = a * a * 0.64 + s * s, a * a * 1.44 + s * s
        want = v1 * (1 / v1 - 1 / v2) ** 2 + (a * 0.7 / v2) ** 2
        error = float(number.against.split("standard error ")[1])
        assert abs(number.value - want) < 3.5 * error
        assert error < 0.05 * want
        assert 0.1 < number.spread / (2 * error) < 2.5, "of the means of four blocks: chi(3) / sqrt(3)"
        assert float(number.against.split("mean square ")[1].split(";")[0]) == pytest.approx(1 / v1, rel=0.06)
    assert list(found) == ["fisher(lam=2)", "fisher(lam=0)", "fisher(lam=-1)"]


def test_every_noise_level_has_a_noise_of_its_own():
    data, reference = make("gaussian", mean=(0.3,), cov=((0.64,),)), draws(A, 64)
    ev = dc.Evaluation(samples=reference, reference=reference, data=data, field=B.field(ReferenceVP()))
    one, other = (v.value for v in Fisher(lams=(0.0, 1e-9), n=64).measure(ev).values())
    assert one != pytest.approx(other, rel=1e-6)


def test_the_exact_field_has_no_fisher_divergence_also_under_conditions():
    data = make("gaussian-mixture", means=((-0.6, 0.0), (0.5, 0.4)), stds=(0.1, 0.2), weights=(0.25, 0.75), conditional=True)
    x, cond = data.open().batch(torch.arange(64))
    oracle = Mixture(data.weights, data.means, data.stds)
    field = oracle.field(ReferenceVP(), cond=cond)
    ev = dc.Evaluation(samples=x, reference=x, reference_cond=cond, data=data, field=field)
    assert max(number.value for number in Fisher().measure(ev).values()) < 1e-12
    plain = dc.Evaluation(samples=x, reference=x, reference_cond=cond, data=data, field=oracle.field(ReferenceVP()))
    assert max(number.value for number in Fisher().measure(plain).values()) < 1e-12
    wrong = {"label": 1 - cond["label"]}
    ev = dc.Evaluation(samples=x, reference=x, reference_cond=wrong, data=data, field=oracle.field(ReferenceVP(), cond=cond))
    assert max(number.value for number in Fisher().measure(ev).values()) < 1e-12, "both are given the conditions of the data"


def test_fisher_divergence_refuses_what_it_cannot_measure():
    x = normal(32, 2)
    with pytest.raises(dc.DataError, match="needs data of known density"):
        Fisher().measure(dc.Evaluation(samples=x, reference=x, data=make("two-moons"), field=A.field(ReferenceVP())))
    with pytest.raises(dc.DataError, match="measures a field"):
        Fisher().measure(dc.Evaluation(samples=x, reference=x, data=blob()))
    field = Gaussian([0.3, -0.2], 1.0).field(ReferenceVP())
    with pytest.raises(dc.DataError, match=r"no time with log\(alpha / sigma\) = -40"):
        Fisher(lams=(-40.0,)).measure(dc.Evaluation(samples=x, reference=x, data=blob(), field=field))

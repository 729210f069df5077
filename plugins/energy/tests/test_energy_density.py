"""Densities of energy networks: Gaussians in closed form, and real data told from what is none."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_energy.density import log_density
from diffcore_energy.energy import Energy
from diffcore_energy.outliers import Outliers, _measured, auroc
from diffcore_energy.perceptron import Perceptron

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP

F64 = torch.float64
M, D = 0.7, 0.6
DATA = Gaussian(M, D, shape=(3,))
X = torch.linspace(-1.5, 2.0, 15, dtype=F64).reshape(5, 3)


class Quadratic(torch.nn.Module):
    """The energy whose slope, times `sign`, is the exact prediction for N(M, D^2) at the input y = x / c, at one time.

    A prediction that is k x + l has the energy k c |y|^2 / 2 + <l, y>.
    """

    def __init__(self, process, prediction, t, c, sign=1.0):
        super().__init__()
        self.sign, self.null_cond = sign, {}
        net = DATA.net(process, prediction)
        ends = [net(v * torch.ones(1, 3, dtype=F64), torch.full((1,), t, dtype=F64)) for v in (0.0, 1.0)]
        self.k, self.l, self.c = (ends[1] - ends[0])[0, 0], ends[0][0, 0], c

    def energy(self, y, t, **cond):
        return self.sign * (self.k * self.c * y**2 / 2 + self.l * y).flatten(1).sum(1)

    def forward(self, y, t, **cond):
        return self.k * self.c * y + self.l


@pytest.mark.item("1.05", "3.02")
@pytest.mark.parametrize("precondition", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("process", [ReferenceVP(), ReferenceVE(), ReferenceFlow()], ids=lambda p: type(p).__name__)
def test_every_prediction_gives_the_density_of_a_gaussian(process, sign, precondition):
    """log p_t(x) - log p_t(x') of N(alpha m, alpha^2 d^2 + sigma^2), for energies of any row, 1e-10."""
    t = 0.4 * process.T
    at = process.coeffs(torch.tensor(t, dtype=F64))
    c = float((at.alpha**2 * 0.25 + at.sigma**2) ** 0.5) if precondition else 1.0
    want = DATA.log_prob(X, at)
    for name in process.predictions:
        try:
            model = dc.Denoiser(
                Quadratic(process, name, t, c, sign),
                dc.Reading(name, "feature" if precondition else "t", "unit" if precondition else "none", sigma_data=0.5),
                process,
            )
        except dc.IncompatibleError:  # eps and score of a process that ends in pure noise
            continue
        torch.testing.assert_close(model(X, t).mean, DATA.mean(X, at), rtol=0, atol=1e-10)
        for time in (t, torch.full((5,), t, dtype=F64)):
            found = log_density(model, X, time)
            torch.testing.assert_close(found - found[0], want - want[0], rtol=0, atol=1e-10)


@pytest.mark.item("1.05", "3.03")
@pytest.mark.parametrize("form", ["squared", "inner"])
def test_a_linear_network_is_the_energy_of_a_gaussian(form):
    """f = k y makes E = (1 - k)^2 |y|^2 / 2 or k |y|^2; with k chosen, -grad E and the density are those of N(0, V): 1e-12."""
    process, t, v = ReferenceVE(), 0.5, 1.7
    at = process.coeffs(torch.tensor(t, dtype=F64))
    slope = float(at.sigma / v)  # eps = sigma x / V
    k = 1 - math.sqrt(slope) if form == "squared" else slope / 2

    class Scaled(torch.nn.Module):
        def forward(self, y, t, **cond):
            return k * y

    @dc.component
    class Linear(dc.Network):
        """k y."""

        def build(self, event, cond, outputs=None):
            return Scaled()

    model = dc.Denoiser(Energy(net=Linear(), form=form).build(tuple(X.shape[1:]), {}), "eps", process)
    torch.testing.assert_close(model(X, t).score, -X / v, rtol=0, atol=1e-12)
    normal = torch.distributions.Normal(torch.zeros((), dtype=F64), math.sqrt(v)).log_prob(X).sum(1)
    found = log_density(model, X, t)
    torch.testing.assert_close(found - found[0], normal - normal[0], rtol=0, atol=1e-12)


@pytest.mark.item("3.02")
@pytest.mark.parametrize("prediction", ["eps", "edm", "v"])
def test_its_slope_is_the_score_of_a_network(prediction):
    """grad log p_t by automatic differentiation, 1e-10, under a preconditioned network of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Energy(net=Perceptron(width=24), form="inner").build((3,), {}).double()
    model, x = (
        dc.Denoiser(net, dc.Reading(prediction, "feature", "unit", sigma_data=0.6), ReferenceVP()),
        X.clone().requires_grad_(),
    )
    (slope,) = torch.autograd.grad(log_density(model, x, 0.3).sum(), x)
    torch.testing.assert_close(slope, model(X, 0.3).score, rtol=0, atol=1e-10)


def exact(n=4000, **fields):
    """An evaluation of the exact energy of N(M, D^2) at the level of `fields`, on n of its samples."""
    process, metric = ReferenceVP(), Outliers(n=n, **fields)
    t = float(process.t_of_lam(torch.tensor(-math.log(metric.level), dtype=F64)))
    field = dc.Field(dc.Denoiser(Quadratic(process, "eps", t, 1.0), "eps", process))
    real, made = (DATA.sample(n, dc.Draw(seed, range(n), block=n))[:, :1].float() for seed in (1, 2))
    return metric, dc.Evaluation(samples=made, reference=real, field=field)


@pytest.mark.item("1.05")
@pytest.mark.parametrize("level", [0.2, 1.0])
def test_the_area_for_a_gaussian(level):
    """x ~ N(a m, V) is likelier than -x ~ N(-a m, V): P((x - a m)^2 < (x' - a m)^2) by quadrature, one entry (4.5 s.e.); .5 for
    samples of the data itself, and for entries exchanged among samples of one entry."""
    metric, ev = exact(level=level)
    found = metric.measure(ev)
    gap = 2 * M / math.sqrt(D**2 + level**2)  # 2 a m / sqrt(V), both over a
    z = torch.linspace(-9, 9, 20_001, dtype=F64)
    normal = torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0)
    inside = normal.cdf(gap + z.abs()) - normal.cdf(gap - z.abs())
    want = 1 - float(torch.trapezoid(inside * normal.log_prob(z).exp(), z))
    for name, area in (("inverted", want), ("samples", 0.5), ("independent", 0.5)):
        assert abs(found[f"auroc-{name}"].value - area) < 4.5 * math.sqrt(1 / 6 / 4000), name
    assert want > 0.6


def test_independent_entries_keep_their_own_distribution_only():
    """Two equal entries, mixed: the same values each, correlation 0 within 4.5 / sqrt(n)."""
    x = torch.linspace(-1, 1, 2000)[:, None].expand(2000, 2)
    mixed = Outliers()._independent(x)
    assert torch.equal(mixed.sort(0).values, x)
    assert abs(float(mixed.T.corrcoef()[0, 1])) < 4.5 / 2000**0.5


def test_the_area_counts_pairs():
    assert auroc(torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0])) == 3.5 / 4


def test_the_spread_of_an_area_is_that_of_four_blocks():
    real, other = torch.tensor([1.0, 1.0, 3.0, 3.0]), torch.tensor([0.0, 2.0, 2.0, 4.0])
    found = _measured(real, other)
    assert (found.value, found.spread) == (0.5, pytest.approx(3**-0.5))


def test_another_data_set():
    """A source far away is always told; one of another shape is refused."""
    registry = dc.Registry.load()
    metric, ev = exact(64, other=registry.make("data", "finite-set", points=((9.0,), (-9.0,))))
    assert metric.measure(ev)["auroc-other"].value == 1.0
    metric, ev = exact(64, other=registry.make("data", "two-moons"))
    with pytest.raises(dc.DataError, match=r"shape \(2,\), the data has \(1,\)"):
        metric.measure(ev)


def test_refusals():
    metric, ev = exact(64)
    plain = dc.Field(dc.Denoiser(lambda x, t: x, "eps", ReferenceVP()))
    with pytest.raises(dc.IncompatibleError, match="needs a network that is an energy"):
        metric.measure(dc.Evaluation(samples=ev.samples, reference=ev.reference, field=plain))
    with pytest.raises(dc.DataError, match="outliers measures a field"):
        metric.measure(dc.Evaluation(samples=ev.samples, reference=ev.reference))
    with pytest.raises(dc.DataError, match="at least 4"):
        metric.measure(dc.Evaluation(samples=ev.samples[:3], reference=ev.reference, field=ev.field))
    with pytest.raises(dc.IncompatibleError, match="never has the 'level' 1000000"):
        Outliers(level=1e6).measure(ev)

"""Langevin sampling: stationary laws in closed form, and what annealing is for."""

import math

import pytest
import torch
from diffcore_energy.annealed import AnnealedLangevin
from diffcore_energy.levels import Ladder, LadderLaw, ladder
from diffcore_energy.ncsn import NCSN
from diffcore_energy.ula import ULA

import diffcore as dc
from diffcore.testing import Gaussian, Mixture, ReferenceFlow, ReferenceVE


def down(*times):
    return torch.tensor(times, dtype=torch.float64)


@pytest.mark.item("3.04")
def test_the_stationary_variance_of_ula():
    """3.04: V / (1 - eta / (2 V)) = .5556 at V = .5, eta = .1, within 4 s.e. of 65536 chains; the start has V itself."""
    level, process = 0.5, ReferenceVE()
    data = Gaussian(0.3, 0.5, shape=(4096,))
    x = process.corrupt(data.sample(16), torch.full((16,), level, dtype=torch.float64), dc.Draw(3, range(16))).xt
    solver = ULA(eta=0.1, level=level)
    y = dc.sample(data.field(process), solver, x, grid=torch.linspace(1, 0.5, 61).double(), seed=2).x
    error = (2 / y.numel()) ** 0.5
    assert abs(float(y.var()) / (0.5 / 0.9) - 1) < 4 * error < 0.03
    assert abs(float(y.mean()) - 0.3) < 4 * 0.75 / y.numel() ** 0.5


def test_a_run_of_ula_to_clean_data_ends_with_the_posterior_mean():
    process, data = ReferenceVE(), Gaussian(0.3, 0.5, shape=(4,))
    x, solver = torch.linspace(-1, 1, 8).double().reshape(2, 4), ULA(eta=0.01, level=0.5)
    args = {"seed": 2, "solver": solver, "x": x}
    stay = dc.sample(data.field(process), grid=down(2, 1, 0.5), **args).x
    done = dc.sample(data.field(process), grid=down(2, 1, 0.0), **args)
    assert torch.allclose(done.x, data.mean(stay, process.coeffs(torch.tensor(0.5).double())), rtol=0, atol=1e-12)
    assert done.nfe == 3


def last(field, solver, x, draw):
    """The end of a run with the noise of a whole batch at once."""
    *_, (x, *_) = solver.moves(field, x, solver.nodes(field.process), draw)
    return x[:, 0]


@pytest.mark.item("3.15", "R12")
def test_annealing_finds_the_weights_of_far_modes_and_ula_does_not():
    """3.15: weights .2 / .8, modes 8 apart of width .3: mass within .03, moments of each mode; ULA is off by more than .1.

    24 levels: with 12 the mass is biased by .02 to .03 (a level forgets the last one only in many steps). One s.e. is .0063.
    """
    data, draw = Mixture([0.2, 0.8], [[-4.0], [4.0]], [0.3, 0.3]), dc.Draw(4, range(4000), block=4000)
    process = NCSN(levels=24, sigma_min=0.05, sigma_max=16.0)
    field, x = data.field(process), process.prior((1,), draw).double()
    found = last(field, AnnealedLangevin(steps=24, inner=40, size=0.2), x, draw)
    left, right = found[found < 0], found[found > 0]
    assert abs(len(left) / 4000 - 0.2) < 0.03
    for part, mean in ((left, -4.0), (right, 4.0)):
        assert abs(float(part.mean()) - mean) < 4 * 0.3 / len(part) ** 0.5
        assert abs(float(part.std()) / 0.3 - 1) < 4 * (0.5 / len(part)) ** 0.5
    plain = last(field, ULA(steps=960, eta=0.01), x / 4, draw)
    assert abs(float((plain < 0).double().mean()) - 0.2) > 0.1


@pytest.mark.item("3.15", "R12")
def test_the_published_step_size():
    """3.15: eta_l = delta sigma_l^2 / sigma_1^2 with delta = epsilon / 2 = 1e-5 is size = .1 at sigma_1 = .01."""
    process = NCSN(levels=10, sigma_min=0.01, sigma_max=1.0)
    plan = AnnealedLangevin(inner=1).plan(process, process.default_grid(10, 10.0))
    sigma = 0.01 * 100 ** (torch.arange(9, -1, -1).double() / 9)
    assert torch.allclose(plan.noise**2 / 2, 1e-5 * sigma**2 / 0.01**2, rtol=1e-10, atol=0)
    assert [len(times) for times in plan.asks] == [1] * 9 + [2]


@pytest.mark.item("3.15")
def test_one_level_has_the_variance_of_its_steps():
    """n steps of eta at one level: V <- (1 - eta / V_0)^2 V + 2 eta, then alpha_s / alpha_t, on the straight path (4 s.e.)."""
    process, data, inner, size = ReferenceFlow(), Gaussian(0.0, 0.5, shape=(4096,)), 5, 0.5
    x = 2 * torch.randn(8, 4096, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = dc.sample(data.field(process), AnnealedLangevin(inner=inner, size=size), x, grid=down(0.6, 0.4), seed=3).x
    spread, v0, eta = 4.0, 0.4**2 * 0.25 + 0.36, size * 0.36
    for _ in range(inner):
        spread = (1 - eta / v0) ** 2 * spread + 2 * eta
    assert abs(float(y.var()) / (spread * 1.5**2) - 1) < 4 * (2 / y.numel()) ** 0.5


@pytest.mark.item("3.14", "3.15")
def test_the_ladder_is_geometric():
    process = NCSN(levels=7, sigma_min=0.02, sigma_max=5.0)
    assert process.default_grid(7, 7.0).tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert torch.allclose(Ladder().nodes(process, 7, 7.0), process.default_grid(7, 7.0), rtol=0, atol=1e-12)
    sigma = process.coeffs(process.default_grid(7, 7.0)).sigma
    assert torch.allclose(sigma[1:-1] / sigma[:-2], torch.full((6,), 250 ** (-1 / 6)).double())
    assert sigma[[0, 6, 7]].tolist() == pytest.approx([5.0, 0.02, 0.0])
    times = ladder(ReferenceVE(), 5, 10.0)
    assert torch.allclose(times, down(10, 10**0.25, 10**-0.5, 10**-1.25, 0.01), rtol=1e-12, atol=0)


@pytest.mark.item("3.14")
def test_the_law_of_the_ladder_is_uniform_over_its_levels():
    """Each of 7 levels with frequency 1 / 7 (4 s.e. of 7000)."""
    process = NCSN(levels=7)
    t = LadderLaw(levels=7)(process, dc.Draw(1, range(7000), block=7000))
    values, counts = t.unique(return_counts=True)
    assert torch.allclose(values, torch.arange(1, 8).double(), rtol=0, atol=1e-9)
    assert float((counts - 1000).abs().max()) < 4 * math.sqrt(1000 * 6 / 7)


def test_refusals():
    data = Gaussian(0.0, 0.5, shape=(2,))
    with pytest.raises(dc.IncompatibleError, match="level"):
        dc.sample(data.field(ReferenceVE()), ULA(), torch.zeros(1, 2), grid=down(1, 0.5))
    with pytest.raises(dc.SpecError, match="no room"):
        Ladder().nodes(NCSN(), 4, 0.5)
    with pytest.raises(dc.SpecError, match="no room"):
        Ladder().nodes(ReferenceVE(), 4, ReferenceVE().min_time)
    for least in (1.0, 2.0):
        with pytest.raises(dc.SpecError, match="sigma_max"):
            NCSN(sigma_min=least)

"""The ends that belong to an interval: levels that are churned, entries that rest, steps as short as rounding."""

import numpy as np
import pytest
import torch
from diffcore_solvers.ddim import DDIM
from diffcore_solvers.edm import EDMHeun
from diffcore_solvers.levels import times_of_levels

import diffcore as dc
from diffcore.testing import ReferenceVE, ReferenceVP, golden_mixture


def test_noise_is_added_at_both_ends_of_the_churned_levels_and_not_beyond():
    """Algorithm 2 of Karras et al. 2022: S_min <= sigma <= S_max; added sigma sqrt((1 + gamma)^2 - 1), gamma = 1 / 4."""
    levels = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    noise = EDMHeun(s_churn=1.0, s_min=2.0, s_max=4.0, s_noise=1.0).plan(ReferenceVE(), levels).noise
    assert noise.tolist() == pytest.approx([0.0, 4 * 0.75, 2 * 0.75, 0.0])


def test_entries_at_rest_get_no_noise():
    grid = torch.tensor([[4.0, 2.0], [2.0, 2.0], [1.0, 2.0]], dtype=torch.float64)
    noise = EDMHeun(s_churn=1.0).plan(ReferenceVE(), grid).noise
    assert bool((noise[:, 0] > 0).all())
    assert noise[:, 1].tolist() == [0.0, 0.0]


def test_noise_as_small_as_rounding_is_a_number():
    """(sigma^ / alpha^)^2 - rho^2 may come out below 0."""
    times = [0.9]
    for _ in range(64):
        times.append(float(np.nextafter(times[-1], 0)))
    noise = EDMHeun(s_churn=1e-13).plan(ReferenceVP(), torch.tensor(times, dtype=torch.float64)).noise
    assert bool(noise.isfinite().all())
    assert float(noise.max()) < 1e-5


def test_one_level_needs_no_room_and_two_do():
    """Bounds that meet leave one level: both steps beside it are jumps."""

    def made(steps):
        return times_of_levels(ReferenceVP(), steps, (1.0, 0.0), (1.0, 1.0), lambda a, b, n: torch.linspace(a, b, n).double())

    nodes = made(2)
    assert float(ReferenceVP().coeffs(nodes[1]).lam) == pytest.approx(1.0)
    assert nodes[[0, 2]].tolist() == [1.0, 0.0]
    with pytest.raises(dc.SpecError, match="no room for 2 times"):
        made(3)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_carries_data_to_noise_where_it_draws_none(eta):
    x, field = torch.ones(2, 1).double(), golden_mixture().field(ReferenceVP())
    if eta == 0:
        there = dc.sample(field, DDIM(eta=eta), x, grid=torch.linspace(0.3, 0.6, 400).double()).x
        want = golden_mixture().flow(ReferenceVP(), x, 0.3, 0.6)
        torch.testing.assert_close(there, want, rtol=0.01, atol=0)
    else:
        with pytest.raises(dc.SpecError, match="must fall"):
            dc.sample(field, DDIM(eta=eta), x, grid=[0.3, 0.6])

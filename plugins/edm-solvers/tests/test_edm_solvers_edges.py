"""The ends that belong to an interval: levels that are churned, samples that rest, the steps that are allowed."""

import numpy as np
import pytest
import torch
from diffcore_edm_solvers.adaptive import Adaptive
from diffcore_edm_solvers.control import GROW, SHRINK, Tolerance
from diffcore_edm_solvers.edm_stochastic import EDMStochastic

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture

VP, FLOW, VE, GOLDEN = ReferenceVP(), ReferenceFlow(), ReferenceVE(), golden_mixture()
X = torch.linspace(-1.5, 1.7, 5, dtype=torch.float64)[:, None]


def test_noise_is_added_at_both_ends_of_the_churned_levels_and_not_beyond():
    """Algorithm 2 of Karras et al. 2022: S_min <= sigma <= S_max; added sigma sqrt((1 + gamma)^2 - 1), gamma = 1 / 4."""
    levels = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    noise = EDMStochastic(s_churn=1.0, s_min=2.0, s_max=4.0, s_noise=1.0).plan(VE, levels).noise
    assert noise.tolist() == pytest.approx([0.0, 4 * 0.75, 2 * 0.75, 0.0])


def test_entries_at_rest_get_no_noise():
    grid = torch.stack([torch.tensor([4.0, 2.0, 1.0]), torch.full((3,), 2.0)], 1).double()
    noise = EDMStochastic(s_churn=1.0).plan(VE, grid).noise
    assert bool((noise[:, 0] > 0).all())
    assert noise[:, 1].tolist() == [0.0, 0.0]


def test_noise_as_small_as_rounding_is_a_number():
    """(sigma^ / alpha^)^2 - rho^2 may come out below 0."""
    times = [0.9]
    for _ in range(64):
        times.append(float(np.nextafter(times[-1], 0)))
    noise = EDMStochastic(s_churn=1e-13).plan(VP, torch.tensor(times, dtype=torch.float64)).noise
    assert bool(noise.isfinite().all())
    assert float(noise.max()) < 1e-5


def test_a_sample_that_rests_at_clean_data_does_not_rise_from_it():
    grid = torch.tensor([[0.5, 0.0, 0.3], [0.2, 0.0, 0.3], [0.0, 0.0, 0.3]], dtype=torch.float64)
    found = dc.sample(GOLDEN.field(FLOW), Adaptive(rtol=1e-6, atol=1e-6), X[:3], grid=grid).x
    assert torch.equal(found[1:], X[1:3])
    alone = dc.sample(GOLDEN.field(FLOW), Adaptive(rtol=1e-6, atol=1e-6), X[:1], grid=grid[:, 0]).x
    assert float((found[0] - alone[0]).abs().max()) < 1e-10


def test_as_many_steps_as_are_allowed_are_taken():
    """A run of n attempts arrives with max_steps = n, and not with n - 1."""
    grid = [0.5, 0.01]
    own = dc.sample(GOLDEN.field(VP), Adaptive(), X, grid=grid, keep_frames=True).frames[-1].own
    attempts = int((own.accepted + own.rejected).max())
    assert attempts > 3
    dc.sample(GOLDEN.field(VP), Adaptive(max_steps=attempts), X, grid=grid)
    with pytest.raises(dc.NumericsError, match=f"not arrived after max_steps = {attempts - 1}"):
        dc.sample(GOLDEN.field(VP), Adaptive(max_steps=attempts - 1), X, grid=grid)


def test_a_step_changes_by_no_more_than_its_factors():
    """After a step that went well by GROW at most, after a rejected one by SHRINK at most, and never up."""
    tolerance = Tolerance(rtol=1e-3, atol=1e-3, k=2)
    err, before = torch.tensor([1e-4, 1.0, 1e9, 1.0]).double(), torch.tensor([1.0, 1e-9, 1.0, 1.0]).double()
    factors = tolerance.factor(err, before, torch.tensor([True, True, False, False]))
    assert factors.tolist() == pytest.approx([GROW, SHRINK, SHRINK, 0.9])
    assert tolerance.factor(torch.tensor([1e-3]).double(), before[:1], torch.tensor([False])).tolist() == [1.0]


@pytest.mark.parametrize("velocity", [0.0, 0.7])
def test_from_zero_and_with_a_slope_that_never_changes(velocity):
    """x_s = x_t + (s - t) v, exactly, in few steps: no length is 0 or infinite, and steps without error keep growing."""
    field = dc.Field(dc.Denoiser(lambda x, t: torch.full_like(x, velocity), "velocity", FLOW))
    x = torch.tensor([[0.0], [0.0], [2.0]], dtype=torch.float64)
    found = dc.sample(field, Adaptive(variable="t"), x, grid=[0.9, 0.1], keep_frames=True)
    torch.testing.assert_close(found.x, x - 0.8 * velocity, rtol=1e-12, atol=1e-12)
    own = found.frames[-1].own
    assert int(own.rejected.max()) == 0
    assert int(own.accepted.max()) <= 20

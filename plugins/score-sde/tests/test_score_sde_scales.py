"""Reductions where several entries and a scale other than 1 tell them apart, and times of levels beyond both ends."""

import itertools
import math

import numpy as np
import pytest
import torch
from diffcore_score_sde.round_trip import RoundTrip
from diffcore_score_sde.vdm_loss import VDMLoss
from diffcore_score_sde.vdm_process import VDM

import diffcore as dc
from diffcore.testing import FiniteSet, Gaussian, ReferenceFlow, ReferenceVE


@pytest.mark.parametrize("entries", [1, 2, 3])
def test_the_bound_of_independent_entries_is_that_of_one(entries):
    """Uniform over 3 levels in every entry: log2(3) bits per dimension, where the noise makes the decoder pay most."""
    data = FiniteSet([list(point) for point in itertools.product([-1.0, 0.0, 1.0], repeat=entries)])
    process, found = ReferenceFlow(), []
    model, n = dc.Denoiser(data.net(process, "v"), "v", process), 4096
    for seed in range(6):
        x0 = data.sample(n, dc.Draw(seed + 50, range(n), block=n))
        with torch.no_grad():
            found.append(float(VDMLoss(levels=3, cut=0.4)(model, x0, dc.Draw(seed, range(n), block=n)).mean()))
    assert abs(np.mean(found) - math.log2(3)) < 4 * np.std(found, ddof=1) / 6**0.5 + 1e-3


@pytest.mark.item("4.09")
def test_the_size_of_codes_is_in_units_of_the_noise():
    """x_T of N(m, s^2 I) under sigma_T = 10 is m + (x_0 - m) (s^2 + sigma_T^2)^(1/2) / s, to 1 %."""
    data, process = Gaussian([0.2, -0.3], 3.0), ReferenceVE()
    x, sigma = data.sample(400), float(process.coeffs(torch.tensor(process.T).double()).sigma)
    found = RoundTrip(n=240, steps=40).measure(dc.Evaluation(samples=x, reference=x, field=data.field(process)))["code size"]
    mean, stretch = torch.tensor([0.2, -0.3]), ((9 + sigma**2) / 9) ** 0.5  # the flow of a Gaussian is linear
    want = (mean + (x[:240] - mean) * stretch).square().mean() / sigma**2
    assert sigma > 2
    assert found.value == pytest.approx(float(want), rel=1e-2)


@pytest.mark.parametrize("schedule", ["linear", "network"])
def test_levels_beyond_the_schedule_are_at_its_ends(schedule):
    process = VDM(schedule=schedule).build() if schedule == "network" else VDM(schedule=schedule)
    times = process.t_of_lam(torch.tensor([-1e3, -40.0, 40.0, 1e3], dtype=torch.float64))
    assert torch.allclose(times, torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_learned_process_is_measured_without_its_history():
    data, process = Gaussian([0.2, -0.3], 0.5), VDM(schedule="network", learn_ends=True, width=4).build()
    x = data.sample(4)
    found = RoundTrip(n=4, steps=2).measure(dc.Evaluation(samples=x, reference=x, field=data.field(process)))
    assert math.isfinite(found["code size"].value)

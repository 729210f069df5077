"""Moments of prior and noised data, per-pixel times, and the specs of the paths."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from diffcore_paths.cosine import Cosine
from diffcore_paths.edm import EDM
from diffcore_paths.flow import Flow
from diffcore_paths.sub_vp import SubVP
from diffcore_paths.trig import Trig
from diffcore_paths.ve import VE
from diffcore_paths.vp import VP

import diffcore as dc
from diffcore.testing import Gaussian

N = 20_000
DRAW = dc.Draw(11, range(N), block=N)


def assert_normal(x, mean, variance):
    """Mean and variance of N * D values within 4 standard errors."""
    size = x.numel()
    assert abs(float(x.double().mean()) - mean) < 4 * (variance / size) ** 0.5
    assert abs(float(x.double().var()) / variance - 1) < 4 * (2 / size) ** 0.5


def test_prior_is_the_noise_at_the_end(case):
    _, sigma = case.exact(torch.tensor(case.process.T, dtype=torch.float64))
    assert_normal(case.process.prior((3,), DRAW), 0.0, float(sigma) ** 2)


@pytest.mark.parametrize("fraction", [1.0, 0.7, 0.5])
def test_noised_data_have_the_moments_of_the_path(case, fraction):
    # what a run that starts at this time must start from: N(alpha m, alpha^2 d^2 + sigma^2)
    m, d, t = 0.8, 0.5, torch.full((N,), fraction * case.process.T, dtype=torch.float64)
    x0 = (m + d * DRAW.fold(1).normal((3,))).float()
    alpha, sigma = (float(v) for v in case.exact(t[0]))
    found = case.process.corrupt(x0, t, DRAW.fold(2))
    assert_normal(found.xt, alpha * m, alpha**2 * d**2 + sigma**2)
    torch.testing.assert_close(found.xt, alpha * x0 + sigma * found.eps, rtol=1e-5, atol=1e-5)


def test_float32_data_get_coefficients_rounded_once(case):
    t = torch.linspace(0.001, 0.999, 50) * case.process.T
    at = case.process.corrupt(torch.zeros(50, 1), t, dc.Draw(0, range(50))).at
    for got, exact in zip((at.alpha, at.sigma), case.exact(t.double()), strict=True):
        assert got.dtype == torch.float32
        assert ((got.double() / exact) - 1).abs().max() <= 2**-24 * (1 + 1e-6)


def test_each_pixel_may_have_its_own_time(case):
    process, draw = case.process, dc.Draw(5, range(4))
    x0 = draw.normal((2, 3, 3), torch.float64)
    t = (draw.fold(1).uniform((1, 3, 3)) * 0.9 + 0.05) * process.T
    mixed = process.corrupt(x0, t, draw.fold(2))
    found = Gaussian(0.5, 0.3, shape=(2, 3, 3)).field(process, "velocity").velocity(mixed.xt, t)
    for b, i, j in ((0, 0, 0), (1, 2, 1), (3, 1, 2)):
        time = float(t[b, 0, i, j])
        alpha, sigma = (float(v) for v in case.exact(t[b, 0, i, j]))
        torch.testing.assert_close(mixed.xt[b, :, i, j], alpha * x0[b, :, i, j] + sigma * mixed.eps[b, :, i, j])
        one = Gaussian(0.5, 0.3, shape=(2, 3, 3)).field(process, "velocity").velocity(mixed.xt, time)
        torch.testing.assert_close(found[b, :, i, j], one[b, :, i, j], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VP(beta_min=0.0), "'beta_min' of VP must be > 0; got 0.0"),
        (lambda: SubVP(beta_max=-1.0), "'beta_max' of SubVP must be > 0; got -1.0"),
        (lambda: VP(t_min=1.0), "'t_min' of VP must be < 1; got 1.0"),
        (lambda: VE(sigma_min=2.0, sigma_max=1.0), "'sigma_max' of VE must be > sigma_min = 2.0; got 1.0"),
        (lambda: VE(sigma_min=2.0, sigma_max=2.0), "'sigma_max' of VE must be > sigma_min = 2.0; got 2.0"),
        (lambda: EDM(sigma_max=0.002), "'sigma_max' of EDM must be > t_min = 0.002; got 0.002"),
        (lambda: EDM(sigma_max=0.001), "'sigma_max' of EDM must be > t_min = 0.002; got 0.001"),
        (lambda: EDM(rho=0.0), "'rho' of EDM must be > 0; got 0.0"),
        (lambda: Flow(t_min=-0.1), "'t_min' of Flow must be >= 0; got -0.1"),
        (lambda: Trig(t_min=1.0), "'t_min' of Trig must be < 1; got 1.0"),
        (lambda: Cosine(s=0.0), "'s' of Cosine must be > 0; got 0.0"),
        (lambda: Cosine(alpha_end=1.0), "'alpha_end' of Cosine must be < 1; got 1.0"),
    ],
)
def test_a_wrong_field_is_named(make, message):
    with pytest.raises(dc.SpecError) as error:
        make()
    assert str(error.value) == message


def test_listing_the_paths_does_not_import_torch():
    code = "import sys, diffcore_paths as p; n = len(list(p.diffcore_processes())); print(n, 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["10", "False"]

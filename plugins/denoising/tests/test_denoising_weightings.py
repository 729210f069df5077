"""Every weighting against its formula, and D2: weight * c_out^2 = 1."""

from __future__ import annotations

import pytest
import torch
from diffcore_denoising.weightings import EDM, SNR, Constant, MinSNR, Sigmoid

import diffcore as dc

IN_X0 = {  # the weight of the squared error of x_0, as published
    "snr": (SNR(), lambda snr: snr),
    "min-snr": (MinSNR(gamma=3.0), lambda snr: snr.clamp(max=3.0)),
    "edm": (EDM(sigma_data=0.7), lambda snr: (1 / snr + 0.7**2) / (1 / snr * 0.7**2)),
    "sigmoid": (Sigmoid(bias=-0.5), lambda snr: snr / (1 + snr * torch.tensor(0.5).double().exp())),
}


def points(process):
    lam = torch.linspace(4.0, -2.0, 25, dtype=torch.float64)
    return process.coeffs(process.t_of_lam(lam))


def error_of(name, at, e, sigma_data):
    """The error of a target where the error of x_0 is e and x_t is right, so that the error of eps is -alpha e / sigma."""
    x0, eps = e, -at.alpha / at.sigma * e
    norm = (at.alpha**2 * sigma_data**2 + at.sigma**2).sqrt()
    return {
        "x0": x0,
        "eps": eps,
        "score": -eps / at.sigma,
        "v": (at.alpha * eps - at.sigma * x0) / (at.alpha**2 + at.sigma**2).sqrt(),
        "velocity": at.dalpha * x0 + at.dsigma * eps,
        "edm": (at.sigma * x0 - at.alpha * sigma_data**2 * eps) / (sigma_data * norm),
    }[name]


@pytest.mark.item("6.09")
@pytest.mark.parametrize("target", ["x0", "eps", "score", "v", "velocity", "edm"])
@pytest.mark.parametrize("name", list(IN_X0))
def test_the_weighted_error_does_not_depend_on_the_target(process, name, target):
    weighting, in_x0 = IN_X0[name]
    at, sigma_data = points(process), 0.7
    e = torch.linspace(-1, 2, 25, dtype=torch.float64) + 0.01
    weight = weighting(at, dc.row(target, at, sigma_data))
    assert weight.shape == at.t.shape
    expected = in_x0((at.alpha / at.sigma) ** 2) * e**2
    torch.testing.assert_close(weight * error_of(target, at, e, sigma_data) ** 2, expected, rtol=1e-10, atol=0)


@pytest.mark.item("6.09")
@pytest.mark.parametrize("target", ["x0", "eps", "v"])
def test_constant_is_one_in_every_target(process, target):
    at = points(process)
    assert Constant()(at, dc.row(target, at)).tolist() == [1.0] * 25


@pytest.mark.item("6.09")
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_published_forms_of_min_snr(processes, gamma):
    at = points(processes["vp"])
    ratio = at.alpha**2 / at.sigma**2
    cut = torch.minimum(ratio, torch.full_like(ratio, gamma))
    for target, expected in {"x0": cut, "eps": cut / ratio, "v": cut / (ratio + 1)}.items():
        torch.testing.assert_close(MinSNR(gamma=gamma)(at, dc.row(target, at)), expected, rtol=1e-10, atol=0)


@pytest.mark.item("D2")
def test_edm_weight_cancels_the_output_scaling(process):
    at, sd = points(process), 0.3
    c_out = at.sigma * sd / (at.alpha**2 * sd**2 + at.sigma**2).sqrt()
    weighting = EDM(sigma_data=sd)
    torch.testing.assert_close(weighting(at, (1.0, 0.0)) * c_out**2, torch.ones(25).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(weighting(at, dc.row("edm", at, sd)), torch.ones(25).double(), rtol=1e-10, atol=0)


@pytest.mark.item("6.09")
def test_edm_is_the_published_weight_where_alpha_is_one(processes):
    at = points(processes["levels"])
    expected = (at.t**2 + 0.25) / (at.t * 0.5) ** 2
    torch.testing.assert_close(EDM()(at, (1.0, 0.0)), expected, rtol=1e-12, atol=0)


@pytest.mark.item("6.09")
def test_sigmoid_falls_with_the_snr_and_is_half_at_its_bias(processes):
    process = processes["vp"]
    weight = Sigmoid(bias=1.0)(points(process), (0.0, 1.0))
    assert bool((weight.diff() > 0).all())  # the points go from little to much noise
    middle = process.coeffs(process.t_of_lam(torch.tensor([0.5])))
    assert Sigmoid(bias=1.0)(middle, (0.0, 1.0)).item() == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("make", [lambda: MinSNR(gamma=0.0), lambda: EDM(sigma_data=-1.0)])
def test_refuses_a_weight_that_is_not_positive(make):
    with pytest.raises(dc.SpecError, match="must be >"):
        make()

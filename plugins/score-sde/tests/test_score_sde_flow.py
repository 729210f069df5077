"""The probability-flow ODE: encoding, exact and estimated likelihood, bits per dimension, against Gaussians and mixtures."""

import math
import statistics
import sys

import pytest
import torch
from diffcore_score_sde.angle import position, times
from diffcore_score_sde.coding import decode, encode
from diffcore_score_sde.dequantise import dequantised, offset, spacing
from diffcore_score_sde.evidence import mean_of
from diffcore_score_sde.flow import integrate
from diffcore_score_sde.likelihood import log_likelihood, log_prior, probes_like
from diffcore_score_sde.pf_ode_likelihood import PFODELikelihood
from diffcore_score_sde.round_trip import RoundTrip
from scipy import stats

import diffcore as dc
from diffcore.testing import Gaussian, Mixture, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

VP, VE, FLOW = ReferenceVP(), ReferenceVE(), ReferenceFlow()
ALL = [VP, VE, FLOW]
PLANE = Mixture([0.3, 0.7], [[-0.8, 0.4], [0.6, -0.2]], [[0.3, 0.5], [0.4, 0.25]])
CUT = 1e-3


def name(value):
    return type(value).__name__


def exact(x):
    return probes_like(x, "exact", 1, dc.Draw(0, range(len(x))))


def model_log_p(process, x, steps=40, data=PLANE, **options):
    """log p of the exact field, with the exact marginal at T instead of the prior: what the flow alone gets wrong is left."""
    got, code = log_likelihood(data.field(process), x, *exact(x), steps=steps, cut=CUT, **options)
    return got - log_prior(process, code) + data.log_prob(code, instant(process, process.T))


# --- the clock and the integration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ALL, ids=name)
def test_the_clock_is_even_in_the_logarithm_of_the_angle(process):
    t = times(process, CUT * process.T, process.T, torch.linspace(0, 1, 9))
    r = torch.stack([position(process, float(v)) for v in t])
    assert float((r.diff() - r.diff().mean()).abs().max()) < 1e-6
    assert float(t[0]) == CUT * process.T
    assert float(t[-1]) == process.T
    beyond = times(process, CUT * process.T, process.T, torch.tensor([-1e-16, -0.2, 1 + 1e-15, 1.3]).double())
    assert beyond.tolist() == [CUT * process.T] * 2 + [process.T] * 2


@pytest.mark.parametrize("process", ALL, ids=name)
def test_integration_has_order_four_either_way(process):
    """Against the quantile transport of the one-dimensional mixture, from data to noise and back."""
    data, x = golden_mixture(), torch.linspace(-2, 1.8, 9).double()[:, None]
    field, ends = data.field(process), (CUT * process.T, process.T)
    code = data.flow(process, x, *ends)
    for start, want, (a, b) in ((x, code, ends), (code, x, ends[::-1])):
        errors = []
        for n in (24, 48, 96):
            got = integrate(process, lambda at, y: (field.velocity(y[0], at),), (start,), a, b, n, None)[0]
            errors.append(float((got - want).abs().max() / want.abs().max()))
        assert errors[-1] < 1e-4
        assert 3.5 < math.log2(errors[1] / errors[2]) < 4.8


@pytest.mark.item("4.09")
@pytest.mark.parametrize("process", ALL, ids=name)
def test_the_code_of_gaussian_data_is_the_data_standardised(process):
    """(x_T - alpha_T m) / sqrt(V_T) = (x_0 - m) / d up to the variance at the cut."""
    data = Gaussian([0.5, -1.0], [0.6, 1.2])
    x, first, last = data.sample(6), instant(process, CUT * process.T), instant(process, process.T)
    scales = [(c.alpha**2 * data.std**2 + c.sigma**2) ** 0.5 for c in (first, last)]
    want = (x - first.alpha * data.m) / scales[0]
    code = encode(data.field(process), x, steps=120, cut=CUT)
    assert float(((code - last.alpha * data.m) / scales[1] - want).abs().max()) < 1e-6


@pytest.mark.item("4.09")
@pytest.mark.parametrize("process", ALL, ids=name)
def test_encoding_and_decoding_returns_the_data(process):
    x, field = PLANE.sample(16), PLANE.field(process)
    code = encode(field, x, tolerance=1e-7, cut=CUT)
    assert float((decode(field, code, tolerance=1e-7, cut=CUT) - x).abs().max()) < 1e-4
    errors = []
    for n in (20, 40, 80):
        code = encode(field, x, steps=n, cut=CUT)
        errors.append(float((decode(field, code, steps=n, cut=CUT) - x).abs().max()))
    assert errors[-1] < 1e-4
    assert errors[0] / errors[-1] > 100


@pytest.mark.item("4.12")
def test_vp_and_ve_have_one_flow():
    """x_VE = x_VP / alpha at sigma_VE = sigma_VP / alpha_VP."""
    x = PLANE.sample(8)
    ends = [0.2, 0.5]
    levels = [float(instant(VP, t).sigma / instant(VP, t).alpha) for t in ends]
    field, other = PLANE.field(VP), PLANE.field(VE)
    start = x * instant(VP, ends[0]).alpha
    one = integrate(VP, lambda at, y: (field.velocity(y[0], at),), (start,), *ends, 60, None)[0] / instant(VP, ends[1]).alpha
    two = integrate(VE, lambda at, y: (other.velocity(y[0], at),), (x,), *levels, 60, None)[0]
    assert float((one - two).abs().max()) < 1e-7


# --- likelihood -------------------------------------------------------------------------------------------------------


@pytest.mark.item("4.10", "R13")
@pytest.mark.parametrize("process", ALL, ids=name)
def test_the_likelihood_of_the_mixture_is_its_density(process):
    """With the exact trace, to 2e-5 nats in 80 steps and by order four; to 1e-5 by the adaptive method at tolerance 1e-7."""
    x = PLANE.sample(6)
    want = PLANE.log_prob(x, instant(process, CUT * process.T))
    errors = [float((model_log_p(process, x, n) - want).abs().max()) for n in (20, 40, 80)]
    assert errors[-1] < 2e-5
    assert math.log2(errors[1] / errors[2]) > 3.5
    assert float((model_log_p(process, x, tolerance=1e-7) - want).abs().max()) < 1e-5


def test_the_prior_is_that_of_sampling():
    """Flow: alpha_T = 0, so the model's density is the data's, no correction; VP: the prior's own Gaussian instead of p_T."""
    x = PLANE.sample(12)
    got, code = log_likelihood(PLANE.field(FLOW), x, *exact(x), steps=160, cut=CUT)
    assert float((got - PLANE.log_prob(x, instant(FLOW, CUT))).abs().max()) < 1e-5
    for process in ALL:
        sigma = float(instant(process, process.T).sigma)
        want = torch.distributions.Normal(torch.zeros(()).double(), sigma).log_prob(code).sum(1)
        assert float((log_prior(process, code) - want).abs().max()) < 1e-10


@pytest.mark.item("4.10", "R13")
def test_the_sign_of_the_integral():
    """N(0, d^2) under VE, in closed form: log p_0 = log p_T(x_T) + int div v, div v = D sigma sigma' / (d^2 + sigma^2)."""
    data, x = Gaussian(0.0, 0.5, shape=(3,)), torch.ones(1, 3).double()
    got, code = log_likelihood(data.field(VE), x, *exact(x), steps=160, cut=CUT)
    first, last = 0.25 + (CUT * 10) ** 2, 0.25 + 100
    grown = 3 * 0.5 * math.log(last / first)
    assert grown > 0
    assert abs(float(got - log_prior(VE, code)) - grown) < 1e-7


@pytest.mark.item("4.10")
@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_probes_are_unbiased(kind):
    """The mean over 1200 probes of one trajectory is the exact value within 4 standard errors; one entry needs no luck."""
    count, x = 1200, PLANE.sample(1)
    field = PLANE.field(VP)
    want = float(log_likelihood(field, x, *exact(x), steps=12, cut=CUT)[0])
    many = x.expand(count, 2).clone()
    drawn, weight = probes_like(many, kind, 1, dc.Draw(3, range(count)))
    got = log_likelihood(field, many, drawn, weight, steps=12, cut=CUT)[0]
    error = float(got.std()) / count**0.5
    assert error > 0
    assert abs(float(got.mean()) - want) < 4 * error
    line = golden_mixture()
    y = line.sample(4)
    one, w = probes_like(y, "rademacher", 1, dc.Draw(3, range(4)))
    gap = log_likelihood(line.field(VP), y, one, w, steps=12)[0] - log_likelihood(line.field(VP), y, *exact(y), steps=12)[0]
    assert float(gap.abs().max()) < 1e-12


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_probes_have_unit_covariance(kind):
    drawn, weight = probes_like(torch.zeros(4000, 3).double(), kind, 2, dc.Draw(3, range(4000)))
    moment = torch.einsum("kbi,kbj->ij", drawn, drawn) * weight / 4000
    assert float((moment - torch.eye(3)).abs().max()) < 4.5 * (2 / 8000) ** 0.5
    assert float(drawn.mean(0).mean(0).abs().max()) < 4.5 / 8000**0.5


def test_rademacher_probes_have_less_variance_and_several_have_less_still():
    x = PLANE.sample(1).expand(600, 2).clone()
    spread = {}
    for kind, count in (("gaussian", 1), ("rademacher", 1), ("rademacher", 4)):
        drawn, weight = probes_like(x, kind, count, dc.Draw(4, range(600)))
        spread[kind, count] = float(log_likelihood(PLANE.field(VP), x, drawn, weight, steps=8, cut=CUT)[0].var())
    assert spread["rademacher", 1] < 0.7 * spread["gaussian", 1]
    assert 0.18 < spread["rademacher", 4] / spread["rademacher", 1] < 0.34


# --- bits per dimension -----------------------------------------------------------------------------------------------


@pytest.mark.item("4.10")
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_offset_of_the_range(levels):
    """A uniform density over the cells of all levels has log2(levels) bits; 256 levels with ends at -1 and 1 add 6.9944."""
    width = levels * spacing(levels)
    assert abs(math.log2(width) + offset(levels) - math.log2(levels)) < 1e-12
    assert abs(offset(256) - 6.99435) < 1e-5
    x = torch.linspace(-1, 1, levels).double()[None].expand(400, levels)
    y = dequantised(x, levels, dc.Draw(0, range(400)))
    inside = (y - x) / spacing(levels)
    assert -0.5 <= float(inside.min()) < float(inside.max()) < 0.5
    assert abs(float(inside.mean())) < 4.5 / (12 * inside.numel()) ** 0.5


def test_dequantised_bits_bound_the_exact_code_length():
    """Data on 9 levels under an exact Gaussian model: the bound is above -log2 of the cell masses, by less than .02 bits."""
    data, levels, n = Gaussian(0.1, 0.4, shape=(2,)), 9, 512
    place = ((data.sample(n).clamp(-1, 1) + 1) / spacing(levels)).round()
    x = place * spacing(levels) - 1
    cells = stats.norm(0.1, 0.4)
    mass = cells.cdf((x + spacing(levels) / 2).numpy()) - cells.cdf((x - spacing(levels) / 2).numpy())
    exact_bits = float(-torch.as_tensor(mass).log2().mean())
    metric = PFODELikelihood(n=n, levels=levels, divergence="exact", cut=CUT, batch=200, steps=80)
    found = metric.measure(dc.Evaluation(samples=x, reference=x, field=data.field(FLOW)))["bits/dim"]
    assert exact_bits - 3 * found.spread / 2 < found.value < exact_bits + 0.02 + 3 * found.spread / 2
    want = -data.log_prob(dequantised(x, levels, dc.Draw(0, range(n)).fold(1)), instant(FLOW, CUT)) / (2 * math.log(2))
    assert abs(found.value - float(want.mean()) - offset(levels)) < 1e-4


@pytest.mark.item("4.10", "R13")
def test_the_metric_is_the_mean_density_and_does_not_depend_on_the_batch():
    x = PLANE.sample(24)
    ev = dc.Evaluation(samples=x, reference=x, field=PLANE.field(FLOW))
    found = PFODELikelihood(n=24, divergence="exact", cut=CUT).measure(ev)
    want = float(PLANE.log_prob(x, instant(FLOW, CUT)).mean())
    assert abs(found["log p"].value - want) < 1e-3
    assert abs(found["bits/dim"].value + want / (2 * math.log(2))) < 1e-3
    for metric in (PFODELikelihood(n=24, cut=CUT, probes=2, batch=b).measure(ev) for b in (7, 13)):
        assert abs(metric["log p"].value - PFODELikelihood(n=24, cut=CUT, probes=2).measure(ev)["log p"].value) < 1e-9


def test_conditions_follow_their_rows():
    """log p(x | component) of a labelled mixture."""
    x, label = PLANE.sample(30, label=torch.arange(30) % 2), torch.arange(30) % 2
    field = PLANE.field(FLOW, cond={"label": torch.zeros(5).long()})
    ev = dc.Evaluation(samples=x, reference=x, reference_cond={"label": label}, field=field)
    found = PFODELikelihood(n=30, divergence="exact", cut=CUT, batch=8).measure(ev)
    assert abs(found["log p"].value - float(PLANE.log_prob(x, instant(FLOW, CUT), label).mean())) < 1e-3


@pytest.mark.item("4.09")
def test_round_trip_measures_inversion_and_the_size_of_codes():
    data = Gaussian([0.2, -0.3], 0.5)
    x = data.sample(400)
    found = RoundTrip(n=240, steps=80).measure(dc.Evaluation(samples=x, reference=x, field=data.field(FLOW)))
    assert found["round trip"].value < 1e-10
    assert abs(found["code size"].value - 1) < 4.5 * (2 / 800) ** 0.5
    wrong = Gaussian([0.2, -0.3], 0.25)
    found = RoundTrip(n=240, steps=80).measure(dc.Evaluation(samples=x, reference=x, field=wrong.field(FLOW)))
    assert found["code size"].value > 2


def test_the_spread_is_that_of_four_blocks():
    found = mean_of(torch.tensor([0.0, 2.0, 1.0, 3.0, 5.0, 5.0, 7.0, 9.0, 4.0]), "data")
    assert (found.value, found.n) == (4.0, 9)
    assert found.spread == pytest.approx(statistics.stdev([1.0, 2.0, 5.0, 8.0]))


class Coded(dc.Data):
    """Seen by the network through a codec."""

    def encode(self, raw):
        return raw[:, :1]


def test_mistakes_are_one_clear_error(monkeypatch):
    x = PLANE.sample(8)
    ev = dc.Evaluation(samples=x, reference=x, field=PLANE.field(VP))
    with pytest.raises(dc.DataError, match="not on 17 values"):
        PFODELikelihood(levels=17).measure(ev)
    with pytest.raises(dc.DataError, match="has none"):
        PFODELikelihood().measure(dc.Evaluation(samples=x, reference=x))
    coded, unbounded = (dc.Evaluation(samples=x, reference=x, field=PLANE.field(VP), data=d()) for d in (Coded, dc.Data))
    for metric in (PFODELikelihood(), RoundTrip()):
        with pytest.raises(dc.DataError, match="through a codec"):
            metric.measure(coded)
    with pytest.raises(dc.DataError, match="no range, so no levels"):
        PFODELikelihood(levels=17).measure(unbounded)
    with pytest.raises(dc.DataError, match="at least 4"):
        PFODELikelihood().measure(dc.Evaluation(samples=x, reference=x[:2], field=PLANE.field(VP)))
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(dc.IncompatibleError, match=r"diffcore-score-sde\[adaptive\]"):
        PFODELikelihood(tolerance=1e-5).measure(ev)

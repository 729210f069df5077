"""Readings: networks of other people, told their own times and read in their own part and sign, against closed forms."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import attrs
import pytest
import torch
from torch import nn

import diffcore as dc
from diffcore.testing import Gaussian
from diffcore.testing.references import ReferenceFlow, ReferenceVE, ReferenceVP

F64 = torch.float64
REGISTRY = dc.Registry.load()
DATA = Gaussian([0.5, -1.0, 0.3], [0.4, 0.7, 0.2])
X = dc.Draw(1, range(5)).normal((3,), F64)


def quarter(at):
    """log(sigma / alpha) / 4."""
    return (at.sigma / at.alpha).log() / 4


def half(at):
    """Half of the state."""
    return 0.5 * at.alpha / at.alpha


def exact(process, prediction, told, scale=lambda at: 1.0, wrap=lambda out: out, dtype=F64):
    """The exact network in the words of somebody else: it knows time by what it is told, and its input scaled."""
    inner = DATA.net(process, prediction)

    def net(x, time):
        t = told(time.double())
        at = process.coeffs(t)
        return wrap(inner(x / torch.as_tensor(scale(at)).reshape(-1, 1), t).to(dtype))

    return net


def unit(at):
    """1 / sqrt(sigma_data^2 alpha^2 + sigma^2)."""
    return (0.25 * at.alpha**2 + at.sigma**2) ** -0.5


VP, FLOW, VE = ReferenceVP(), ReferenceFlow(), ReferenceVE()
CASES = {
    "thousandths": (VP, dc.Reading("eps", "1000t"), exact(VP, "eps", lambda u: u / 1000)),
    "the other way round": (
        FLOW,
        dc.Reading("velocity", "1-t", output="-"),
        exact(FLOW, "velocity", lambda u: 1 - u, wrap=torch.neg),
    ),
    "karras": (VE, dc.Reading("edm", "c_noise", "unit"), exact(VE, "edm", lambda u: (4 * u).exp(), unit)),
    "noise level": (VE, dc.Reading("x0", "sigma"), exact(VE, "x0", lambda u: u)),
    "log snr": (FLOW, dc.Reading("x0", "log_snr"), exact(FLOW, "x0", lambda u: torch.sigmoid(-u / 2))),
    "a function": (FLOW, dc.Reading("x0", quarter, half), exact(FLOW, "x0", lambda u: torch.sigmoid(4 * u), half)),
    "learned variance": (
        VP,
        dc.Reading("eps", output="first-half"),
        exact(VP, "eps", lambda u: u, wrap=lambda v: torch.cat([v, v + 9], 1)),
    ),
    "an object": (VP, dc.Reading("eps", output="noise"), exact(VP, "eps", lambda u: u, wrap=lambda v: SimpleNamespace(noise=v))),
    "a mapping": (VP, dc.Reading("eps", output="e"), exact(VP, "eps", lambda u: u, wrap=lambda v: {"e": v})),
    "a tuple": (VP, dc.Reading("eps", output=1), exact(VP, "eps", lambda u: u, wrap=lambda v: (v + 9, v))),
}


@pytest.mark.parametrize("name", CASES)
def test_a_network_is_read_in_its_own_words(name):
    """The posterior mean is that of the data at every time, and a run is the run of the exact field."""
    process, reading, net = CASES[name]
    denoiser = dc.Denoiser(net, reading, process)
    for share in (0.2, 0.7):
        t = share * process.T
        torch.testing.assert_close(denoiser(X, t).mean, DATA.denoiser(process)(X, t).mean, rtol=1e-9, atol=1e-9)
    runs = [
        dc.sample(field, REGISTRY.make("solver", "heun"), X, grid=[0.9 * process.T, 0.5 * process.T, 0.1 * process.T]).x
        for field in (dc.Field(denoiser), DATA.field(process, reading.prediction))
    ]
    torch.testing.assert_close(*runs, rtol=1e-9, atol=1e-9)


def test_indices_of_a_table():
    """A network of the 1000 indices of a chain, asked between two of them and at the nearest."""
    chain, seen = REGISTRY.make("process", "ddpm"), []

    def net(x, index):
        seen.append(float(index[0]))
        return x

    for time, wanted in (("index", 249.5), ("index-rounded", 250.0)):
        dc.Denoiser(net, dc.Reading("eps", time), chain)(X, 0.2505)
        assert seen[-1] == pytest.approx(wanted, abs=1e-9)
    with pytest.raises(dc.IncompatibleError, match="time 'index' or input 'none' asks for what ReferenceVP does not have"):
        dc.Denoiser(net, dc.Reading("eps", "index"), VP)


class Table(nn.Module):
    """A network in half precision that looks its time up."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
        self.told = []

    def forward(self, x, t):
        """Notes its time."""
        self.told.append(t)
        return self.weight * x


def test_an_index_is_never_in_half_precision():
    """In bfloat16 the index 999 is 1000; t itself is in the precision of the network."""
    net = Table()
    dc.Denoiser(net, dc.Reading("eps", "index"), REGISTRY.make("process", "ddpm"))(X.float(), 1.0)
    dc.Denoiser(net, "eps", VP)(X.float(), 0.999)
    assert [t.dtype for t in net.told] == [torch.float32, torch.bfloat16]
    assert [round(float(t[0]), 6) for t in net.told] == [999.0, 1.0]


def test_a_reading_is_a_value():
    reading = dc.Reading("v", quarter, half, output=1, sigma_data=0.7)
    assert pickle.loads(pickle.dumps(reading)) == reading == attrs.evolve(reading)
    assert len({reading, attrs.evolve(reading), dc.Reading("v")}) == 2
    assert dc.Denoiser(lambda x, t: x, "v", VP).reading == dc.Reading("v")


def test_v_is_a_rotation_for_any_schedule():
    """(alpha eps - sigma x_0) / sqrt(alpha^2 + sigma^2) is orthogonal to x_t and of its length where both have unit variance."""
    for process in (VP, FLOW, VE):
        at = process.coeffs(torch.tensor([0.1, 0.5, 0.9], dtype=F64) * process.T)
        p, q = dc.row("v", at)
        torch.testing.assert_close(p**2 + q**2, torch.ones(3, dtype=F64), rtol=1e-14, atol=0)
        torch.testing.assert_close(p * at.alpha + q * at.sigma, torch.zeros(3, dtype=F64), rtol=0, atol=1e-14)
        assert bool((q > 0).all())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: dc.Reading("eps", "1000"), r"time is one of t, feature, index, .* got '1000'; did you mean '1000t'\?"),
        (lambda: dc.Reading("eps", lambda at: at.t), "a function f.at. at the top level of a module, which pickles"),
        (lambda: dc.Reading("eps", 3), "time is one of"),
        (lambda: dc.Reading("eps", input="edm"), "input is one of none, unit"),
        (lambda: dc.Reading("eps", output=None), "output is '', '-', 'first-half'"),
        (lambda: dc.Reading("eps", sigma_data=0), "sigma_data must be above 0"),
        (lambda: dc.Reading(None), "prediction is a name"),
        (lambda: dc.Denoiser(lambda x, t: x, 3, VP), "a reading is what the network predicts"),
        (lambda: dc.Denoiser(lambda x, t: x, None, VP), "must be told what the network predicts"),
        (lambda: dc.Denoiser(lambda x, t: x, dc.Reading("velocity", _two), FLOW), "must give one finite number per time"),
        (lambda: dc.Denoiser(lambda x, t: x, dc.Reading("velocity", input=_endless), FLOW), "must give a finite factor"),
    ],
)
def test_what_is_no_reading(made, message):
    with pytest.raises(dc.IncompatibleError, match=message):
        made()


def _two(at):
    return torch.stack([at.t, at.t])


def _endless(at):
    return at.alpha / 0


@pytest.mark.parametrize("output", ["eps", 2])
def test_a_part_that_is_not_there(output):
    with pytest.raises(dc.DataError, match=rf"the network returned tuple, which has no part {output!r}"):
        dc.Denoiser(lambda x, t: (x, x), dc.Reading("eps", output=output), VP)(X, 0.5)

"""Every random choice of the loss has a stream of its own."""

import math

import pytest
import torch
from diffcore_denoising.denoising import Denoising
from diffcore_denoising.time_laws import LogitNormal, LogNormal, Uniform

import diffcore as dc
from diffcore.testing import ReferenceFlow


@dc.component
class Shifting(dc.Coupling):
    """Adds noise of its own, and keeps it."""

    def pair(self, x0, eps, draw, **cond):
        self.seen.append((eps, draw.normal((1,), torch.float64), draw.uniform()))
        return eps


def test_time_noise_coupling_and_dropping_are_independent_draws():
    """Correlations of time, noise, dropped condition and both kinds of draw of a coupling stay within 4.5 s.e. of 0."""
    n, seen = 20000, []

    def net(x, t, label):
        seen.append((t.double(), label.double()))
        return x

    net.null_cond = {"label": 1}
    coupling = Shifting()
    object.__setattr__(coupling, "seen", [])
    model = dc.Denoiser(net, "velocity", ReferenceFlow())
    draw = dc.Draw(0, range(n), block=1000)
    Denoising(drop=0.5, coupling=coupling)(model, torch.zeros(n, 1).double(), draw, label=torch.zeros(n).long())
    (t, label), (eps, normal, uniform) = seen[0], coupling.seen[0]
    found = torch.corrcoef(torch.stack([t, label, eps[:, 0], normal[:, 0], uniform]))
    assert float((found - torch.eye(5)).abs().max()) < 4.5 / math.sqrt(n)


LAWS = [Uniform(), Uniform(over="lam"), LogNormal(), LogNormal(mean=2.0, std=0.3), LogitNormal(), LogitNormal(mean=-3.0)]


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_no_rounding_takes_a_time_beyond_the_ends(law):
    """The least and the largest uniform number give times within [min_time, T], exactly, under every installed affine process."""
    registry = dc.Registry.load()
    u = torch.tensor([0.0, 2.0**-53, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    for entry in registry.list("process"):
        kind = registry.get("process", entry.full_id)
        if "affine" not in kind.provides:
            continue
        process = registry.make("process", entry.full_id, **kind.example)
        try:
            times = law.quantile(process, u).detach()
        except dc.IncompatibleError:
            continue
        assert float(times.min()) >= process.min_time, entry.id
        assert float(times.max()) <= process.T, entry.id
        assert bool((times.diff() >= 0).all() or (times.diff() <= 0).all()), entry.id

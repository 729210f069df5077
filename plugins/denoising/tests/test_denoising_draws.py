"""Every random choice of the loss has a stream of its own."""

import math

import torch
from diffcore_denoising.denoising import Denoising

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

"""Weights at the ends of a process, where the levels leave every table."""

import pytest
import torch
from diffcore_unified.monotone import REACH, Monotone
from diffcore_unified.weightings import P2

import diffcore as dc


@pytest.mark.parametrize("name", ["flow", "cosine"])
@pytest.mark.parametrize(
    "weighting", [P2(), P2(gamma=0.0), Monotone(), Monotone(of=P2(gamma=0.0)), Monotone(mean=-1.2)], ids=repr
)
def test_the_weight_at_pure_noise_is_its_limit(weighting, name, registry):
    """At t = T lam is -inf (or far below the table): in eps the weight is that of a level just within it, in v it falls to 0."""
    process = registry.make("process", name)
    end = process.coeffs(torch.tensor([process.T], dtype=torch.float64))
    near = process.coeffs(process.t_of_lam(torch.tensor([1e-3 - REACH], dtype=torch.float64)))
    at, limit = (float(weighting(c, dc.row("eps", c, 0.5))) for c in (end, near))
    assert at == pytest.approx(limit, rel=1e-3)
    assert at > 0
    assert 0 <= float(weighting(end, dc.row("v", end, 0.5))) < 1e-6


def test_levels_beyond_the_table_have_the_weight_of_their_side():
    """The least majorant of a peak: its maximum on the noisy side of it, however far, and the weight itself on the other."""
    weighting = Monotone(mean=-1.2)
    far = dc.Coeffs(*(torch.tensor([v], dtype=torch.float64) for v in (0.0, 1e-9, 1.0, 1.0, 1.0)))
    peak = weighting.level(torch.linspace(-REACH, REACH, 12001, dtype=torch.float64)).max()
    assert float(weighting(far, (0.0, 1.0))) == pytest.approx(float(peak), rel=1e-6)
    clean = dc.Coeffs(*(torch.tensor([v], dtype=torch.float64) for v in (0.0, 1.0, 1e-9, 1.0, 1.0)))
    assert float(weighting(clean, (0.0, 1.0))) == pytest.approx(float(weighting.level(clean.lam)), rel=1e-6)

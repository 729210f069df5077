"""A posterior with a learned variance can be had without its history, all of it."""

import torch
from diffcore_ddpm.learned import RangePosterior

import diffcore as dc
from diffcore.testing import ReferenceVP


def test_mean_and_fraction_lose_their_history():
    at = ReferenceVP().coeffs(torch.full((2,), 0.4, dtype=torch.float64)).map(lambda v: v[:, None])
    value, fraction = (torch.full((2, 3), v, dtype=torch.float64, requires_grad=True) for v in (0.5, 0.2))
    known = RangePosterior(dc.Posterior(torch.ones(2, 3).double(), value, "eps", at), fraction)
    bare = known.detach()
    assert known.mean.requires_grad
    assert not bare.mean.requires_grad
    assert not bare.fraction.requires_grad
    assert torch.equal(bare.mean, known.mean)
    assert torch.equal(bare.fraction, fraction)
    assert isinstance(bare, dc.Posterior)

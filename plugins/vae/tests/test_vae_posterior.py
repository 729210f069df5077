"""What encoder and decoder say: without its history, and within the bounds of a variance."""

import pytest
import torch
from diffcore_vae.module import LOG_VAR, halved
from diffcore_vae.process import OneJump

import diffcore as dc


def test_a_detached_posterior_has_no_history_and_the_same_mean():
    weight = torch.tensor(2.0, requires_grad=True)
    model = dc.Denoiser(lambda z, t: weight * z, "decoder", OneJump(latents=((3,),)))
    known = model(torch.ones(2, 3), 1.0)
    assert known.mean.requires_grad
    bare = known.detach()
    assert not bare.mean.requires_grad
    assert torch.equal(bare.mean, known.mean)


def test_the_variance_of_a_network_stays_within_its_bounds():
    """exp(-20) to exp(10), whatever it says; the mean is as it says."""
    out = torch.tensor([[0.3, -70.0, 4.0, -100.0, 1.5, 100.0]])
    found = halved(out, (3,))
    assert found.mean.tolist() == out[:, :3].tolist()
    assert found.log_var[0].tolist() == pytest.approx([LOG_VAR[0], 1.5, LOG_VAR[1]])

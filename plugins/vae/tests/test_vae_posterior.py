"""What the decoder says can be had without its history."""

import torch
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

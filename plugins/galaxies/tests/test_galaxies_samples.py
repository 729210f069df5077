"""The data set of a model's own samples, on random weights made here."""

from __future__ import annotations

import pytest
import torch
from diffcore_galaxies.samples import GalaxySamples

import diffcore as dc


@pytest.fixture
def spec(seeded):
    return GalaxySamples(weights=str(seeded), size=40, steps=1)


def test_samples_are_addressed_by_number(spec):
    source = spec.open()
    assert (source.event, source.size, dict(source.classes)) == ((1, 32, 32), 40, {})
    whole, cond = source.batch(torch.arange(40))
    assert whole.shape == (40, 1, 32, 32)
    assert not cond
    assert len(torch.unique(whole.flatten(1), dim=0)) == 40
    part, _ = spec.open().batch(torch.tensor([33, 2, 33]))
    assert torch.equal(part, whole[[33, 2, 33]])
    part.zero_()
    assert torch.equal(source.batch(torch.tensor([33]))[0], whole[33:34])


def test_another_seed_gives_other_samples_and_global_noise_stays(spec, seeded):
    before = torch.get_rng_state()
    other = GalaxySamples(weights=str(seeded), size=40, steps=1, seed=1).open().batch(torch.arange(2))[0]
    assert not torch.allclose(other, spec.open().batch(torch.arange(2))[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_missing_weights_are_reported_when_the_set_is_opened(tmp_path):
    with pytest.raises(dc.DataError, match="pip install --no-deps galaxygrad"):
        GalaxySamples(weights=str(tmp_path)).open()

"""The training script of the shipped nets: repeatable from its seed, and it learns."""

from __future__ import annotations

import attrs
import pytest
import torch
from diffcore_metrics.classifiers import empty, initialise
from diffcore_metrics.train_features import RECIPES, Recipe, accuracy, augment, batches, rate_at, train

SHORT = Recipe(images="bars", steps=30, batch=32, shift=0.0, turn=0.0, scale=0.0)


def bars(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one bright row in noise; the class is its place."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % 10
    x = -1 + 0.3 * torch.rand(n, 1, 28, 28, generator=generator)
    x[torch.arange(n), 0, 2 * label + 4] = 1
    return x, label


@pytest.mark.parametrize("role", ["judge"])
def test_training_repeats_from_its_seed_and_learns(role: str):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (train(role, *bars(320, 0), SHORT, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    assert accuracy(first, *bars(200, 5)) > 0.9


@pytest.mark.parametrize("role", ["features", "judge"])
def test_initial_weights_keep_the_scale_of_their_input(role: str):
    net = empty(role)
    initialise(net, torch.Generator().manual_seed(0))
    for weight in (p.detach() for p in net.parameters() if p.ndim > 1):
        fan_in = weight[0].numel()
        assert abs(float(weight.square().mean()) * fan_in / 2 - 1) < 5 * (2 / weight.numel()) ** 0.5
    assert all(not p.any() for name, p in net.named_parameters() if name.endswith("bias"))


def test_augmentation_without_amplitude_is_the_identity():
    x, _ = bars(20, 0)
    torch.testing.assert_close(augment(x, SHORT, torch.Generator().manual_seed(0)), x, rtol=0, atol=1e-5)


def test_shift_stays_within_its_bound_and_brings_in_background():
    x = torch.full((200, 1, 28, 28), -1.0)
    x[:, 0, 14, 14] = 1.0
    moved = augment(x, attrs.evolve(SHORT, shift=2 / 14), torch.Generator().manual_seed(0)) + 1
    place = torch.arange(28.0)
    row, column = ((moved[:, 0].sum(axis) * place).sum(1) / moved.sum((1, 2, 3)) - 14 for axis in (2, 1))
    for centre in (row, column):
        assert centre.abs().max() <= 2 + 1e-3
        assert abs(centre.mean()) < 4 * centre.std() / 200**0.5
        assert abs(centre.std() - 2 / 3**0.5) < 0.2, "uniform on [-2, 2]"


def test_every_epoch_shows_every_image_once():
    recipe = attrs.evolve(SHORT, steps=25, batch=10)
    seen = torch.cat(list(batches(105, recipe, torch.Generator().manual_seed(0))))
    assert len(seen) == 250
    for epoch in seen.split(100):
        assert len(epoch.unique()) == len(epoch)


@pytest.mark.parametrize("recipe", RECIPES.values())
def test_rate_rises_to_its_peak_and_falls_to_zero(recipe: Recipe):
    rates = [rate_at(step, recipe) for step in range(recipe.steps)]
    assert max(rates) == pytest.approx(1, abs=1e-6)
    assert rates.index(max(rates)) == pytest.approx(recipe.steps / 10, abs=1)
    assert 0 < rates[0] < 0.02
    assert 0 < rates[-1] < 1e-4

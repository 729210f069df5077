"""The training program: whose gradient, at which rate, and what stops it before a weight is spoilt."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import diffcore as dc
from diffcore.learning.trainer import Job, Player

DOUBLE = torch.float64


class Number(nn.Module):
    """One parameter."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(value, dtype=DOUBLE))


@dc.component
class Two(dc.Trainer):
    """Players a and b by plain gradient descent at their own rates."""

    def players(self, parts):
        return [
            Player(name, {f"{name}.w": parts[name].w}, torch.optim.SGD([parts[name].w], lr=rate))
            for name, rate in (("a", 0.1), ("b", 0.4))
        ]


def job(parts: Any, loss: Any) -> Job:
    return Job(parts=parts, loss=loss, batches=lambda step: (torch.ones(8, 1, dtype=DOUBLE), {}))


def train(trainer: dc.Trainer, parts: Any, loss: Any) -> list[Any]:
    one = job(parts, loss)
    return list(trainer.run(one, trainer.players(parts)))


def test_every_gradient_is_that_of_the_weights_before_the_step():
    """a's loss is a^2 b, b's is a b^2: simultaneous descent, not one after the other, whichever player comes first."""
    parts = {"a": Number(2.0), "b": Number(3.0)}

    def loss(x0, draw):
        a, b = parts["a"].w, parts["b"].w
        return {"a": (a**2 * b).expand(8), "b": (a * b**2).expand(8)}

    train(Two(steps=1, batch=8, warmup=0, clip=None, ema=0.0, lr=0.1), parts, loss)
    assert float(parts["a"].w.detach()) == pytest.approx(2.0 - 0.1 * 2 * 2 * 3)
    assert float(parts["b"].w.detach()) == pytest.approx(3.0 - 0.4 * 2 * 2 * 3)


def test_warm_up_scales_each_players_own_rate():
    """A gradient of 1 at every step: after 4 steps of warm-up over 4 the sum of the factors is (1 + 2 + 3 + 4) / 4."""
    parts = {"a": Number(0.0), "b": Number(0.0)}

    def loss(x0, draw):
        return {"a": parts["a"].w.expand(8), "b": parts["b"].w.expand(8)}

    train(Two(steps=4, batch=8, warmup=4, clip=None, ema=0.0, lr=7.0), parts, loss)
    assert float(parts["a"].w.detach()) == pytest.approx(-0.1 * 2.5)
    assert float(parts["b"].w.detach()) == pytest.approx(-0.4 * 2.5)


@pytest.mark.parametrize("clip", [0.5, 50.0])
def test_clipping_is_that_of_torch(clip):
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.arange(12.0).reshape(4, 3)
    ((theirs(x) ** 2).sum(1)).mean().backward()
    nn.utils.clip_grad_norm_(theirs.parameters(), clip)
    torch.optim.SGD(theirs.parameters(), lr=0.1).step()
    trainer = dc.Trainer(steps=1, batch=4, warmup=0, clip=clip, ema=0.0, lr=0.1)
    named = dict(ours.named_parameters())
    player = Player("model", named, torch.optim.SGD(named.values(), lr=0.1))
    one = Job(parts={"network": ours}, loss=lambda x0, draw: (ours(x0) ** 2).sum(1), batches=lambda step: (x, {}))
    list(trainer.run(one, [player]))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


class Awkward(nn.Module):
    """Two weights that are added, so that `autograd.grad` returns one tensor for both, and one whose gradient is transposed."""

    def __init__(self) -> None:
        super().__init__()
        start = torch.arange(6.0).reshape(2, 3) / 6
        self.first, self.second, self.turned = (nn.Parameter(start.clone() + k) for k in range(3))


class Transposing(torch.autograd.Function):
    """The identity, whose gradient is laid out column by column, as double backwards of convolutions are."""

    @staticmethod
    def forward(ctx, w):
        return w.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.T.contiguous().T


@pytest.mark.parametrize("clip", [0.5, None])
def test_gradients_that_share_memory_or_are_transposed_are_those_of_the_plain_optimiser(clip):
    ours, theirs = Awkward(), Awkward()
    x = torch.linspace(-1, 2, 12).reshape(4, 3)

    def loss(net, x0):
        turned = Transposing.apply(net.turned)
        return ((x0 @ (net.first + net.second).T + turned[:, :2].sum(1) * torch.tensor([1.0, 3.0])) ** 2).sum(1) + (
            turned * torch.arange(6.0).reshape(2, 3)
        ).sum()

    plain = torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.9, 0.99), weight_decay=0.0, fused=False, foreach=False)
    for _ in range(3):
        plain.zero_grad()
        loss(theirs, x).mean().backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        plain.step()
    trainer = dc.Trainer(steps=3, batch=4, warmup=0, clip=clip, ema=0.0, lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    named = dict(ours.named_parameters())
    one = Job(parts={"network": ours}, loss=lambda x0, draw: loss(ours, x0), batches=lambda step: (x, {}))
    list(trainer.run(one, [trainer.player("model", named)]))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", [1.0, None])
def test_a_gradient_that_is_not_finite_stops_before_it_is_taken_in(clip):
    """sqrt at 0 has a finite value and an infinite slope."""
    net = Number(0.0)
    trainer = dc.Trainer(steps=3, batch=8, clip=clip)
    with pytest.raises(dc.NumericsError, match=r"the gradient of loss is (inf|nan) at step 0 \(player 'model', loss 0\)"):
        train(trainer, {"network": net}, lambda x0, draw: (net.w**2).sqrt().expand(8))
    assert float(net.w.detach()) == 0.0


def test_a_mean_that_overflows_names_no_row():
    net = nn.Linear(1, 1, bias=False)

    def loss(x0, draw):
        return (net.weight * 0 + 3e38).expand(8, 1)[:, 0]

    with pytest.raises(dc.NumericsError, match="every row is finite, their mean overflows"):
        train(dc.Trainer(steps=1, batch=8), {"network": net}, loss)


def test_players_without_a_loss_or_without_parameters_are_named():
    parts = {"a": Number(0.0), "b": Number(0.0)}
    with pytest.raises(dc.IncompatibleError, match=r"gives losses for \['a', 'c'\].*player 'b'"):
        train(Two(steps=1, batch=8), parts, lambda x0, draw: {"a": parts["a"].w.expand(8), "c": parts["b"].w.expand(8)})
    frozen = Number(0.0).requires_grad_(False)
    with pytest.raises(dc.IncompatibleError, match="player 'model' has no trainable parameters"):
        train(dc.Trainer(steps=1, batch=8), {"network": frozen}, lambda x0, draw: frozen.w.expand(8))


def test_the_average_counts_the_updates_of_its_player():
    """A player with every second step has made 2 updates in 3 steps: decays (1 + k) / (10 + k) for k = 0, 1."""
    net = Number(0.0)

    @dc.component
    class Slow(dc.Trainer):
        """Every second step, at rate 1."""

        def players(self, parts):
            named = {"network.w": net.w}
            ema = {"network.w": net.w.detach().clone()}
            return [Player("model", named, torch.optim.SGD(named.values(), lr=1.0), 2, ema)]

    trainer = Slow(steps=3, batch=8, warmup=0, clip=None, ema=0.999, lr=1.0)
    players = trainer.players({"network": net})
    list(trainer.run(job({"network": net}, lambda x0, draw: net.w.expand(8)), players))
    first = 0.9 * -1.0
    second = first + (1 - 2 / 11) * (-2.0 - first)
    assert float(players[0].ema["network.w"]) == pytest.approx(second)
    assert math.isclose(float(net.w.detach()), -2.0)


def test_the_average_begins_at_the_weights_without_their_history():
    weight = torch.nn.Parameter(torch.ones(2))
    (average,) = dc.Trainer(ema=0.9).player("model", {"w": weight}).ema.values()
    assert (average.requires_grad, average.data_ptr() == weight.data_ptr()) == (False, False)
    assert torch.equal(average, weight)
    assert dc.Trainer(ema=0.0).player("model", {"w": weight}).ema == {}

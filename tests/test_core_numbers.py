"""What training and budgets report: losses by player, and the most steps that a number of calls allows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import diffcore as dc
from diffcore.learning.trainer import Job, Player
from diffcore.run.measuring import for_calls

SPEC = {
    "diffcore": 1,
    "name": "budget",
    "data": {"type": "two-moons"},
    "process": {"type": "flow"},
    "network": {"type": "mlp"},
    "prediction": "velocity",
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 1, "batch": 8},
    "solver": {"type": "euler"},
}


@pytest.mark.parametrize(("names", "want"), [(("a",), ["loss"]), (("a", "b"), ["loss/a", "loss/b"])])
def test_losses_are_reported_by_player_where_there_are_several(names, want):
    parts = {name: nn.Linear(1, 1, bias=False) for name in names}
    players = [Player(n, {f"{n}.w": p.weight}, torch.optim.SGD(p.parameters(), lr=0.1)) for n, p in parts.items()]

    def loss(x0, draw):
        found = {n: (p.weight**2).sum().expand(8) for n, p in parts.items()}
        return found if len(found) > 1 else found["a"]

    before = [float((p.weight.detach() ** 2).sum()) for p in parts.values()]
    job = Job(parts=parts, loss=loss, batches=lambda step: (torch.ones(8, 1), {}))
    (report,) = dc.Trainer(steps=1, batch=8, warmup=0, ema=0.0).run(job, players)
    assert list(report.numbers) == want
    assert list(report.numbers.values()) == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize(("solver", "calls", "steps"), [("euler", 5, 5), ("heun", 5, 3), ("heun", 6, 3), ("heun", 1, 1)])
def test_a_budget_of_calls_is_used_up(solver, calls, steps):
    """Heun costs 2 N - 1 calls to clean data."""
    pipeline = dc.assemble(SPEC)
    found = for_calls(pipeline, dc.Registry.load().make("solver", solver), calls)
    assert found.steps == steps


def test_a_metric_takes_exactly_the_least_real_samples_it_names():
    class Four(dc.Metric):
        least_real = 4

    Four().check(dc.Evaluation(samples=torch.zeros(9, 1), reference=torch.zeros(4, 1)))
    with pytest.raises(dc.DataError, match="Four needs at least 4 real samples; there are 3"):
        Four().check(dc.Evaluation(samples=torch.zeros(9, 1), reference=torch.zeros(3, 1)))

"""Couplings: optimal, marginals kept, entropic plans against closed forms, what they do to conditions."""

from __future__ import annotations

import itertools
import math
import sys

import pytest
import torch
from diffcore_flows.flow_matching import FlowMatching
from diffcore_flows.minibatch_ot import MinibatchOT
from diffcore_flows.paired import Paired
from diffcore_flows.transport import assignment, sinkhorn, squared_distances

import diffcore as dc
from diffcore.testing import ReferenceFlow
from diffcore.testing.recording import keys_drawn, repeated

F64 = torch.float64


def normal(*shape, seed=0):
    return dc.Draw(seed, range(shape[0]), block=shape[0]).normal(shape[1:], F64)


def cost_of(x, y):
    return float(((x - y) ** 2).flatten(1).sum(1).mean())


@pytest.mark.parametrize("backend", ["scipy", "pot"])
@pytest.mark.parametrize("seed", range(5))
def test_assignment_is_the_best_of_all_permutations(backend, seed):
    if backend == "pot":
        pytest.importorskip("ot")
    table = squared_distances(normal(6, 3, seed=seed), normal(6, 3, seed=50 + seed))
    best = min(sum(float(table[i, j]) for i, j in enumerate(p)) for p in itertools.permutations(range(6)))
    found = assignment(table, backend)
    assert sorted(found.tolist()) == list(range(6))
    assert abs(float(table.gather(1, found[:, None]).sum()) - best) < 1e-12


def test_distances_add_over_the_leaves_of_a_tree():
    x, y = ({"a": normal(4, 2, seed=k), "b": normal(4, 1, 3, seed=k + 9)} for k in (1, 2))
    flat = [torch.cat([s["a"], s["b"].flatten(1)], 1) for s in (x, y)]
    torch.testing.assert_close(squared_distances(x, y), torch.cdist(*flat) ** 2, rtol=1e-12, atol=1e-12)


@pytest.mark.item("5.21")
def test_exact_pairing_permutes_the_noise_and_one_sample_keeps_its_own():
    x0, eps = normal(64, 2), normal(64, 2, seed=1)
    paired = MinibatchOT().pair(x0, eps, dc.Draw(0, range(64)))
    assert sorted(map(tuple, paired.tolist())) == sorted(map(tuple, eps.tolist()))
    assert cost_of(x0, paired) < 0.5 * cost_of(x0, eps)
    again = MinibatchOT().pair(x0, paired, dc.Draw(0, range(64)))
    assert torch.equal(again, paired), "an optimal pairing is its own optimum"
    assert torch.equal(MinibatchOT().pair(x0[:1], eps[:1], dc.Draw(0, [0])), eps[:1])


@pytest.mark.item("5.21")
def test_cost_falls_to_the_wasserstein_distance_as_the_batch_grows():
    # N(0.5, 4) and N(0, 1) on the line: independent m^2 + s^2 + 1 = 5.25, W2^2 = m^2 + (s - 1)^2 = 1.25
    x0, eps, costs = 0.5 + 2 * normal(1024, 1, seed=3), normal(1024, 1, seed=4), []
    for batch in (1, 2, 8, 64, 1024):
        parts = zip(x0.split(batch), eps.split(batch), strict=True)
        paired = torch.cat([MinibatchOT().pair(x, e, dc.Draw(0, range(batch))) for x, e in parts])
        costs.append(cost_of(x0, paired))
    assert all(a > b for a, b in itertools.pairwise(costs))
    assert abs(costs[0] - 5.25) < 4.5 * (55 / 1024) ** 0.5  # Var (x - e)^2 = 2 v^2 + 4 m^2 v = 55 with v = 5, m = .5
    assert abs(costs[-1] - 1.25) < 0.15


@pytest.mark.item("5.21")
def test_independent_pairs_are_as_they_were_drawn():
    x0, eps = normal(64, 2), normal(64, 2, seed=1)
    independent = dc.Registry.load().make("coupling", "independent")
    assert torch.equal(independent.pair(x0, eps, dc.Draw(0, range(64))), eps)


@pytest.mark.item("R20")
def test_entropic_plan_of_gaussians_has_the_closed_covariance():
    # fixture e: N(0, 1), N(0, .25), cost |x - y|^2 / 2, eps = .5: covariance (sqrt(eps^2 + 4 a b) - eps) / 2 = .309017
    n = 600
    x = torch.special.ndtri((torch.arange(n, dtype=F64) + 0.5) / n)[:, None]
    y = 0.5 * x
    plan = sinkhorn(squared_distances(x, y) / 2, 0.5, 1e-10)
    torch.testing.assert_close(plan.sum(1), torch.full((n,), 1 / n, dtype=F64), rtol=1e-12, atol=0)
    assert float((plan.sum(0) - 1 / n).abs().sum()) < 1e-10
    assert abs(float((plan * (x @ y.T)).sum()) - 0.309017) < 3e-3  # the quantile grid lacks 0.3 % of the variance
    logs = plan.log() + squared_distances(x, y) / 2 / 0.5  # log u_i + log v_j: every 2 x 2 minor vanishes
    assert float((logs - logs[:1] - logs[:, :1] + logs[0, 0]).abs().max()) < 1e-8


def test_entropic_plan_between_assignment_and_independence():
    table = squared_distances(normal(12, 2), normal(12, 2, seed=1))
    best = float(table.gather(1, assignment(table)[:, None]).mean())
    costs = [float((sinkhorn(table, eps) * table).sum()) for eps in (3.0, 1.0, 0.3, 0.1)]
    assert all(a > b for a, b in itertools.pairwise(costs))
    for eps, cost in zip((3.0, 1.0, 0.3, 0.1), costs, strict=True):
        assert best - 1e-5 <= cost <= best + eps * math.log(12)  # entropies differ by log n at most
    torch.testing.assert_close(sinkhorn(table, 1e6), torch.full_like(table, 1 / 144), rtol=1e-4, atol=0)
    with pytest.raises(dc.NumericsError, match="raise the regularisation"):
        sinkhorn(table, 0.1, 1e-12, most=3)


def test_marginals_that_are_met_exactly_are_met():
    assert sinkhorn(torch.zeros(1, 1), 1.0, 0.0).tolist() == [[1.0]]


@pytest.mark.item("R20")
def test_entropic_pairs_are_drawn_from_the_plan():
    x0, eps, times = normal(3, 1), normal(3, 1, seed=8), 900
    coupling = MinibatchOT(regularisation=0.5)
    table = squared_distances(x0, eps)
    want = 3 * sinkhorn(table, 0.5 * float(table.mean()))
    found = torch.zeros(3, 3, dtype=F64)
    for k in range(times):
        found += (coupling.pair(x0, eps, dc.Draw(k, range(3))) == eps.T) / times
    assert float(((found - want).abs() / (want * (1 - want) / times).sqrt()).max()) < 4.5


def test_an_entropic_pairing_of_equal_points_keeps_them():
    points = torch.ones(3, 2, dtype=F64)
    assert torch.equal(MinibatchOT(regularisation=0.05).pair(points, points, dc.Draw(0, range(3))), points)


def test_noise_stays_independent_of_conditions_unless_asked_otherwise():
    n = 512
    label = (torch.arange(n) % 2).long()
    x0, eps = 4.0 * label[:, None] - 2 + 0.1 * normal(n, 1), normal(n, 1, seed=5)
    kept = MinibatchOT().pair(x0, eps, dc.Draw(0, range(n)), label=label)
    mixed = MinibatchOT(per_condition=False).pair(x0, eps, dc.Draw(0, range(n)), label=label)
    for k in (0, 1):
        assert torch.equal(kept[label == k].sort(0).values, eps[label == k].sort(0).values)
    assert float(mixed[label == 1].min()) >= float(mixed[label == 0].max()), "without it the classes share the line out"
    assert torch.equal(MinibatchOT().pair(x0, eps, dc.Draw(0, range(n)), row=torch.arange(n)), eps)


def test_pot_absent_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(dc.DataError, match=r"needs the package POT; run: pip install 'diffcore-flows\[pot\]'"):
        MinibatchOT(backend="pot").pair(normal(3, 2), normal(3, 2), dc.Draw(0, range(3)))


@pytest.mark.item("5.16")
def test_paired_takes_the_noise_of_the_data():
    stored, eps, draw = normal(4, 2, seed=7), normal(4, 2), dc.Draw(0, range(4))
    assert torch.equal(Paired().pair(eps, eps.float(), draw, noise=stored), stored.float())
    assert torch.equal(Paired(key="z").pair(eps, eps, draw, z=stored, label=torch.zeros(4)), stored)
    with pytest.raises(dc.DataError, match="needs the condition 'noise'; the data has: label"):
        Paired().pair(eps, eps, draw, label=torch.zeros(4))
    with pytest.raises(dc.DataError, match=r"has shape \(4, 3\), the noise \(4, 2\)"):
        Paired().pair(eps, eps, draw, noise=normal(4, 3))


def test_time_noise_pairing_and_dropping_have_a_key_each():
    """The plan, the times and what is dropped are uniform numbers that do not know of each other."""

    def net(x, t, label):
        return x

    net.null_cond = {"label": 1}
    model = dc.Denoiser(net, "velocity", ReferenceFlow())
    loss = FlowMatching(coupling=MinibatchOT(regularisation=0.5, per_condition=False), drop=0.5)
    x0 = normal(4, 2)
    with keys_drawn() as keys:
        loss(model, x0, dc.Draw(0, range(4)), label=torch.zeros(4, dtype=torch.int64))
    assert len(keys) == 4
    assert not repeated(keys)

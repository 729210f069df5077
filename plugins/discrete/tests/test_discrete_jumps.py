"""Jump rates against the reversed master equation; tau-leaping and exact jumps against the joint law."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_discrete.exact_jumps import ExactJumps
from diffcore_discrete.proof import PROCESSES, all_states, final_law, order, point, variation
from diffcore_discrete.tau_leaping import TauLeaping

import diffcore as dc

JUMPS = [("masked", "reverse"), ("masked-cosine", "flow"), ("uniform", "reverse"), ("uniform", "flow")]


def rate_matrix(process, chain, t, rates):
    """The generator of the reversed chain over pairs, from the posterior-averaged rates of each entry: [K^2, K^2]."""
    at, states, k = point(process, t), all_states(process), process.states
    logits = chain.posterior(states, process.transition(at)).clamp_min(1e-300).log()
    known = process.posterior(states, logits, at, dc.Reading("logits"))
    weights = process.jump_weights(known, rates) * process.jump_scale(at, rates)
    q = torch.zeros(k * k, k * k, dtype=torch.float64)
    for i, (a, b) in enumerate(states.tolist()):
        for y in range(process.values):
            q[i, y * k + b] += weights[i, 0, y]
            q[i, a * k + y] += weights[i, 1, y]
    return q - torch.diag(q.sum(1))


@pytest.mark.item("12.07")
@pytest.mark.parametrize(("name", "rates"), JUMPS)
def test_averaged_rates_satisfy_the_master_equation(name, rates, chain):
    """-dp_t/dt = p_t R_t over all pairs, with both kinds of rates."""
    process, h = PROCESSES[name], 1e-5

    def law(t):
        return chain.marginal(_all_rows(process, t))

    for t in (0.2, 0.5, 0.8):
        slope = (law(t - h) - law(t + h)) / (2 * h)
        assert (law(t) @ rate_matrix(process, chain, t, rates) - slope).abs().max() < 1e-8


def _all_rows(process, t):
    return process.transition(point(process, t))[0]


@pytest.mark.item("12.06")
def test_reverse_rates_are_ratios_of_marginals(chain):
    """R_xy = Q_yx p_t(y) / p_t(x) for pairs that differ in one entry; and detailed: not the rates of the flow."""
    process, t = PROCESSES["uniform"], 0.4
    at, law = point(process, t), chain.marginal(_all_rows(PROCESSES["uniform"], 0.4))
    found = rate_matrix(process, chain, t, "reverse")
    forward = -at.dalpha / at.alpha / process.values
    for x in range(9):
        for y in range(9):
            if x != y and (x // 3 == y // 3 or x % 3 == y % 3):
                assert abs(float(found[x, y] - forward * law[y] / law[x])) < 1e-11
    assert (found - rate_matrix(process, chain, t, "flow")).abs().max() > 0.1


@pytest.mark.item("12.06")
def test_integrating_the_reverse_master_equation_retraces_the_marginals(chain):
    """Classical Runge-Kutta on the whole pair from .9 to .3, 120 steps: 1e-8."""
    process, n = PROCESSES["uniform"], 120
    law, h = chain.marginal(_all_rows(process, 0.9)), 0.6 / 120
    for i in range(n):
        q1, q2, q3 = (rate_matrix(process, chain, 0.9 - i * h - part * h, "reverse") for part in (0, 0.5, 1))
        k1 = law @ q1
        k2 = (law + h / 2 * k1) @ q2
        k3 = (law + h / 2 * k2) @ q2
        law = law + h / 6 * (k1 + 2 * k2 + 2 * k3 + (law + h * k3) @ q3)
    assert (law - chain.marginal(_all_rows(process, 0.3))).abs().max() < 1e-8


@pytest.mark.parametrize(("name", "rates"), [*JUMPS, ("uniform-exponential", "reverse")])
def test_scale_is_the_logarithmic_derivative_of_keep(name, rates):
    process, t, h = PROCESSES[name], 0.6, 1e-5
    keep = process.jump_keep(point(process, t), point(process, t - h), rates)
    middle = process.jump_scale(point(process, t - h / 2), rates)
    assert abs(-math.log(keep) / h - middle) < 1e-4 * middle


@pytest.mark.item("12.06", "12.07")
@pytest.mark.parametrize(("name", "rates"), JUMPS)
def test_tau_leaping_has_order_one(name, rates, chain):
    process, solver, counts = PROCESSES[name], TauLeaping(rates=rates), (16, 32, 64, 128)
    errors = [
        variation(
            final_law(process, chain, n, lambda x, known, t, s: solver.law(process, known, process.jump_keep(t, s, rates))),
            chain.joint,
        )
        for n in counts
    ]
    assert errors[-1] < 0.03
    assert 0.8 < order(counts, errors) < 1.25, errors


@pytest.mark.item("R23")
def test_tau_leaping_of_masks_is_ancestral(chain):
    process = PROCESSES["masked"]
    field, x = chain.field(process), process.prior((2,), dc.Draw(0, range(50)))
    from diffcore import Registry

    ancestral = Registry.load().make("solver", "ancestral", steps=7)
    a, b = (dc.sample(field, solver, x, seed=3).x for solver in (ancestral, TauLeaping(steps=7)))
    assert torch.equal(a, b)


SAMPLERS = [
    ("masked", ExactJumps(), 0.0),
    ("masked-cosine", ExactJumps(), 0.0),
    ("masked", TauLeaping(steps=100), 0.004),
    ("uniform", TauLeaping(steps=100), 0.012),
    ("uniform", TauLeaping(steps=100, rates="flow"), 0.02),
]


@pytest.mark.parametrize(("name", "solver", "bias"), SAMPLERS)
def test_samples_have_the_joint_law(name, solver, bias, chain):
    """Frequencies of the nine pairs of 8000 samples: 4.5 s.e., plus the bias of the steps (none for exact jumps)."""
    process, n = PROCESSES[name], 8000
    x = dc.sample(chain.field(process), solver, process.prior((2,), dc.Draw(5, range(n))), seed=2).x
    assert 0 <= int(x.min()) <= int(x.max()) < process.values
    found = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9).reshape(3, 3) / n
    assert ((found - chain.joint).abs() < 4.5 * (chain.joint * (1 - chain.joint) / n).sqrt() + bias).all()


def test_chi_square_of_exact_jumps(chain):
    """8 degrees of freedom: below 27.9 with probability .9995."""
    process, n = PROCESSES["masked"], 8000
    x = dc.sample(chain.field(process), ExactJumps(), process.prior((2,), dc.Draw(0, range(n))), seed=9).x
    found, want = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9), n * chain.joint.flatten()
    assert float(((found - want) ** 2 / want).sum()) < 27.9


def test_exact_jumps_stop_where_the_grid_ends(chain):
    """Started at .8 and stopped at .3 a pair is masked as q(x_.3) says; one call per mask; known entries stay."""
    process, n = PROCESSES["masked-cosine"], 8000
    start = process.corrupt(chain.sample(n, dc.Draw(1, range(n))), torch.full((n,), 0.8).double(), dc.Draw(2, range(n))).xt
    result = dc.sample(chain.field(process), ExactJumps(), start, grid=[0.8, 0.3], seed=4)
    law = chain.marginal(_all_rows(process, 0.3))
    found = torch.bincount(4 * result.x[:, 0] + result.x[:, 1], minlength=16) / n
    assert ((found - law).abs() < 4.5 * (law * (1 - law) / n).sqrt() + 1e-9).all()
    assert result.calls == 2
    shown = start != process.mask
    assert torch.equal(result.x[shown], start[shown])


def test_exact_jumps_of_nothing_masked_call_nothing(chain):
    process, x = PROCESSES["masked"], torch.tensor([[0, 2]])
    result = dc.sample(chain.field(process), ExactJumps(), x)
    assert (result.calls, result.x.tolist()) == (0, [[0, 2]])


def test_ancestral_samples_of_every_process(process, chain):
    """The core's ancestral solver on 4000 samples: no value out of range, frequencies within 4.5 s.e. + .03."""
    from diffcore import Registry

    solver, n = Registry.load().make("solver", "ancestral", steps=64), 4000
    x = dc.sample(chain.field(process), solver, process.prior((2,), dc.Draw(5, range(n))), seed=6).x
    assert x.dtype == torch.int64
    assert 0 <= int(x.min()) <= int(x.max()) < process.values
    found = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9).reshape(3, 3) / n
    assert ((found - chain.joint).abs() < 4.5 * (chain.joint * (1 - chain.joint) / n).sqrt() + 0.03).all()

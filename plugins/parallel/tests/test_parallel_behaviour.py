"""Cost, memory, samples that know nothing of each other, noise, conditions, trees, gradients and refusals."""

from __future__ import annotations

import itertools
from unittest import mock

import pytest
import torch
from diffcore_parallel.drift import Drift
from diffcore_parallel.paradigms import Paradigms
from diffcore_parallel.ranks import Ranks
from diffcore_parallel.window import Window

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVP, golden_mixture

VP, FLOW, GOLDEN = ReferenceVP(), ReferenceFlow(), golden_mixture()
MAKE = dc.Registry.load().make


def starts(n=9):
    return torch.linspace(-2, 2, n, dtype=torch.float64)[:, None]


def counted(process, rows):
    def net(x, t):
        rows.append(len(x))
        return GOLDEN.velocity(x, process.coeffs(t))

    return dc.Field(dc.Denoiser(net, "velocity", process))


@pytest.mark.parametrize(("rule", "extra"), [("left", 0), ("trapezoid", 1)])
def test_calls_and_evaluations_are_those_of_the_network(rule, extra):
    """One call a sweep. In the first, every sample evaluates its whole window (and its end for the trapezoid)."""
    rows: list[int] = []
    result = dc.sample(counted(FLOW, rows), Paradigms(rule=rule, window=10), starts(), steps=50, keep_frames=True)
    last = result.frames[-1]
    assert result.calls == last.calls == len(rows) >= int(last.own.max())
    assert result.nfe == last.nfe == sum(rows) / 9 > 50
    assert rows[0] == 9 * (10 + extra)
    assert max(rows) <= 9 * (10 + extra)
    assert result.calls < 25


def test_guidance_costs_its_branches_and_labels_follow_their_samples():
    """Classifier-free guidance doubles the evaluations of a call; samples under labels equal the sequential ones."""
    denoiser = dc.Denoiser(GOLDEN.net(FLOW, "v"), "v", FLOW, null={"label": 2})
    label = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 0])
    field = dc.Field(denoiser, [MAKE("guidance", "cfg", weight=2.0)], cond={"label": label})
    of = MAKE("solver", "ddim")
    alone = dc.sample(field, of, starts(), steps=14)
    found = dc.sample(field, Paradigms(of=of, window=6, tolerance=0), starts(), steps=14, keep_frames=True)
    assert float((found.x - alone.x).abs().max()) < 1e-12
    assert found.nfe >= alone.nfe == 28
    first = next(f for f in found.frames if f.calls)
    assert first.nfe / first.calls == 12


@pytest.mark.parametrize("of", ["ddim", "ancestral"])
def test_a_sample_does_not_depend_on_the_others(of):
    """Alone or among others that take more or fewer sweeps: the same state and the same number of sweeps."""
    solver = Paradigms(of=MAKE("solver", of), window=4, tolerance=1e-3)
    field, x = GOLDEN.field(VP, "v"), starts(17)
    whole = dc.sample(field, solver, x, steps=40, seed=1, keep_frames=True)
    sweeps = whole.frames[-1].own
    assert len(set(sweeps.tolist())) > 1
    for i in (0, 8, 16):
        alone = dc.sample(field, solver, x[[i]], steps=40, seed=1, ids=[i], keep_frames=True)
        assert float((alone.x - whole.x[i]).abs().max()) < 1e-12
        assert int(alone.frames[-1].own) == int(sweeps[i])


def test_a_sample_far_ahead_waits_and_the_memory_is_as_stated():
    """One sample at rest takes 3 steps a sweep, the other 1: 40 nodes in 7 slots, and both as alone."""

    def net(x, t):
        return torch.where(x > 5, 0.0, torch.sin(40 * x + 9 * t[:, None]) * 3)

    field, x = dc.Field(dc.Denoiser(net, "velocity", FLOW)), torch.tensor([[9.0], [0.3]]).double()
    seen: list[tuple[int, int]] = []
    sweep = Window.sweep

    def watched(window):
        sweep(window)
        seen.append((len(window.kept), int(window.left.max() - window.left.min())))

    with mock.patch.object(Window, "sweep", watched):
        found = dc.sample(field, Paradigms(window=3, tolerance=0), x, steps=40, keep_frames=True)
    assert {slots for slots, _ in seen} == {7}
    assert 3 < max(ahead for _, ahead in seen) <= 6
    assert found.frames[-1].own.tolist()[0] == 14
    euler = dc.sample(field, MAKE("solver", "euler"), x, steps=40, keep_frames=True)
    for a, b in zip(found.frames, euler.frames, strict=True):
        assert float((a.x - b.x).abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("moved", "explicit", "implicit"),
    [
        ([0.5, 0.0, 0.0, 0.0], 1, 0),
        ([0.0, 0.5, 0.0, 0.0], 2, 1),
        ([0.1, 0.0, 0.0, 0.5], 4, 3),
        ([0.0, 0.19, 0.0, 0.1], 4, 4),
        ([0.0, 0.21, 0.0, 0.1], 2, 1),
        ([torch.nan, 0.0, 0.0, 0.0], 1, 0),
    ],
)
def test_the_window_slides_to_the_first_node_that_moved(moved, explicit, implicit):
    """Changes of all 3 entries of node 1 to 4 by `moved`, against tolerance .2 and sigma = 1: root mean square, not the sum."""
    field, x = GOLDEN.field(FLOW, "v"), torch.zeros(1, 3).double()
    moves = Drift("left", FLOW, torch.linspace(0.9, 0.1, 10, dtype=torch.float64), x)
    window = Window.opened(field, moves, x, 4, torch.full((10,), 0.2**2).double(), Ranks())
    before, nodes = torch.zeros(1, 5, 3).double(), torch.arange(5)[None]
    after = before[:, 1:] + torch.tensor(moved).double()[None, :, None]
    for kind, stride in ((True, explicit), (False, implicit)):
        moves.explicit = torch.full((9,), kind)
        assert window._stride(before, after, nodes, nodes >= 0).tolist() == [stride]


def test_new_nodes_start_at_the_last_known_state():
    """In every sweep after the first, the nodes that enter a window hold the state of its former end."""
    seen, stride = [], Window._stride

    def watched(window, before, after, nodes, real):
        seen.append((before, after, nodes, real))
        return stride(window, before, after, nodes, real)

    with mock.patch.object(Window, "_stride", watched):
        dc.sample(GOLDEN.field(FLOW, "v"), Paradigms(window=5, tolerance=1e-3), starts(1), steps=30)
    entered = 0
    for (_, ended, old, inside), (begun, _, new, real) in itertools.pairwise(seen):
        last = int(old[inside].max())
        for column in range(6):
            if real[0, column] and int(new[0, column]) > last:
                assert torch.equal(begun[0, column], ended[0, last - int(old[0, 0]) - 1])
                entered += 1
    assert entered > 20


def test_the_noise_of_a_step_is_drawn_once():
    of, drawn = MAKE("solver", "ancestral"), []
    noise = dc.Stepper.draws

    def counting(self, process, x, draw):
        drawn.append(draw.index)
        return noise(self, process, x, draw)

    with mock.patch.object(dc.Stepper, "draws", counting):
        dc.sample(GOLDEN.field(VP, "v"), Paradigms(of=of, window=5), starts(), steps=20)
    assert sorted(drawn) == list(range(1, 21))


def test_trees_float32_and_gradients():
    """Leaves share their window; the gradient through the iteration is that of the sequential run."""

    def net(x, t):
        return {"a": GOLDEN.velocity(x["a"], FLOW.coeffs(t)), "b": -x["b"] * t[:, None, None]}

    field, of = dc.Field(dc.Denoiser(net, "velocity", FLOW)), MAKE("solver", "euler")
    tree = {"a": starts(4), "b": torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 2, 3)}
    alone = dc.sample(field, of, tree, steps=9).x
    found = dc.sample(field, Paradigms(of=of, window=4, tolerance=0), tree, steps=9).x
    for key, leaf in alone.items():
        assert float((found[key] - leaf).abs().max()) < 1e-12
    field, x = GOLDEN.field(FLOW, "v"), starts()
    low = dc.sample(field, Paradigms(tolerance=0), x.float(), steps=30).x
    assert low.dtype == torch.float32
    assert float((low - dc.sample(field, of, x, steps=30).x).abs().max()) < 1e-5
    grads = []
    for solver in (of, Paradigms(of=of, window=4, tolerance=0)):
        start = x.clone().requires_grad_()
        grads.append(torch.autograd.grad(dc.sample(field, solver, start, steps=9).x.sum(), start)[0])
    assert float((grads[0] - grads[1]).abs().max()) < 1e-11


def test_a_field_that_is_not_finite_is_named_by_its_step():
    field = dc.Field(dc.Denoiser(lambda x, t: torch.where(t[:, None] < 0.35, torch.nan, 0.0) * x, "velocity", FLOW))
    with pytest.raises(dc.NumericsError, match=r"after step 8 \(to t = 0\.2\) of solver Paradigms"):
        dc.sample(field, Paradigms(), starts(), grid=torch.linspace(1, 0, 11, dtype=torch.float64))


def test_values_that_overflow_on_the_way_are_not_taken_for_converged():
    """A field that is infinite off the path: far nodes of the first sweeps are NaN, the samples those of the sequential run."""

    def net(x, t):
        return torch.where((x - 0.5 - t[:, None]).abs() < 0.3, torch.ones_like(x), torch.inf * (x - x.mean()))

    field, x = dc.Field(dc.Denoiser(net, "velocity", FLOW)), torch.full((2, 1), 1.5).double()
    with mock.patch.object(Window, "sweep", autospec=True, side_effect=Window.sweep) as sweeps:
        found = dc.sample(field, Paradigms(window=10), x, steps=10).x
    assert sweeps.call_count > 1
    assert float((found - 0.5).abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"of": ("ddim", {"grid": {"type": "uniform"}})}, "DDIM has a grid of its own; give the grid to paradigms"),
        ({"of": ("dpmpp-2m", {})}, "DPMpp2M carries a history"),
        ({"of": ("paradigms", {})}, "owns its loop"),
        ({"of": ("ddim", {}), "rule": "trapezoid"}, "leave one of them out"),
        ({"rule": "trapezoid", "tolerance": 0.0}, "give paradigms a tolerance > 0"),
    ],
)
def test_what_cannot_be_run_is_refused(fields, message):
    if "of" in fields:
        kind, inner = fields["of"]
        fields = {**fields, "of": MAKE("solver", kind, **inner)}
    with pytest.raises(dc.SpecError, match=message):
        Paradigms(**fields)


def test_runs_that_cannot_be_are_refused():
    field, x = GOLDEN.field(VP, "v"), starts(3)
    with pytest.raises(dc.NumericsError, match=r"3 of 3 samples have not arrived after 2 sweeps of paradigms"):
        dc.sample(field, Paradigms(max_sweeps=2, window=5), x, steps=30)
    stiff = dc.Field(dc.Denoiser(lambda x, t: -40.0 * x, "velocity", FLOW))
    with pytest.raises(dc.NumericsError, match=r"not arrived after 80 sweeps"):
        dc.sample(stiff, Paradigms(rule="trapezoid"), x, steps=4)
    with pytest.raises(dc.SpecError, match="one time per step"):
        dc.sample(field, Paradigms(), x, grid=torch.linspace(1, 0, 5, dtype=torch.float64)[:, None].repeat(1, 3))
    with pytest.raises(dc.IncompatibleError, match="floating-point states"):
        dc.sample(field, Paradigms(), torch.ones(3, 1, dtype=torch.long), steps=3)
    with pytest.raises(dc.IncompatibleError, match="owns its loop"):
        dc.sample(field, Paradigms(), x, mode="compile")


def test_as_many_sweeps_as_are_allowed_are_taken():
    """A run of n sweeps arrives with max_sweeps = n, and not with n - 1."""
    field, run = GOLDEN.field(VP, "v"), {"steps": 30, "keep_frames": True}
    most = int(dc.sample(field, Paradigms(window=5), starts(3), **run).frames[-1].own.max())
    dc.sample(field, Paradigms(window=5, max_sweeps=most), starts(3), **run)
    with pytest.raises(dc.NumericsError, match=f"not arrived after {most - 1} sweeps"):
        dc.sample(field, Paradigms(window=5, max_sweeps=most - 1), starts(3), **run)


class Weights(dc.Stepper):
    """A plan with two numbers per step in one entry."""

    def plan(self, process, grid):
        return dc.Plan(t=process.pairs(grid)[0], w=torch.zeros(len(grid) - 1, 2).double())


def test_plans_with_several_numbers_per_step_are_refused():
    with pytest.raises(dc.IncompatibleError, match="several numbers per step in 'w'"):
        dc.sample(GOLDEN.field(VP), Paradigms(of=Weights()), starts(), steps=3)

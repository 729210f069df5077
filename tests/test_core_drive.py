"""A solver driven from outside equals `sample` bit by bit, is copied and pickled in mid-step, and refuses what it cannot do."""

from __future__ import annotations

import copy
import pickle
from typing import ClassVar

import pytest
import torch
from torch import nn

import diffcore as dc
from diffcore.testing import Gaussian, Mixture, ReferenceFlow, ReferenceVP

DOUBLE = torch.float64
VP = ReferenceVP()
SOLVERS = [
    ("euler", {}),
    ("heun", {}),
    ("rk4", {}),
    ("dpmpp-2m", {}),
    ("ancestral", {}),
    ("edm-heun", {"s_churn": 4.0}),
    ("dpmpp-sde", {}),
]
DATA = Mixture([0.3, 0.7], [[-1.0, 0.5, 1.2], [0.8, -0.4, 0.1]], [[0.5, 0.9, 0.3], [0.7, 0.4, 0.6]])


class Net(nn.Module):
    """A small network in float32, whose output depends on everything."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.normal_(generator=torch.Generator().manual_seed(i)).mul_(0.3)

    def forward(self, x, t):
        return self.body(torch.cat([x, t[:, None]], 1))


@pytest.fixture(scope="module")
def registry():
    return dc.Registry.load()


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.empty(shape, dtype=DOUBLE).normal_(generator=torch.Generator().manual_seed(seed)).to(dtype)


def field_of(net, process=VP, precondition=False):
    reading = dc.Reading("velocity", "feature", "unit") if precondition else "velocity"
    return dc.Field(dc.Denoiser(net, reading, process))


def finish(run, net):
    while not run.done:
        run.tell(net(*run.ask, **run.cond))
    return run.x


@pytest.mark.parametrize("precondition", [False, True])
@pytest.mark.parametrize("state", [torch.float32, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize(("name", "fields"), SOLVERS, ids=[name for name, _ in SOLVERS])
@torch.no_grad()
def test_a_driven_run_is_the_run(name, fields, state, precondition, registry):
    """Bit by bit, pickled in the middle of every step; as many answers as `sample` makes calls, asked at its times."""
    net, solver, x = Net(), registry.make("solver", name, steps=5, **fields), numbers(4, 3, dtype=state)
    field, seen = field_of(net, precondition=precondition), []
    hook = net.register_forward_pre_hook(lambda module, args: seen.append([v.clone() for v in args]))
    want = dc.sample(field, solver, x, seed=3, ids=[5, 2, 9, 4])
    hook.remove()
    run, told = dc.drive(field, solver, x, seed=3, ids=[5, 2, 9, 4]), 0
    while not run.done:
        assert all(torch.equal(a, b) for a, b in zip(run.ask, seen[told], strict=True))
        run.tell(net(*run.ask))
        run, told = pickle.loads(pickle.dumps(run)), told + 1
    assert torch.equal(run.x, want.x)
    assert (told, run.i, run.ask, run.at) == (want.calls, 5, None, None)


@dc.component
class Counting(dc.Stepper):
    """Three evaluations a step, of which it counts the runs; log-weights and log-probabilities beside."""

    runs: ClassVar[list[int]] = []

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, s=s, h=s.t - t.t, asks=dc.asked((t, 3)))

    def init(self, x):
        return x.new_zeros(len(x))

    def step(self, field, x, row, carry, z):
        self.runs.append(len(self.runs))
        v = [field.velocity(x, row.t) for _ in range(3)]
        after = dc.lincomb((1, x), (row.h, v[0]), (0.5 * row.h, v[1]), (-0.5 * row.h, v[2]))
        logw = carry + after.sum(1)
        return dc.Moved(after, logw, logw=logw, logp=after[:, 0])


def test_a_step_of_k_calls_runs_k_plus_one_times_and_counts_no_calls():
    net, x = Net(), numbers(4, 3)
    with torch.no_grad():
        want = dc.sample(field_of(net), Counting(steps=4), x)
        Counting.runs.clear()
        with dc.Meter() as meter:
            run = dc.drive(field_of(net), Counting(steps=4), x)
            finish(run, net)
    assert len(Counting.runs) == 4 * (3 + 1)
    assert (meter.calls, meter.rows) == (0, 0)
    assert torch.equal(run.x, want.x)
    assert torch.equal(run.logw, want.logw)
    assert torch.equal(run.logp, want.logp)


@torch.no_grad()
def test_a_copy_in_mid_step_is_a_branch(registry):
    """Two networks go on from one state and one answer; neither sees the other, and what was told is nobody's memory."""
    net, other, solver, x = Net(), Net().requires_grad_(False), registry.make("solver", "heun", steps=4), numbers(4, 3)
    other.body[2].weight.mul_(-1)
    run = dc.drive(field_of(net), solver, x)
    for _ in range(3):
        answer = net(*run.ask)
        run.tell(answer)
        answer.fill_(9.0)
    branch = copy.copy(run)
    changed = finish(branch, other)
    ask = run.ask
    ask[0].fill_(9.0)
    assert torch.equal(finish(run, net), dc.sample(field_of(net), solver, x).x)
    assert float((changed - run.x).abs().max()) > 0.1


@torch.no_grad()
def test_the_host_may_change_the_state_between_steps(registry):
    """As two runs of `sample` one after the other; in mid-step the answers of the step are dropped."""
    net, solver, x = Net(), registry.make("solver", "heun"), numbers(4, 3)
    field, grid = field_of(net), [0.9, 0.7, 0.4, 0.1]
    run = dc.drive(field, solver, x, grid=grid)
    while run.i < 2:
        run.tell(net(*run.ask))
    run.tell(net(*run.ask))
    run.x = 0.5 * run.x
    assert float(run.at.t) == pytest.approx(0.4)
    first = dc.sample(field, solver, x, grid=grid[:3]).x
    assert torch.equal(finish(run, net), dc.sample(field, solver, 0.5 * first, grid=grid[2:]).x)
    with pytest.raises(dc.DataError, match=r"the state of this run is \(4, 3\) float32; got \(3, 3\) float32"):
        run.x = x[:3]
    with pytest.raises(dc.DataError, match=r"the state of this run is \(4, 3\) float32; got a ndarray"):
        run.x = x.numpy()


def test_guidance_and_trees_are_asked_for_as_they_are_called(registry):
    """A guided evaluation is one call of twice the rows, with its conditions; a tree is told as one."""
    guidance, label = registry.make("guidance", "cfg", weight=1.7), torch.tensor([0, 1, 1, 0])
    field, net = DATA.field(VP, guidance=[guidance], cond={"label": label}), DATA.net(VP)
    solver, x = registry.make("solver", "ancestral", steps=4), numbers(4, 3, dtype=DOUBLE)
    run = dc.drive(field, solver, x, seed=1)
    assert run.ask[0].shape == (8, 3)
    assert run.cond["label"].tolist() == [0, 1, 1, 0, 2, 2, 2, 2]
    assert torch.equal(finish(run, net), dc.sample(field, solver, x, seed=1).x)

    whole, tree = Gaussian(0.5, 0.8), {"a": x, "b": numbers(4, 2, 2, dtype=DOUBLE)}

    def both(x, t):
        return {name: whole.mean(leaf, VP.coeffs(t)) for name, leaf in x.items()}

    field = dc.Field(dc.Denoiser(both, "x0", VP))
    run, want = dc.drive(field, solver, tree, seed=1), dc.sample(field, solver, tree, seed=1).x
    found = finish(run, both)
    assert all(torch.equal(found[name], want[name]) for name in tree)


def test_a_process_is_enough(registry):
    """The name of what is told, and no network here."""
    net, solver, x = Net(), registry.make("solver", "dpmpp-2m", steps=4), numbers(4, 3)
    with torch.no_grad():
        run = dc.drive(ReferenceFlow(), solver, x, reading="velocity")
        assert torch.equal(finish(run, net), dc.sample(field_of(net, ReferenceFlow()), solver, x).x)


@dc.component
class Loop(dc.Program):
    """A loop of its own."""


@dc.component
class Slopes(dc.Guidance):
    """Differentiates."""

    needs: ClassVar[frozenset[str]] = frozenset({"grad"})


@dc.component
class Curved(dc.Guidance):
    """The covariance of x_0, unannounced."""

    def guide(self, denoiser, x, t, **cond):
        return dc.moments(denoiser, x, t, **cond)[0]


def test_what_cannot_be_driven_is_refused(registry):
    solver, x, base = registry.make("solver", "heun"), numbers(4, 3), dc.Denoiser(Net(), "velocity", VP)
    for made, message in (
        (lambda: dc.drive(dc.Field(base), Loop(), x), "Loop derives from|Loop owns its loop; drive needs single steps"),
        (lambda: dc.drive(dc.Field(base, [Slopes()]), solver, x), "guidance Slopes differentiates through the network; leave"),
        (lambda: dc.drive(dc.Field(base, [Curved()]), solver, x), "called from outside cannot be differentiated"),
        (lambda: dc.drive(VP, solver, x), "drive takes a field, or a process and what is told"),
        (lambda: dc.drive(dc.Field(base), solver, x, reading="eps"), "drive takes a field, or a process"),
        (lambda: dc.drive(dc.Field(type("Other", (), {"process": VP})()), solver, x), "drive needs a dc.Denoiser"),
    ):
        with pytest.raises(dc.IncompatibleError, match=message):
            made()


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        (lambda x: None, dc.DataError, r"the network Net returned None .* must return one tensor"),
        (lambda x: x[:, :2], dc.DataError, r"returned shape \(4, 2\) for a state of shape \(4, 3\)"),
        (lambda x: x.long(), dc.DataError, "returned int64; 'velocity' is real numbers"),
        (lambda x: x.numpy(), dc.DataError, "returned a ndarray; it must return one tensor"),
        (lambda x: x * torch.nan, dc.NumericsError, "what was told in step 1 holds NaN or Inf"),
    ],
)
def test_an_answer_that_cannot_be_read_is_refused_and_the_run_goes_on(told, error, message, registry):
    net, solver, x = Net(), registry.make("solver", "euler", steps=2), numbers(4, 3)
    run = dc.drive(field_of(net), solver, x)
    with pytest.raises(error, match=message):
        run.tell(told(x))
    with torch.no_grad():
        assert torch.equal(finish(run, net), dc.sample(field_of(net), solver, x).x)
    with pytest.raises(dc.DataError, match="the run is done after 2 steps: there is nothing to tell"):
        run.tell(x)

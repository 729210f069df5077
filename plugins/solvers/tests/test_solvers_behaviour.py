"""What every solver of this distribution must also do: count, stop, start anywhere, keep precision, broadcast and compile."""

import pytest
import torch
from diffcore_solvers.ancestral import Ancestral
from diffcore_solvers.ddim import DDIM
from diffcore_solvers.dpmpp import DPMpp2M
from diffcore_solvers.edm import EDMHeun
from diffcore_solvers.euler import Euler
from diffcore_solvers.euler_maruyama import EulerMaruyama
from diffcore_solvers.heun import Heun
from diffcore_solvers.karras import Karras
from diffcore_solvers.rk4 import RK4

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

VP, VE, FLOW, GOLDEN = ReferenceVP(), ReferenceVE(), ReferenceFlow(), golden_mixture()
ODE = [Euler(), Heun(), RK4(), DDIM(), EDMHeun(), DPMpp2M()]
SDE = [DDIM(eta=0.7), EDMHeun(s_churn=4.0), EulerMaruyama(), Ancestral()]
X = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]


def largest(x, y):
    return float((x - y).abs().max())


COST = {Heun: lambda n: 2 * n - 1, EDMHeun: lambda n: 2 * n - 1, RK4: lambda n: 4 * n - 2}


@pytest.mark.item("9.24")
@pytest.mark.parametrize("solver", ODE + SDE, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_evaluations_are_as_declared(solver, steps):
    net = GOLDEN.net(VP, "v")
    result = dc.sample(dc.Field(dc.Denoiser(net, "v", VP)), solver, X, steps=steps)
    plan = solver.plan(VP, result.grid)
    expected = COST.get(type(solver), lambda n: n)(steps)
    assert result.nfe == result.calls == len(net.seen) == sum(map(len, plan.asks)) == expected
    assert min(net.seen) > 0


def test_evaluations_on_a_window_that_ends_above_zero():
    for solver, each in ((Heun(), 2), (RK4(), 4), (EDMHeun(), 2), (DPMpp2M(), 1)):
        assert dc.sample(GOLDEN.field(VP), solver, X, grid=[0.5, 0.3, 0.1]).nfe == 2 * each


@pytest.mark.parametrize("solver", ODE + SDE, ids=repr)
@pytest.mark.parametrize("process", [VP, FLOW, VE], ids=lambda p: type(p).__name__)
def test_the_step_to_clean_data_is_finite_and_bounded(solver, process):
    """From pure noise to sigma = 0, odd and even numbers of steps, odd batches."""
    for steps, batch in ((1, 1), (3, 7), (8, 3)):
        x = process.prior((5,), dc.Draw(1, range(batch))).double()
        got = dc.sample(Gaussian(0.2, 0.5, shape=(5,)).field(process, "v"), solver, x, steps=steps).x
        assert got.shape == x.shape
        assert float(got.abs().max()) < 20


@pytest.mark.parametrize("solver", ODE, ids=repr)
def test_a_run_may_start_in_the_middle(solver):
    """From t = .4 the exact state lands on the exact end, as far as the same steps do in the middle of a longer run."""
    gauss = Gaussian(0.5, 0.4, shape=(1,))
    found = dc.sample(gauss.field(VP), solver, X, start=0.4, steps=200)
    assert float(found.grid[0]) == 0.4
    assert largest(found.x, gauss.flow(VP, X, 0.4, 0.0)) < 6e-2


def test_history_is_new_in_every_run():
    """The first step of DPM-Solver++ has no history, whatever ran before with the same solver object."""
    solver, field = DPMpp2M(), GOLDEN.field(VP)
    first = dc.sample(field, solver, X, start=0.5, steps=1).x
    dc.sample(field, solver, 3 * X, steps=5)
    assert torch.equal(dc.sample(field, solver, X, start=0.5, steps=1).x, first)
    assert largest(first, dc.sample(field, DDIM(), X, start=0.5, steps=1).x) < 1e-14


@pytest.mark.parametrize("solver", ODE + SDE, ids=repr)
def test_interleaved_runs_of_one_solver_do_not_touch_each_other(solver):
    fields, seeds = (GOLDEN.field(VP), GOLDEN.field(FLOW)), (1, 2)
    alone = [[f.x for f in dc.frames(field, solver, X, steps=6, seed=s)] for field, s in zip(fields, seeds, strict=True)]
    runs = [dc.frames(field, solver, X, steps=6, seed=s) for field, s in zip(fields, seeds, strict=True)]
    for step, (one, other) in enumerate(zip(*runs, strict=True)):
        assert torch.equal(one.x, alone[0][step])
        assert torch.equal(other.x, alone[1][step])


@dc.component
class SameNoise(dc.White):
    """Drawn in float32 for every dtype of the state."""

    def like(self, x, draw):
        return draw.normal_like(x.float()).to(x.dtype)


@pytest.mark.parametrize("solver", ODE + SDE, ids=repr)
def test_float32_is_near_float64(solver):
    x, field = X.float(), GOLDEN.field(ReferenceVP(noise=SameNoise()), "v")
    single, double = (dc.sample(field, solver, y, steps=20, start=0.9, seed=6).x for y in (x, x.double()))
    assert single.dtype == torch.float32
    assert largest(single.double(), double) < 1e-5


def pixels(values):
    """A per-pixel grid [N + 1, B, 1, H, W] from values [N + 1, H, W], two samples."""
    return values[:, None, None].expand(-1, 2, 1, -1, -1)


IMAGE = torch.linspace(-1.5, 1.5, 24, dtype=torch.float64).reshape(2, 3, 2, 2)
FALLING = torch.tensor([0.8, 0.5, 0.3, 0.1, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("process", [VP, FLOW], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("solver", ODE + SDE, ids=repr)
def test_equal_times_for_all_pixels_are_one_time(solver, process):
    field = Gaussian(0.3, 0.5, shape=(3, 2, 2)).field(process, "velocity")
    whole = dc.sample(field, solver, IMAGE, grid=FALLING, seed=4).x
    apart = dc.sample(field, solver, IMAGE, grid=pixels(FALLING[:, None, None].expand(-1, 2, 2)), seed=4).x
    assert largest(whole, apart) < 1e-12


RESTS = [(solver, process, 0.5, "v") for solver in ODE + SDE for process in (VP, FLOW)]
# at t = 0 VP has an infinite velocity, and a network of x0 says nothing about eps
RESTS += [(solver, process, 0.0, kind) for solver in ODE + SDE for process in (VP, FLOW) for kind in ("v", "x0", "eps")]
RESTS = [case for case in RESTS if not (case[1] is FLOW and case[3] == "eps")]


@pytest.mark.parametrize(("solver", "process", "rest", "prediction"), RESTS, ids=repr)
def test_pixels_whose_time_stands_still_do_not_move(solver, process, rest, prediction):
    """One pixel rests; it stays bit-equal whatever the network says of it, and the others run as if it were not there."""
    values = FALLING[:, None, None].expand(-1, 2, 2).clone()
    values[:, 0, 1] = rest
    field = dc.Field(dc.Denoiser(lambda x, t: 0.5 * torch.tanh(x), prediction, process))
    got = dc.sample(field, solver, IMAGE, grid=pixels(values), seed=4).x
    whole = dc.sample(field, solver, IMAGE, grid=FALLING, seed=4).x
    still = torch.zeros(2, 2, dtype=torch.bool)
    still[0, 1] = True
    assert torch.equal(got[..., still], IMAGE[..., still])
    assert largest(got[..., ~still], whole[..., ~still]) < 1e-12


@pytest.mark.parametrize("solver", [*ODE, EDMHeun(s_churn=4.0)], ids=repr)
def test_pixels_may_reach_the_data_at_different_steps(solver):
    """Two schedules side by side: each pixel follows its own."""
    early = torch.tensor([0.8, 0.4, 0.0, 0.0, 0.0], dtype=torch.float64)
    values = torch.stack([FALLING, early], 1)[:, :, None].expand(-1, 2, 2)
    field = Gaussian(0.3, 0.5, shape=(3, 2, 2)).field(FLOW, "velocity")
    got = dc.sample(field, solver, IMAGE, grid=pixels(values), seed=4).x
    for row, times in ((0, FALLING), (1, early[:3])):
        churned = isinstance(solver, EDMHeun) and solver.s_churn > 0
        if churned and row == 1:
            continue  # gamma is s_churn over the number of steps, which differs
        alone = dc.sample(field, solver, IMAGE, grid=times, seed=4).x
        assert largest(got[:, :, row], alone[:, :, row]) < 1e-12


@pytest.mark.parametrize("solver", ODE + SDE, ids=repr)
def test_trees_are_sampled_leaf_by_leaf(solver):
    """A dict of two coupled-free parts gives, for a deterministic solver, what each part gives alone."""

    def net(x, t):
        return dc.tree_map(lambda leaf: 0.3 * leaf, x)

    state = {"a": X, "b": (2 * X).expand(7, 3)}
    field = dc.Field(dc.Denoiser(net, "x0", VP))
    both = dc.sample(field, solver, state, steps=5, seed=1).x
    assert {k: v.shape for k, v in both.items()} == {k: v.shape for k, v in state.items()}
    if solver in ODE:
        for name, leaf in state.items():
            assert largest(both[name], dc.sample(field, solver, leaf, steps=5).x) < 1e-14


class Smooth(torch.nn.Module):
    """A small network whose graph has no break."""

    def forward(self, x, t):
        return torch.tanh(0.7 * x) * (1 + t[:, None])


@pytest.mark.parametrize("solver", ODE + SDE, ids=repr)
def test_a_compiled_step_is_one_graph_and_equals_eager(solver):
    """Rows enter as 0-d tensors, so all steps of a kind share one graph."""
    torch.compiler.reset()
    graphs = []

    def backend(module, _):
        graphs.append(module)
        return module.forward

    field, nodes = dc.Field(dc.Denoiser(Smooth(), "v", VP)), Karras(sigma_min=0.05).nodes(VP, 8, 1.0)
    want, plan = dc.sample(field, solver, X, grid=nodes, seed=2).x, solver.plan(VP, nodes)
    step = torch.compile(
        lambda x, row, carry, z: solver.step(field, x, row, carry, z), fullgraph=True, backend=backend, dynamic=False
    )
    draw, x, carry = dc.Draw(2, range(7)), X, solver.init(X)
    for i, row in enumerate(plan.rows(field, X, tensors=True)):
        z = None
        if plan.stochastic:
            z = draw.at(i + 1).normal_like(X) if plan.draws[i] else torch.zeros_like(X)
        x, carry = step(x, row, carry, z)[:2]
    assert largest(x, want) < 1e-12
    assert len(graphs) == len({len(times) for times in plan.asks})


@pytest.mark.parametrize("solver", [DDIM(eta=0.7), EulerMaruyama()], ids=repr)
def test_the_step_kernel_is_the_gaussian_that_was_drawn_from(solver):
    """log p(x_s | x_t) of a drawn step is that of its noise."""
    field, nodes = GOLDEN.field(VP), torch.tensor([0.6, 0.5], dtype=torch.float64)
    row = solver.plan(VP, nodes).rows(field, X)[0]
    z = dc.Draw(0, range(7)).at(1).normal_like(X)
    drawn = solver.step(field, X, row, None, z).x
    want = (torch.distributions.Normal(0.0, 1.0).log_prob(z) - torch.tensor(row.noise, dtype=torch.float64).log()).sum(1)
    assert largest(dc.kernel(field, solver, X, row, None).log_prob(drawn), want) < 1e-9


@pytest.mark.parametrize("solver", [DDIM(eta=1.0), Ancestral(), EulerMaruyama(), EDMHeun(s_churn=4.0)], ids=repr)
def test_noise_belongs_to_the_sample_not_to_the_batch(solver):
    field = GOLDEN.field(VP)
    whole = dc.sample(field, solver, X, steps=5, seed=9).x
    part = dc.sample(field, solver, X[4:6], steps=5, seed=9, ids=[4, 5]).x
    assert largest(part, whole[4:6]) < 1e-13


def test_ve_starts_at_its_own_scale():
    """One long step from sigma = 10: the posterior mean of the mixture there, not of the prior of VP."""
    got = dc.sample(GOLDEN.field(VE), DDIM(), 10 * X, steps=1).x
    assert largest(got, GOLDEN.mean(10 * X, instant(VE, 10.0))) < 1e-13

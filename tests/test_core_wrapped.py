"""Steppers around steppers: RePaint around any of them, plans around plans, what a wrapper sees, and what is refused."""

from __future__ import annotations

import functools
from typing import ClassVar

import pytest
import torch
from torch._dynamo.utils import counters

import diffcore as dc
from diffcore.testing.driving import drive
from diffcore.testing.oracles import Gaussian
from diffcore.testing.recording import keys_drawn, repeated, times_asked
from diffcore.testing.references import ReferenceFlow, ReferenceVE, ReferenceVP

DOUBLE = torch.float64
DATA = Gaussian(torch.tensor([0.6, -1.1, 0.3]).double(), torch.tensor([0.7, 0.4, 1.2]).double())
PROCESSES = (ReferenceVP(), ReferenceFlow(), ReferenceVE())
REGISTRY = dc.Registry.load()
INNER = {"heun": {}, "rk4": {}, "ancestral": {}, "edm-heun": {"s_churn": 4.0}, "dpmpp-2m": {}, "dpmpp-sde": {}, "seeds": {}}


@dc.component
class RePaint(dc.Guidance):
    """Where `mask` is 1 the state is `known` at every level of noise; every step is taken `jumps` times (Lugmayr et al. 2022)."""

    jumps: int = dc.param(default=1, ge=1)

    def guide(self, denoiser, x, t, known, mask, **cond):
        return denoiser(x, t, **cond)

    def solver(self, solver):
        return RePainted.around(solver, jumps=self.jumps)


@dc.component
class RePainted(dc.Wrapped):
    """After each step known entries become alpha_s known + sigma_s z; before the step is taken again, noise goes back to t."""

    jumps: int

    def plan(self, process, grid):
        order = [i for i in range(len(grid) - 1) for _ in range(self.jumps)]
        again = tuple(int(a == b) for a, b in zip(order, [*order[1:], -1], strict=True))
        noise = torch.ones(len(order), dtype=DOUBLE)
        return dc.Plan.over(self.inner, process, grid, repeat=order if self.jumps > 1 else None, again=again, noise=noise)

    def fresh(self, process, x, draw):
        return {name: process.noise.like(x, draw.fold(i)) for i, name in enumerate(("known", "back"))}

    def after(self, field, moved, x, row, own, z, posterior):
        known = dc.lincomb((row.s.alpha, field.cond["known"]), (row.s.sigma, z["known"]))
        x = torch.where(field.cond["mask"] > 0, known, moved.x)
        if row.again:
            a = row.t.alpha / row.s.alpha
            x = dc.lincomb((a, x), ((row.t.sigma**2 - (a * row.s.sigma) ** 2) ** 0.5, z["back"]))
        return moved._replace(x=x), own


@dc.component
class Halved(dc.Stepper):
    """x_s = x_t / 2 with two noises under the keys 1 and 2: a solver whose keys a wrapper might take."""

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, noise=0.1 * (t.t - s.t))

    def draws(self, process, x, draw):
        return process.noise.like(x, draw.fold(1)), process.noise.like(x, draw.fold(2))

    def step(self, field, x, row, carry, z):
        field.posterior(x, row.t)
        return dc.Moved(dc.lincomb((0.5, x), *((row.noise, one) for one in z or ())))


def painted(process, known, mask, jumps=1):
    return DATA.field(process, guidance=[RePaint(jumps=jumps)], cond={"known": known, "mask": mask})


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def ends(process, steps=6, end=0.02):
    return torch.linspace(0.9, end, steps + 1, dtype=DOUBLE) * process.T


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("name", INNER)
def test_where_nothing_is_known_it_is_the_inner_solver_bit_by_bit(name, process):
    """mask = 0: same samples, calls and steps, one-step and multistep, with and without noise of its own."""
    solver, x = REGISTRY.make("solver", name, steps=6, **INNER[name]), numbers(5, 3)
    field = painted(process, torch.zeros(5, 3).double(), torch.zeros(5, 3).double())
    alone, around = (dc.sample(f, solver, x, grid=ends(process), seed=3) for f in (DATA.field(process), field))
    assert torch.equal(alone.x, around.x)
    assert (alone.calls, alone.steps) == (around.calls, around.steps)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("name", INNER)
def test_where_all_is_known_every_state_is_the_noised_known_one(name, process):
    """mask = 1: x = alpha_s known + sigma_s z at every step, whatever came before. Two runs with the same noise from different
    starts and known values differ by alpha_s times the difference of these (1e-12), and z is standard normal: over 6 steps of
    400 x 3 numbers mean and variance within 4.5 standard errors of 0 and 1.
    """
    solver, shape, grid = REGISTRY.make("solver", name, steps=6, **INNER[name]), (400, 3), ends(process)
    known, mask = (numbers(*shape, seed=5), 3 + numbers(*shape, seed=6)), torch.ones(shape).double()
    one, two = (
        list(dc.frames(painted(process, k, mask), solver, numbers(*shape, seed=i), grid=grid, seed=4))
        for i, k in enumerate(known)
    )
    noises = []
    for a, b, time in zip(one[1:], two[1:], grid[1:], strict=True):
        at = process.coeffs(time)
        torch.testing.assert_close(a.x - b.x, at.alpha * (known[0] - known[1]), atol=1e-12, rtol=1e-12)
        noises.append((a.x - at.alpha * known[0]) / at.sigma)
    z = torch.stack(noises)
    assert abs(float(z.mean())) < 4.5 / z.numel() ** 0.5
    assert abs(float(z.var()) - 1) < 4.5 * (2 / z.numel()) ** 0.5
    assert abs(float((z[0] * z[1]).mean())) < 4.5 / z[0].numel() ** 0.5


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_jumps_keep_the_law_of_every_state(process):
    """Data that is one point: the reverse kernel is exact, and so is the way back up. At every frame the law is N(alpha m,
    sigma^2), at the time that the frame says: mean and variance of 20,000 samples within 4.5 standard errors.
    """
    point, n = Gaussian(torch.tensor([0.6, -1.1]).double(), torch.tensor([1e-9, 1e-9]).double()), 20_000
    cond = {"known": torch.zeros(n, 2).double(), "mask": torch.zeros(n, 2).double()}
    field, grid = point.field(process, guidance=[RePaint(jumps=3)], cond=cond), ends(process, 4)
    at = process.coeffs(grid[0])
    x = at.alpha * point.m + at.sigma * numbers(n, 2)
    run = list(dc.frames(field, REGISTRY.make("solver", "ancestral"), x, grid=grid, seed=2))
    visited = [time for time in grid[:-1].tolist() for _ in range(3)]
    assert [frame.t for frame in run] == [*visited, float(grid[-1])]
    assert run[-1].calls == 12
    for frame in run[1:]:
        at = process.coeffs(torch.tensor(frame.t, dtype=DOUBLE))
        assert bool(((frame.x.mean(0) - at.alpha * point.m).abs() < 4.5 * at.sigma / n**0.5).all())
        assert bool(((frame.x.var(0) / at.sigma**2 - 1).abs() < 4.5 * (2 / n) ** 0.5).all())


def test_a_run_with_jumps_says_how_many_steps_it_took():
    process, cond = PROCESSES[0], torch.zeros(2, 3).double()
    field, solver = painted(process, cond, cond, jumps=3), REGISTRY.make("solver", "ancestral", steps=4)
    plain, kept = (dc.sample(field, solver, numbers(2, 3), keep_frames=keep) for keep in (False, True))
    assert (plain.steps, kept.steps, plain.calls, len(kept.frames)) == (12, 12, 12, 13)
    assert torch.equal(plain.x, kept.x)


def test_known_pixels_of_a_grid_of_their_own_rest_while_the_others_jump():
    """Entries whose time stands still keep their value bit by bit, also in the steps that go back up."""
    process, zeros, x = PROCESSES[0], torch.zeros(2, 3).double(), numbers(2, 3)
    each = ends(process)[:, None, None].repeat(1, 2, 3)
    each[:, :, 0] = 0.3
    out = dc.sample(painted(process, zeros, zeros, jumps=2), REGISTRY.make("solver", "ancestral"), x, grid=each).x
    assert torch.equal(out[:, 0], x[:, 0])
    assert not bool((out[:, 1:] == x[:, 1:]).any())


@pytest.mark.parametrize(("name", "jumps", "kinds"), [("heun", 1, 1), ("ancestral", 2, 2), ("dpmpp-2m", 1, 1)])
def test_compiled_steps_equal_eager_ones(name, jumps, kinds, monkeypatch):
    """1e-12, one graph per kind of step, none for another run."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    counters.clear()
    process, mask = dc.Registry.load().make("process", "flow"), torch.tensor([1.0, 0.0]).double().repeat(4, 1)
    denoiser = dc.Denoiser(lambda x, t: x - 0.3 * torch.tanh(x) * t[:, None], "velocity", process)
    solver = REGISTRY.make("solver", name, steps=5)
    for seed in (1, 2):
        field = dc.Field(denoiser, [RePaint(jumps=jumps)], cond={"known": numbers(4, 2, seed=seed), "mask": mask})
        eager, fast = (
            dc.sample(field, solver, numbers(4, 2), grid=ends(process), seed=seed, mode=m) for m in ("eager", "compile")
        )
        torch.testing.assert_close(fast.x, eager.x, atol=1e-12, rtol=1e-12)
        assert (fast.nfe, fast.calls, fast.steps) == (eager.nfe, eager.calls, eager.steps)
        assert counters["stats"]["unique_graphs"] == kinds


def test_a_wrapper_sees_both_ends_the_state_before_and_the_first_posterior():
    """Around Heun, which evaluates twice, and read from the velocity, which is otherwise not made a posterior."""
    seen = []

    @dc.component
    class Looks(dc.Wrapped):
        """Shifts the state before the step by 1 and counts the steps in a carry of its own."""

        def own(self, x):
            return x.new_zeros(len(x))

        def before(self, field, x, row, own, z):
            return x + 1

        def after(self, field, moved, x, row, own, z, posterior):
            seen.append((row.t.t, row.s.t, row.last, x, posterior.x, posterior.at.t, own))
            return moved, own + 1

    process, x, grid = PROCESSES[1], numbers(2, 3), ends(PROCESSES[1], 3)
    states = [f.x for f in dc.frames(DATA.field(process, "velocity"), Looks(inner=REGISTRY.make("solver", "heun")), x, grid=grid)]
    for i, (t, s, last, before, first, at, own) in enumerate(seen):
        assert (t, s, last, at) == (grid[i], grid[i + 1], int(i == 2), grid[i])
        assert torch.equal(before, states[i])
        assert torch.equal(first, states[i] + 1)
        assert own.tolist() == [i, i]


def test_wrappers_of_wrappers_draw_noises_of_their_own():
    """Two RePaints around a solver that draws two noises: no number serves twice, and the inner noise is what it was alone."""
    process, x = PROCESSES[0], numbers(3, 3)
    solver = RePainted(inner=RePainted(inner=Halved(), jumps=1), jumps=1)
    field = painted(process, x, x).bound({"known": x, "mask": x})
    with keys_drawn() as keys:
        dc.sample(DATA.field(process).bound({}), Halved(), x, grid=ends(process))
        alone = list(keys)
        for i in range(6):
            solver.draws(field.process, x, dc.Draw(0, range(3)).at(i + 1))
    assert keys[len(alone) :][:2] == alone[:2]
    assert not repeated(keys[len(alone) :])


def test_the_noise_and_the_times_of_both_add_up():
    """`asks` are the calls that were made, to 1e-12, and `noise` is that of the inner step and the own one."""

    @dc.component
    class Again(dc.Wrapped):
        """Evaluates once more where it ends."""

        def plan(self, process, grid):
            return dc.Plan.over(self.inner, process, grid, noise=grid.diff().neg(), asks=dc.asked(process.pairs(grid)[1]))

        def fresh(self, process, x, draw):
            return process.noise.like(x, draw)

        def after(self, field, moved, x, row, own, z, posterior):
            return moved._replace(x=dc.lincomb((1, moved.x), (1e-3, field.posterior(moved.x, row.s).mean), (row.noise, z))), own

    process, grid = PROCESSES[0], ends(PROCESSES[0], 3)
    inner = REGISTRY.make("solver", "edm-heun", s_churn=3.0)
    outer = Again(inner=inner)
    plan, own = outer.plan(process, grid), inner.plan(process, grid)
    torch.testing.assert_close(plan.noise, own.noise + (grid[:-1] - grid[1:]), atol=1e-15, rtol=0)
    moments = drive(
        outer, DATA.field(process), numbers(2, 3), grid, lambda i, x: outer.draws(process, x, dc.Draw(1, range(2)).at(i))
    )
    for i, asked in enumerate(plan.asks):
        with times_asked() as times:
            moment = next(moments)
        assert asked == (*own.asks[i], float(grid[i + 1]))
        assert times == pytest.approx(asked, rel=1e-12, abs=0)
        assert moment.row.inner.noise == pytest.approx(float(own.noise[i]))


def test_what_cannot_be_wrapped_is_refused():
    @dc.component
    class Owns(dc.Program):
        """One frame."""

        def frames(self, field, x, grid, draw):
            yield dc.Frame(0, 1.0, x)

    @dc.component
    class Nodes(dc.Grid):
        """Equal steps."""

        def nodes(self, process, steps, start):
            return torch.linspace(start, 0.0, steps + 1, dtype=DOUBLE)

    x, multistep = numbers(2, 3), REGISTRY.make("solver", "dpmpp-2m", steps=4)
    with pytest.raises(dc.SpecError, match="solver Owns owns its loop; RePainted needs single steps"):
        dc.sample(painted(PROCESSES[0], x, x), Owns(), x)
    with pytest.raises(dc.SpecError, match="DPMpp2M remembers earlier steps, and to repeat steps"):
        dc.sample(painted(PROCESSES[0], x, x, jumps=2), multistep, x)
    with pytest.raises(dc.SpecError, match="Halved has a grid of its own; give the grid to RePainted instead"):
        RePainted(inner=Halved(grid=Nodes()), jumps=1)
    with pytest.raises(dc.SpecError, match="Halved has 7 steps of its own; give 'steps' to RePainted instead"):
        RePainted(inner=Halved(steps=7), jumps=1)
    whole = RePaint().solver(Halved(steps=7, grid=Nodes()))
    assert (whole.steps, whole.grid, whole.inner.grid) == (7, Nodes(), None)


def test_what_the_inner_solver_declares_holds_for_the_whole():
    @dc.component
    class Declares(Halved):
        """Needs things."""

        requires: ClassVar[frozenset[str]] = frozenset({"reverse"})
        needs: ClassVar[frozenset[str]] = frozenset({"grad"})
        both_ways: ClassVar[bool] = True

        @property
        def group(self):
            return 4

    whole = RePainted(inner=Declares(), jumps=1)
    assert (whole.requires, whole.needs, whole.both_ways, whole.group) == ({"reverse"}, {"grad"}, True, 4)
    assert Halved().group == 1


def test_a_plan_says_when_it_evaluates():
    t = PROCESSES[0].coeffs(torch.tensor([0.9, 0.5], dtype=DOUBLE))
    u = PROCESSES[0].coeffs(torch.tensor([0.7, 0.3], dtype=DOUBLE))
    assert dc.Plan(t=t).asks == ((0.9,), (0.5,))
    assert dc.asked(t, (u, (0, 1)), (t, 2)) == ((0.9, 0.9, 0.9), (0.5, 0.3, 0.5, 0.5))
    with pytest.raises(dc.SpecError, match=r"without an entry 't' must say .* asks=dc.asked"):
        dc.Plan(level=t)
    with pytest.raises(dc.SpecError, match="has the times of 1 steps; the other entries have 2"):
        dc.Plan(t=t, asks=((0.9,),))

"""Sampling: frames and their cost, grids, seeds, gradients, and errors that name what went wrong."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture

DOUBLE = torch.float64
VP, FLOW = ReferenceVP(), ReferenceFlow()
DATA = Gaussian([0.5, -0.2], 0.8)


@dc.component
class Euler(dc.Stepper):
    """x + h v."""

    requires: ClassVar[frozenset[str]] = frozenset({"velocity"})

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, h=s.t - t.t)

    def step(self, field, x, row, carry, z):
        return dc.Moved(dc.lincomb((1, x), (row.h, field.velocity(x, row.t)), out=row.out))


@dc.component
class Ancestral(dc.Stepper):
    """The reverse kernel; no noise in every other step."""

    requires: ClassVar[frozenset[str]] = frozenset({"reverse"})
    additive_noise: ClassVar[bool] = True

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        noise = process.reverse_noise(t, s)
        noise[1::2] = 0
        return dc.Plan(t=t, s=s, noise=noise)

    def step(self, field, x, row, carry, z):
        return dc.Moved(field.reverse(x, row.t, row.s, torch.zeros_like(x) if z is None else z))


def numbers(*shape, seed=0):
    return torch.empty(shape, dtype=DOUBLE).normal_(generator=torch.Generator().manual_seed(seed))


def test_frames_stop_when_the_caller_does():
    """A generator: after two steps the network has been called twice, whatever the number of steps."""
    field = DATA.field(VP)
    run = dc.frames(field, Euler(), numbers(3, 2), steps=50)
    with dc.Meter() as meter:
        taken = [next(run) for _ in range(3)]
        assert [f.step for f in taken] == [0, 1, 2]
        assert [f.calls for f in taken] == [0, 1, 2]
        assert meter.calls == 2
        run.close()
        assert meter.calls == 2


def test_frames_tell_time_cost_and_what_is_known_of_x0():
    field, x = DATA.field(FLOW), numbers(3, 2)
    run = list(dc.frames(field, Euler(), x, grid=[1.0, 0.5, 0.2]))
    assert [f.t for f in run] == [1.0, 0.5, 0.2]
    assert [f.nfe for f in run] == [0, 1, 2]
    assert torch.equal(run[0].x, x)
    known = DATA.mean(run[1].x, FLOW.coeffs(torch.tensor(0.5).double()))
    assert torch.allclose(run[2].x0.mean, known, atol=1e-12)
    assert not any(f.x.requires_grad for f in run)


@pytest.mark.parametrize("keep", [False, True])
def test_sample_is_the_last_frame(keep):
    x = numbers(3, 2)
    last = list(dc.frames(DATA.field(VP), Ancestral(), x, steps=6, seed=4))[-1]
    result = dc.sample(DATA.field(VP), Ancestral(), x, steps=6, seed=4, keep_frames=keep)
    assert torch.equal(result.x, last.x)
    assert (result.nfe, result.calls, len(result.frames)) == (6, 6, 7 if keep else 0)
    assert len(result.grid) == 7


@pytest.mark.parametrize("size", [2, 20_000])
def test_reused_buffers_give_the_same_samples_and_leave_the_start_alone(size):
    """Large states are written to two buffers in turn: equal to fresh ones, and x_T survives."""
    data, x = Gaussian(0.5, 0.8, shape=(size,)), numbers(4, size)
    kept = x.clone()
    a = dc.sample(data.field(VP), Euler(), x, steps=5).x
    b = dc.sample(data.field(VP), Euler(), x, steps=5, keep_frames=True).x
    assert torch.equal(a, b)
    assert torch.equal(x, kept)
    assert a.data_ptr() != x.data_ptr()


def test_a_batched_guided_evaluation_is_one_call_of_two_rows():
    @dc.component
    class Both(dc.Guidance):
        """The mean of two conditions."""

        def guide(self, denoiser, x, t, **cond):
            a, b = denoiser.many(x, t, [cond, {}])
            return a.replace("x0", (a.mean + b.mean) / 2)

    data = golden_mixture((2,))
    field = data.field(VP, guidance=[Both()], cond={"label": torch.tensor([0, 1, 1])})
    result = dc.sample(field, Euler(), numbers(3, 2), steps=4)
    assert (result.calls, result.nfe) == (4, 8)


def test_noise_that_is_not_needed_is_not_drawn():
    """Ancestral draws in steps 1, 3 and 5 of six (its plan has weight 0 in the others, and at sigma = 0)."""
    asked: list[int] = []

    @dc.component
    class Counting(dc.White):
        """Counts its draws."""

        def like(self, x, draw):
            asked.append(draw.index)
            return super().like(x, draw)

    dc.sample(DATA.field(ReferenceVP(noise=Counting())), Ancestral(), numbers(3, 2), steps=6)
    assert asked == [1, 3, 5]
    asked.clear()
    dc.sample(DATA.field(ReferenceVP(noise=Counting())), Euler(), numbers(3, 2), steps=6)
    assert asked == []


def test_samples_follow_their_ids():
    x = numbers(5, 2)
    whole = dc.sample(DATA.field(VP), Ancestral(), x, steps=5, seed=2).x
    part = dc.sample(DATA.field(VP), Ancestral(), x[[4, 1]], steps=5, seed=2, ids=[4, 1]).x
    assert torch.allclose(part, whole[[4, 1]], atol=1e-12)
    other = dc.sample(DATA.field(VP), Ancestral(), x, steps=5, seed=3).x
    assert not torch.allclose(other, whole)


def test_start_and_steps_set_the_grid():
    result = dc.sample(DATA.field(FLOW), Euler(steps=9), numbers(3, 2), start=0.6)
    assert len(result.grid) == 10
    assert float(result.grid[0]) == 0.6
    assert len(dc.sample(DATA.field(FLOW), Euler(steps=9), numbers(3, 2), steps=4).grid) == 5
    assert float(dc.sample(DATA.field(FLOW), Euler(steps=9), numbers(3, 2), start=FLOW.T).grid[0]) == FLOW.T


@pytest.mark.parametrize("start", [0, 0.0, -0.1, 1.001])
def test_a_start_is_above_zero_and_up_to_the_last_time(start):
    with pytest.raises(dc.SpecError, match="start must be a time above 0 and up to T = 1"):
        dc.sample(DATA.field(FLOW), Euler(), numbers(3, 2), start=start)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([1.0], "needs at least 2 times"),
        ([0.5, 0.5], r"must fall strictly .* got \[0.5, 0.5\]"),
        ([0.2, 0.8], "must fall strictly"),
        ([1.0, float("nan"), 0.0], "must fall strictly"),
        ([1.5, 0.5], r"must lie within 0 and T = 1.0; got \[1.5, 0.5\]"),
        ([0.5, -0.1], "must lie within 0 and T"),
    ],
    ids=["one", "repeated", "rising", "nan", "above", "below"],
)
def test_bad_grids_are_refused_with_the_times(grid, message):
    field = DATA.field(VP)
    with dc.Meter() as meter, pytest.raises(dc.SpecError, match=message):
        dc.sample(field, Euler(), numbers(2, 2), grid=grid)
    assert meter.calls == 0


def test_times_per_pixel_may_stand_still_but_not_rise():
    x, grid = numbers(2, 2), torch.tensor([[[0.9, 0.2]] * 2, [[0.5, 0.2]] * 2], dtype=DOUBLE)
    out = dc.sample(DATA.field(VP), Euler(), x, grid=grid).x
    assert torch.equal(out[:, 1], x[:, 1])
    with pytest.raises(dc.SpecError, match="fall strictly"):
        dc.sample(DATA.field(VP), Euler(), x, grid=grid.flip(0))


def spoiled(at, value):
    """A denoiser whose network returns `value` at times up to `at`."""
    return dc.Denoiser(lambda x, t: torch.where(t[:, None] <= at, value, DATA.mean(x, VP.coeffs(t))), "x0", VP)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("keep", [False, True])
def test_nan_and_inf_name_the_first_step_and_its_time(value, keep):
    """Times 1, .75, .5, .25, 0: a network that fails at t <= .5 spoils step 3, which ends at .25."""
    field = dc.Field(spoiled(0.5, value))
    with pytest.raises(dc.NumericsError, match=r"after step 3 \(to t = 0.25\) of solver Euler"):
        dc.sample(field, Euler(), numbers(2, 2), grid=torch.linspace(1, 0, 5, dtype=torch.float64), keep_frames=keep)


def test_a_spoiled_start_is_told_from_a_spoiled_step():
    with pytest.raises(dc.NumericsError, match="the start state holds NaN"):
        dc.sample(DATA.field(VP), Euler(), numbers(2, 2) / 0, steps=4)


def test_solvers_grids_and_guidance_that_do_not_fit_name_both_sides():
    @dc.component
    class Demanding(dc.Grid):
        """Needs levels."""

        requires: ClassVar[frozenset[str]] = frozenset({"levels"})

    @dc.component
    class Jumping(dc.Guidance):
        """Needs jumps."""

        requires: ClassVar[frozenset[str]] = frozenset({"jumps"})

    field = DATA.field(VP)
    have = "process ReferenceVP provides 'affine', 'flat', 'reverse', 'velocity'"
    with pytest.raises(dc.IncompatibleError, match=f"grid Demanding needs 'levels'; {have}"):
        dc.sample(field, Euler(), numbers(2, 2), grid=Demanding())
    with pytest.raises(dc.IncompatibleError, match=f"grid Demanding needs 'levels'; {have}"):
        dc.sample(field, Euler(grid=Demanding()), numbers(2, 2))
    with pytest.raises(dc.IncompatibleError, match=f"guidance Jumping needs 'jumps'; {have}"):
        DATA.field(VP, guidance=[Jumping()])
    with pytest.raises(dc.IncompatibleError, match="FlowMapSolver needs 'flow_map'"):
        dc.sample(field, dc.FlowMapSolver(), numbers(2, 2))


def test_gradients_are_off_unless_asked_for():
    """Off by default; on where x requires them (d x_0 / d x_T of the flow map), or a guidance declares them."""
    seen: list[bool] = []

    @dc.component
    class Watching(dc.Guidance):
        """Notes whether gradients are on."""

        def guide(self, denoiser, x, t, **cond):
            seen.append(torch.is_grad_enabled())
            return denoiser(x, t, **cond)

    @dc.component
    class Differentiating(Watching):
        """Declares gradients."""

        needs: ClassVar[frozenset[str]] = frozenset({"grad"})

    x, grid = numbers(3, 2), torch.linspace(0.8, 0.1, 101, dtype=DOUBLE)
    dc.sample(DATA.field(FLOW, guidance=[Watching()]), Euler(), x, grid=grid)
    dc.sample(DATA.field(FLOW, guidance=[Differentiating()]), Euler(), x, steps=2)
    assert seen == [False] * 100 + [True] * 2
    x.requires_grad_()
    out = dc.sample(DATA.field(FLOW), Euler(), x, grid=grid).x
    (slope,) = torch.autograd.grad(out.sum(), x)
    exact = ((0.81 * 0.64 + 0.01) / (0.04 * 0.64 + 0.64)) ** 0.5
    assert float((slope - exact).abs().max()) < 0.02 * exact
    assert torch.is_grad_enabled()


def test_kernels_are_gaussian_steps():
    """N(step without noise, row.noise^2): the step with z is its mean + scale z; a solver without one is refused."""
    field, x, z = DATA.field(VP), numbers(3, 2), numbers(3, 2, seed=1)
    solver = Ancestral()
    row = solver.plan(VP, torch.tensor([0.8, 0.5, 0.2], dtype=DOUBLE)).rows(field, x)[0]
    found = dc.kernel(field, solver, x, row, None)
    moved = solver.step(field, x, row, None, z).x
    assert torch.allclose(moved, found.mean + found.std * z, atol=1e-12)
    want = torch.distributions.Normal(found.mean, found.std).log_prob(moved).sum(1)
    assert torch.allclose(found.log_prob(moved), want)
    assert torch.equal(found.sample(z), moved)
    with pytest.raises(dc.IncompatibleError, match="Euler has no known step kernel under ReferenceVP"):
        dc.kernel(field, Euler(), x, row, None)


def test_times_without_coefficients_are_regular_from_the_least_on():
    """The least time is one that the network is asked at; where there are coefficients, noise decides."""

    @dc.component
    class Pulled(ReferenceFlow):
        min_time = 0.25

    t = torch.tensor([0.2, 0.25, 0.5], dtype=DOUBLE)
    assert Pulled().regular(dc.Instant(t)).tolist() == [False, True, True]
    assert Pulled().regular(Pulled().coeffs(torch.tensor([0.0, 0.1], dtype=DOUBLE))).tolist() == [False, True]


def test_a_solver_is_a_flow_map():
    """The identity at s = t; over many steps the Gaussian flow map."""
    psi, x = dc.flow_map_of(DATA.field(FLOW), Euler(), steps=400), numbers(3, 2)
    assert psi(x, 0.5, 0.5) is x
    assert torch.allclose(psi(x, 0.8, 0.3), DATA.flow(FLOW, x, 0.8, 0.3), atol=5e-3)
    for steps in (1, 3):
        grid = torch.linspace(0.8, 0.3, steps + 1, dtype=DOUBLE)
        alone = dc.sample(DATA.field(FLOW), Euler(), x, grid=grid).x
        assert torch.equal(dc.flow_map_of(DATA.field(FLOW), Euler(), steps=steps)(x, 0.8, 0.3), alone)


def test_interleaved_runs_do_not_see_each_other():
    x, solver = numbers(3, 2), Ancestral()
    alone = [dc.sample(DATA.field(VP), solver, x, steps=5, seed=s).x for s in (1, 2)]
    runs = [dc.frames(DATA.field(VP), solver, x, steps=5, seed=s) for s in (1, 2)]
    pairs: list[tuple[Any, ...]] = list(zip(*runs, strict=True))
    assert torch.equal(pairs[-1][0].x, alone[0])
    assert torch.equal(pairs[-1][1].x, alone[1])


def test_plans_refuse_columns_of_different_lengths():
    with pytest.raises(dc.SpecError, match="one value per step"):
        dc.Plan(a=torch.zeros(3), b=torch.zeros(4))


def test_rows_are_numbers_in_eager_mode_and_tensors_when_asked():
    """Cast once to the state's dtype; tuples of integers stay Python in both."""
    field, x = DATA.field(VP), numbers(3, 2).float()
    plan = dc.Plan(t=VP.coeffs(torch.tensor([0.5, 0.2], dtype=DOUBLE)), w=torch.tensor([0.1, 0.2], dtype=DOUBLE), order=(1, 2))
    eager, tensors = plan.rows(field, x)[1], plan.rows(field, x, tensors=True)[1]
    assert (eager.w, eager.order, type(eager.t.alpha)) == (0.2, 2, float)
    assert (tensors.w.dtype, tensors.w.ndim, tensors.order) == (torch.float32, 0, 2)
    assert eager.t.time.shape == (3,)
    assert eager.noise == 0


def test_a_plan_is_made_once_for_batches_of_one_shape():
    """Another seed or start needs no plan; another grid, batch size, precision or solver, or what has no hash, does."""
    planned: list[int] = []

    @dc.component
    class Counting(Euler):
        """Counts its plans."""

        scale: float = dc.param(default=1.0, doc="not used")
        table: dict[str, float] | None = dc.param(default=None, doc="not used")

        def plan(self, process, grid):
            planned.append(len(grid) - 1)
            return super().plan(process, grid)

    field, x, plans = DATA.field(VP), numbers(3, 2), []
    for solver, start in [
        (Counting(), x),
        (Counting(), x + 1),
        (Counting(steps=7), x),
        (Counting(scale=2.0), x),
        (Counting(), x[:2]),
        (Counting(), x.float()),
        (Counting(), x),
        (Counting(table={"a": 1.0}), x),
        (Counting(table={"a": 1.0}), x),
    ]:
        found = dc.sample(field, solver, start).x
        assert torch.equal(found, dc.sample(DATA.field(VP), Euler(steps=solver.steps), start).x)
        plans.append(len(planned))
    assert plans == [1, 1, 2, 3, 4, 5, 5, 6, 6]


def test_a_condition_that_is_none_is_the_null_value():
    """A number or a tensor without batch axis, repeated for every sample; without one the missing condition is named."""
    seen: list[dict[str, Any]] = []

    def net(x, t, **cond):
        seen.append(cond)
        return x

    null = {"label": 10, "text": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}
    denoiser, x = dc.Denoiser(net, "v", process=VP, null=null), numbers(3, 2)
    denoiser(x, 0.5, label=None, text=None)
    text = torch.zeros(3, 3, 2)
    denoiser.many(x, 0.5, [{"label": torch.tensor([1, 2, 3]), "text": text}, {"label": None, "text": None}])
    assert seen[0]["label"].tolist() == [10] * 3
    assert torch.equal(seen[0]["text"], null["text"].expand(3, 3, 2))
    assert seen[1]["label"].tolist() == [1, 2, 3, 10, 10, 10]
    assert torch.equal(seen[1]["text"], torch.cat([text, seen[0]["text"]]))
    with pytest.raises(dc.DataError, match="condition 'mask' is missing and the network has no null value"):
        denoiser(x, 0.5, mask=None)


def test_a_network_that_is_cast_later_gets_its_own_precision():
    net = torch.nn.Linear(2, 2)
    denoiser = dc.Denoiser(whole := Through(net), "x0", ReferenceVP())
    x = torch.randn(3, 2)
    assert denoiser(x, 0.5).mean.dtype == torch.float32
    whole.double()
    assert denoiser(x, 0.5).mean.dtype == torch.float32
    torch.testing.assert_close(denoiser(x, 0.5).mean, net(x.double()).float())


class Through(torch.nn.Module):
    """A network that ignores the time."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        return self.net(x)


SHAPE = (16, 8)


@pytest.mark.parametrize(("process", "factor"), [(ReferenceVE(), 0.1), (ReferenceVE(), 10.0), (VP, 0.0), (VP, 5.0)])
def test_a_start_of_the_wrong_size_is_said(process, factor):
    x = factor * process.prior(SHAPE[1:], dc.Draw(0, range(SHAPE[0])))
    field = dc.Field(dc.Denoiser(lambda x, t: 0 * x, "x0", process))
    with pytest.warns(
        dc.DataWarning, match=r"root mean square .* and the noise of Reference.* at T = .* start from process.prior"
    ):
        dc.sample(field, Euler(), x, steps=2)
    with pytest.warns(dc.DataWarning, match="root mean square"):
        next(dc.frames(field, Euler(), x, steps=2))


def test_a_start_that_may_be_meant_is_not():
    """Within the spread of a few numbers, of a size near enough, and from a time that the caller named."""
    for process in (ReferenceVE(), VP, FLOW):
        field = dc.Field(dc.Denoiser(lambda x, t: 0 * x, "x0", process))
        noise = process.prior(SHAPE[1:], dc.Draw(0, range(SHAPE[0])))
        for x in (noise, 3 * noise, noise / 3):
            dc.sample(field, Euler(), x, steps=2)
        for far in ({"start": process.T}, {"start": process.T / 2}, {"grid": [process.T, process.T / 2]}):
            dc.sample(field, Euler(), noise / 50, **far)
        dc.sample(field, Euler(), noise[:1, :2] / 50, steps=2)


@dc.component
class Weighted(Euler):
    """Euler's steps with a log-weight that adds up the steps taken and a log-probability that is the length of one."""

    def init(self, x):
        return torch.zeros(len(x), dtype=x.dtype)

    def step(self, field, x, row, carry, z):
        after = super().step(field, x, row, None, z).x
        logw = carry + after.mean(1)
        return dc.Moved(after, logw, logw=logw, logp=torch.full_like(carry, float(row.s.t - row.t.t)))

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, s=s, h=s.t - t.t)


def test_weights_and_probabilities_of_steps_arrive():
    """logw of the last step, logp of all of them, in frames, in the result, and in the samples of a pipeline of any batch."""
    field, x = DATA.field(VP), numbers(5, 2)
    frames = list(dc.frames(field, Weighted(steps=4), x))
    result = dc.sample(field, Weighted(steps=4), x)
    kept = dc.sample(field, Weighted(steps=4), x, keep_frames=True)
    assert frames[0].logw is frames[0].logp is None
    added = torch.stack([frame.x.mean(1) for frame in frames[1:]]).sum(0)
    for found in (frames[-1].logw, result.logw, kept.logw):
        torch.testing.assert_close(found, added)
    for found in (result.logp, kept.logp):
        torch.testing.assert_close(found, torch.full((5,), -1.0, dtype=DOUBLE))
    assert dc.sample(field, Euler(steps=4), x).logw is None

    registry = dc.Registry.load()
    registry.add(Weighted)
    spec = {
        "data": {"type": "two-moons"}, "process": {"type": "flow"}, "network": {"type": "mlp", "width": 8, "depth": 1},
        "loss": {"type": "denoising"}, "solver": {"type": "weighted", "steps": 3},
    }  # fmt: skip
    pipeline = dc.assemble(spec, registry=registry)
    whole, parts = pipeline.sample(5, seed=1), pipeline.sample(5, seed=1, batch=2)
    torch.testing.assert_close(whole.logw, parts.logw)
    torch.testing.assert_close(parts.logp, torch.full((5,), -1.0))
    assert pipeline.sample(2, solver=Euler(steps=2)).logw is None

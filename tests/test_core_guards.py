"""Mistakes that would give wrong samples without a word: each is refused, or cannot happen."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVP, instant

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
class Noisy(dc.Stepper):
    """x + z."""

    additive_noise: ClassVar[bool] = True

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, noise=s.t)

    def step(self, field, x, row, carry, z):
        return dc.Moved(dc.lincomb((1, x), (row.noise, z)))


def numbers(*shape, seed=0):
    return torch.empty(shape, dtype=DOUBLE).normal_(generator=torch.Generator().manual_seed(seed))


def test_a_stepper_has_no_loop_of_its_own():
    """It would be wrapped, compiled and replayed without it."""
    with pytest.raises(dc.SpecError, match=r"'frames' of Own is final in Stepper, .* derive from another base"):

        @dc.component
        class Own(Euler):  # pyright: ignore[reportUnusedClass]
            def frames(self, field, x, grid, draw):
                yield dc.Frame(0, 1.0, x)


def test_a_step_that_returns_a_pair_is_told_what_to_return():
    @dc.component
    class Pair(Euler):
        def step(self, field, x, row, carry, z):
            return x, carry

    with pytest.raises(dc.IncompatibleError, match=r"a step of solver Pair must return dc.Moved\(x\) or .*; got a tuple"):
        dc.sample(DATA.field(VP), Pair(), numbers(3, 2))


def test_a_solver_is_a_stepper_or_a_program():
    @dc.component
    class Neither(dc.Solver):
        def plan(self, process, grid):
            return Euler().plan(process, grid)

    with pytest.raises(dc.IncompatibleError, match=r"Neither derives from dc.Solver alone: derive it from dc.Stepper, with plan"):
        dc.sample(DATA.field(VP), Neither(), numbers(3, 2))


def test_a_field_is_not_given_its_process():
    with pytest.raises(dc.IncompatibleError, match=r"Field needs a denoiser, which knows its process: .* got a ReferenceVP"):
        dc.Field(VP, DATA.denoiser(VP))


def test_a_bare_network_is_not_a_denoiser():
    with pytest.raises(dc.IncompatibleError, match=r"Field needs a denoiser, .*: Field\(Denoiser\(net.* got a Linear"):
        dc.Field(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f, x: dc.sample(f, "heun", x), dc.IncompatibleError, r"registry.make\('solver', 'heun'"),
        (lambda f, x: dc.sample(f, Euler(), x, mode="Eager"), dc.SpecError, "eager, compile, graph; got 'Eager'"),
        (lambda f, x: dc.sample(f, Euler(), x, grid="karras"), dc.SpecError, "or the times themselves"),
        (lambda f, x: dc.sample(f, Euler(), x, grid=[1.0, 0.5], steps=7), dc.SpecError, "'steps' and 'start'"),
        (lambda f, x: dc.sample(f, Euler(), x, ids=[7]), dc.DataError, "1 ids for 3 samples"),
        (lambda f, x: dc.sample(f, Euler(), x.numpy()), dc.DataError, "must be a tensor or a tree of tensors; got a ndarray"),
        (lambda f, x: dc.Field(f.base, dc.Guidance()), dc.IncompatibleError, "guidance must be a list"),
        (lambda f, x: dc.Denoiser(f.base.net, "eps", "vp"), dc.IncompatibleError, "needs the process"),
        (lambda f, x: VP.corrupt(torch.ones(3, 2).long(), 0.5, dc.Draw(0, range(3))), dc.DataError, "floating-point data"),
        (lambda f, x: VP.corrupt(x, 0.5, dc.Draw(0, range(4))), dc.DataError, "for 4 samples, the state has 3"),
        (lambda f, x: dc.Plan(t=VP.pairs(torch.tensor([1.0, 0.5]))[0], w=0.5), dc.SpecError, r"not so: w = 0.5"),
        (lambda f, x: dc.Range(lo=1.0, hi=1.0), dc.SpecError, "a range needs lo < hi"),
    ],
)
def test_natural_mistakes_get_one_clear_error(call, error, message):
    with pytest.raises(error, match=message):
        call(DATA.field(VP), numbers(3, 2))


@pytest.mark.parametrize("size", [1, 3])
def test_a_network_that_changes_its_time_is_stopped(size):
    def net(x, t):
        t *= 1000
        return x

    field = dc.Field(dc.Denoiser(net, "velocity", VP))
    with pytest.raises(dc.DataError, match=r"write `t = 1000 \* t`"):
        dc.sample(field, Euler(), numbers(size, 2))


def test_plans_made_in_inference_mode_serve_gradients_later():
    field, x = dc.Field(dc.Denoiser(lambda x, t: x * t[:, None], "velocity", FLOW)), numbers(3, 2)
    with torch.inference_mode():
        first = dc.sample(field, Euler(steps=3), x).x
    leaf = x.clone().requires_grad_()
    found = dc.sample(field, Euler(steps=3), leaf).x
    found.sum().backward()
    assert torch.equal(found.detach(), first)
    assert leaf.grad is not None


def test_time_is_never_half_precision():
    """In bfloat16 the time 0.999 would be 1."""
    seen = []

    def net(x, t):
        seen.append((t.dtype, float(t[0])))
        return x

    denoiser, x = dc.Denoiser(net, "velocity", FLOW), torch.zeros(2, 3, dtype=torch.bfloat16)
    denoiser(x, torch.full((2,), 0.999))
    at = FLOW.corrupt(x, torch.full((2,), 0.999), dc.Draw(0, range(2))).at
    denoiser(x, at)
    dc.sample(dc.Field(denoiser), Euler(), x, grid=[0.999, 0.5])
    assert all(dtype == torch.float32 and abs(t - 0.999) < 1e-6 for dtype, t in seen)
    assert (at.t.dtype, at.alpha.dtype) == (torch.float32, torch.bfloat16)
    plan = Euler().plan(FLOW, torch.tensor([0.999, 0.5], dtype=DOUBLE))
    row = plan.rows(dc.Field(denoiser), x, tensors=True)[0]
    assert (row.t.t.dtype, row.t.alpha.dtype) == (torch.float32, torch.bfloat16)


def test_a_network_has_its_own_precision():
    """A bfloat16 network on a float32 state: it is fed bfloat16, the state stays float32."""
    net = nn.Linear(2, 2).to(torch.bfloat16)
    denoiser, x = (
        dc.Denoiser(lambda x, t: net(x), "velocity", FLOW),
        torch.randn(3, 2, generator=torch.Generator().manual_seed(0)),
    )
    module = nn.Module()
    module.inner, module.forward = net, lambda x, t: net(x)
    denoiser = dc.Denoiser(module, "velocity", FLOW)
    found = denoiser(x, 0.5).velocity
    assert found.dtype == torch.float32
    assert torch.equal(found, net(x.bfloat16()).float())


def test_guidance_that_differentiates_leaves_no_history():
    """Gradients are on within it although they are off outside, and no graph grows along the run."""
    tracked = []

    @dc.component
    class Pull(dc.Guidance):
        """Moves the mean along the gradient of -|x_0|^2."""

        needs: ClassVar[frozenset[str]] = frozenset({"grad"})

        def guide(self, denoiser, x, t, **cond):
            leaf = x.detach().requires_grad_()
            found = denoiser(leaf, t, **cond)
            (slope,) = torch.autograd.grad(found.mean.square().sum(), leaf)
            tracked.append(x.requires_grad)
            return found.replace("x0", found.mean - 0.1 * slope)

    field, x = DATA.field(VP, guidance=[Pull()]), numbers(3, 2)
    result = dc.sample(field, Euler(steps=5), x, keep_frames=True)
    assert not any(tracked)
    assert not any(f.x.requires_grad or (f.x0 is not None and f.x0.mean.requires_grad) for f in result.frames)
    leaf = x.clone().requires_grad_()
    assert dc.sample(field, Euler(steps=5), leaf).x.requires_grad


def test_guidance_of_the_solver_holds_in_sample_and_frames():
    @dc.component
    class Twice(dc.Guidance):
        """Half the step size."""

        def solver(self, solver):
            return Euler(steps=2 * solver.steps)

    field, x = DATA.field(VP, guidance=[Twice()]), numbers(3, 2)
    assert dc.sample(field, Euler(steps=3), x).nfe == 6
    assert [f.step for f in dc.frames(field, Euler(steps=3), x)][-1] == 6
    assert torch.equal(dc.sample(field, Euler(steps=3), x).x, dc.sample(DATA.field(VP), Euler(steps=6), x).x)


def test_a_flow_map_does_not_drop_guidance_silently():
    @dc.component
    class Half(dc.Guidance):
        """Half the mean."""

        def guide(self, denoiser, x, t, **cond):
            found = denoiser(x, t, **cond)
            return found.replace("x0", found.mean / 2)

    field = dc.Field(DATA.denoiser(FLOW), [Half()], flow_map=dc.FlowMap())
    with pytest.raises(dc.IncompatibleError, match=r"jumps by the flow map, which guidance \(Half\) cannot change"):
        dc.sample(field, dc.FlowMapSolver(steps=1), numbers(3, 2))


def test_interleaved_runs_count_their_own_cost():
    field, x = DATA.field(VP), numbers(3, 2)
    a, b = dc.frames(field, Euler(steps=4), x), dc.frames(field, Euler(steps=4), x)
    both = list(zip(a, b, strict=True))
    assert [(p.nfe, q.nfe, p.calls) for p, q in both] == [(i, i, i) for i in range(5)]


def test_the_scale_of_a_kernel_is_matched_from_the_left():
    """Noise per sample, with as many samples as dimensions."""
    x, z = torch.zeros(3, 3, dtype=DOUBLE), numbers(3, 3)
    grid = torch.tensor([[1.0, 1.0, 1.0], [0.9, 0.5, 0.1]], dtype=DOUBLE)
    row = Noisy().plan(FLOW, grid).rows(Gaussian([0.0] * 3, 1.0).field(FLOW), x)[0]
    law = dc.kernel(Gaussian([0.0] * 3, 1.0).field(FLOW), Noisy(), x, row, None)
    assert torch.equal(law.sample(z), grid[1][:, None] * z)
    want = torch.distributions.Normal(0.0, grid[1][:, None]).log_prob(z).sum(1)
    torch.testing.assert_close(law.log_prob(z), want)


def test_a_learned_schedule_gets_its_gradient_through_the_run():
    """x_t = (1 - t) x_0 + b t eps: the derivative by b of an Euler run equals the difference quotient."""

    class Learned(nn.Module, dc.AffineProcess):
        """sigma = b t."""

        def __init__(self, b):
            nn.Module.__init__(self)
            self.b = nn.Parameter(torch.tensor(b, dtype=DOUBLE))

        def coeffs(self, t):
            one = torch.ones_like(t)
            return dc.Coeffs(t, 1 - t, self.b * t, -one, self.b * one)

    x = numbers(3, 2)

    def run(b, grad):
        process = Learned(b)
        field = dc.Field(dc.Denoiser(lambda x, t: 0.3 * x, "x0", process))
        return process, dc.sample(field, Euler(), x, grid=[0.9, 0.6, 0.3], grad=grad).x.square().sum()

    process, value = run(1.2, True)
    value.backward()
    quotient = (float(run(1.2 + 1e-6, None)[1]) - float(run(1.2 - 1e-6, None)[1])) / 2e-6
    assert abs(float(process.b.grad) - quotient) < 1e-6 * max(1.0, abs(quotient))
    assert not run(1.2, None)[1].requires_grad


def test_a_moving_mean_moves_the_prior():
    class Moving(dc.AffineProcess):
        """The straight path plus 3 t."""

        def coeffs(self, t):
            one = torch.ones_like(t)
            return dc.Coeffs(t, 1 - t, t, -one, one, 3 * t, 3 * one)

    start = Moving().prior((1,), dc.Draw(0, range(4000)))
    assert abs(float(start.mean()) - 3) < 4.5 / 4000**0.5


def test_out_may_be_an_operand_twice():
    a = numbers(3)
    expected = 5 * a
    assert torch.allclose(dc.lincomb((2, a), (3, a), out=a), expected)
    assert torch.allclose(a, expected)


def test_many_evaluates_times_with_one_row_for_all_samples():
    """A time per column, the same for every sample: (1, W)."""
    denoiser, x = DATA.denoiser(FLOW), numbers(3, 2)
    t = torch.tensor([[0.3, 0.6]], dtype=DOUBLE)
    one = denoiser(x, t).mean
    assert all(torch.allclose(p.mean, one) for p in denoiser.many(x, t, [{}, {}]))


def test_a_process_without_coefficients_is_preconditioned_by_its_own_rule():
    class Tokens(dc.Process):
        """Scales by the time."""

        predictions: ClassVar[tuple[str, ...]] = ("v",)

        def posterior(self, x, out, at, reading):
            return out

    process = Tokens()
    found = dc.Denoiser(lambda x, t: x, dc.Reading("v", "feature", "unit"), process)(numbers(3, 2), 0.5)
    assert torch.equal(found, numbers(3, 2))
    scaled = instant(FLOW, 0.5)
    assert torch.allclose(FLOW.scale_input(numbers(3, 2), scaled, 0.5), numbers(3, 2) / (0.25 * 0.25 + 0.25) ** 0.5)


def test_a_rising_grid_carries_data_to_noise_where_a_solver_goes_both_ways():
    """There and back again: rk4 returns to its start to the error of its order; Euler's own step refuses to rise."""
    registry, x = dc.Registry.load(), DATA.sample(5, dc.Draw(0, range(5))).double()
    up, field = torch.linspace(0.05, 0.95, 41, dtype=DOUBLE), DATA.field(VP, "eps")
    for name, error in (("rk4", 1e-6), ("heun", 1e-3), ("ddim", 0.1), ("euler", 0.1)):
        solver = registry.make("solver", name)
        noise = dc.sample(field, solver, x, grid=up).x
        exact = DATA.flow(VP, x, 0.05, 0.95)
        assert float((noise - exact).abs().max()) < error
        assert float((dc.sample(field, solver, noise, grid=up.flip(0)).x - x).abs().max()) < 2 * error
    for solver in (Euler(), registry.make("solver", "ddim", eta=0.5)):
        with pytest.raises(dc.SpecError, match="must fall strictly from noise to data; got"):
            dc.sample(field, solver, x, grid=up)
    with pytest.raises(dc.SpecError, match=r"\(or all rise\)"):
        dc.sample(field, registry.make("solver", "heun"), x, grid=[0.1, 0.5, 0.4])


class Marked(torch.Tensor):
    """A tensor of a class of its own."""


@pytest.mark.parametrize("wrap", [nn.Parameter, lambda x: x.as_subclass(Marked)], ids=["parameter", "subclass"])
@pytest.mark.parametrize("grad", [False, True])
def test_tensors_of_other_classes_start_a_run_and_come_out_of_networks(wrap, grad):
    x, times = numbers(3, 2), torch.linspace(1, 0, 4, dtype=DOUBLE)
    net = nn.Linear(2, 2, dtype=DOUBLE)
    plain = dc.sample(dc.Field(dc.Denoiser(lambda x, t: net(x), "velocity", FLOW)), Euler(), x, grid=times).x
    start = wrap(x.clone())
    for returned in (lambda x: x, wrap):
        field = dc.Field(dc.Denoiser(lambda x, t, of=returned: of(net(x).detach()) if of is wrap else net(x), "velocity", FLOW))
        made = dc.sample(field, Euler(), start, grid=times, grad=grad).x
        assert torch.allclose(made.detach().as_subclass(torch.Tensor), plain.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(2)], ids=["dropout", "batch-norm"])
def test_a_network_in_training_mode_is_said_once(layer, recwarn):
    net = nn.Sequential(nn.Linear(2, 2), layer).to(DOUBLE)
    field = dc.Field(dc.Denoiser(lambda x, t: net(x), "velocity", FLOW))

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def forward(self, x, t):
            return self.inner(x)

    def notes(made, **options):
        recwarn.clear()
        field = dc.Field(dc.Denoiser(made, "velocity", FLOW))
        dc.sample(field, Euler(), numbers(3, 2), grid=torch.linspace(1, 0, 4, dtype=DOUBLE), **options)
        return [str(warning.message) for warning in recwarn if "training mode" in str(warning.message)]

    said = f"the network Own is in training mode, and its {type(layer).__name__} acts in it: call net.eval()"
    assert notes(Own()) == [said]
    assert notes(Own().eval()) == []
    assert notes(Own(), grad=True) == []
    assert field

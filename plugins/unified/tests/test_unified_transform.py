"""6.11, 6.12: a network of one process, read under another, is the exact network of the other."""

from __future__ import annotations

import pytest
import torch
from diffcore_unified.through import Through
from diffcore_unified.transform import transform
from diffcore_unified.transformed import Transformed, scale

import diffcore as dc
from diffcore.testing import Gaussian, golden_mixture

REGISTRY = dc.Registry.load()
A = {name: REGISTRY.make("process", name) for name in ("vp", "ve", "sub-vp", "edm", "flow", "trig", "cosine")}
A["edm"] = REGISTRY.make("process", "edm", sigma_max=200.0)  # VP ends at sigma / alpha = 151, above the usual 80
DATA, GAUSS = golden_mixture((3,)), Gaussian(0.5, 0.6, shape=(3,))
PAIRS = [(a, b) for a in A for b in A if a != b]
LAM = torch.linspace(-3.0, 3.0, 7, dtype=torch.float64)
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def readable(process, name):
    try:
        process.check_prediction(name, 0.5)
    except dc.IncompatibleError:
        return False
    return True


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_the_moved_denoiser_is_the_exact_one_of_the_other_process(a, b):
    """Mean, noise and velocity of the oracle under B, from networks of A of every prediction: numbers and batches of times."""
    for name in (n for n in A[a].predictions if readable(A[a], n)):
        moved = transform(DATA.denoiser(A[a], name), A[b])
        times = moved.process.t_of_lam(LAM)
        each = times[torch.arange(5)], times[torch.arange(15).reshape(5, 3) % 7]
        for t in (*times.tolist(), each[0]):
            at = A[b].coeffs(torch.as_tensor(t, dtype=torch.float64))
            known = moved(X, t)
            for want in ("mean", "eps", "velocity"):
                exact = getattr(DATA, want)(X, at)
                assert float((getattr(known, want) - exact).abs().max()) < 1e-9 * (1 + float(exact.abs().max())), (name, want, t)
        assert moved(X, each[1]).mean.shape == X.shape


def test_several_conditions_at_once_are_each_of_them():
    """What guidance asks of a moved denoiser in one call."""
    data, x = golden_mixture((2,)), X[:4, :2]
    moved = transform(data.denoiser(A["vp"], "eps"), A["flow"])
    conds = [{"label": torch.tensor([0, 1, 0, 1])}, {"label": torch.tensor([1, 1, 0, 0])}]
    for known, cond in zip(moved.many(x, 0.4, conds), conds, strict=True):
        torch.testing.assert_close(known.mean, moved(x, 0.4, **cond).mean, rtol=1e-12, atol=1e-13)


@pytest.mark.item("6.11")
def test_the_velocity_is_that_of_the_formula():
    """v_B = (c'/c) x_B + c tau' v_A, c' and tau' by automatic differentiation."""
    there = Transformed(of=A["vp"], to=A["flow"])
    for u in (0.1, 0.4, 0.8):
        t = torch.tensor(u, dtype=torch.float64, requires_grad=True)
        tau = there.clock(t)
        at, twin = A["flow"].coeffs(t), A["vp"].coeffs(tau)
        c = scale(at, twin)
        dc_, dtau = torch.autograd.grad(c, t, retain_graph=True)[0], torch.autograd.grad(tau, t)[0]
        va = DATA.velocity(X / c.detach(), A["vp"].coeffs(tau.detach()))
        found = transform(DATA.denoiser(A["vp"], "eps"), A["flow"])(X, u).velocity
        torch.testing.assert_close(found, dc_ / c.detach() * X + c.detach() * dtau * va, rtol=1e-9, atol=1e-9)


@pytest.mark.item("6.11", "6.12")
def test_flow_and_trig_clocks():
    """To A = flow the clock is sigma / (alpha + sigma) and c = alpha + sigma; to A = trig the angle and the radius."""
    for name in ("vp", "sub-vp", "edm"):
        t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64) * A[name].T
        at = A[name].coeffs(t)
        for of, tau, c in (
            ("flow", at.sigma / (at.alpha + at.sigma), at.alpha + at.sigma),
            ("trig", torch.atan2(at.sigma, at.alpha) * 2 / torch.pi, (at.alpha**2 + at.sigma**2).sqrt()),
        ):
            there = Transformed(of=A[of], to=A[name])
            torch.testing.assert_close(there.clock(t), tau, rtol=1e-12, atol=0)
            torch.testing.assert_close(scale(at, there.twin(at)), c, rtol=1e-12, atol=0)


def run(field, solver, x, times):
    return dc.sample(field, solver, x, grid=times, seed=3).x


EXPONENTIAL = [
    ("ddim", {}),
    ("ddim", {"eta": 1.0}),
    ("dpmpp-2m", {}),
    ("ancestral", {}),
    ("gamma-sde", {"gamma": 0.5}),
    ("edm-heun", {}),
]


@pytest.mark.item("6.11")
@pytest.mark.parametrize(("solver", "fields"), EXPONENTIAL)
@pytest.mark.parametrize("b", ["flow", "trig", "edm"])
def test_exponential_integrators_give_the_same_samples(solver, fields, b):
    """At equal levels, with equal noise: c(T) x_A goes to x_A(0) with ten steps of any solver in lam, to rounding."""
    solver = REGISTRY.make("solver", solver, **fields)
    denoiser = DATA.denoiser(A["vp"], "eps")
    moved = transform(denoiser, A[b])
    tau = A["vp"].t_of_lam(torch.cat([torch.linspace(-5.0, 4.0, 10, dtype=torch.float64), torch.tensor([torch.inf])]))
    times = moved.process.time_of(tau)
    c = float(A[b].coeffs(times[0]).sigma / A["vp"].coeffs(tau[0]).sigma)
    plain = run(dc.Field(denoiser), solver, X, tau)
    found = run(dc.Field(moved), solver, c * X, times)
    assert float((found - plain).abs().max()) < 1e-11


@pytest.mark.parametrize("b", ["flow", "trig"])
def test_ode_solvers_agree_to_their_error(b):
    """RK4 in the time of B and of A: both within their error of the exact end point, which falls with order 4."""
    moved, start, end = transform(GAUSS.denoiser(A["vp"], "v"), A[b]), 0.9, 0.05
    exact = GAUSS.flow(A["vp"], X, start, end)
    tau = torch.tensor([start, end], dtype=torch.float64)
    ends = moved.process.time_of(tau)
    up, down = (A[b].coeffs(ends).sigma / A["vp"].coeffs(tau).sigma).tolist()
    rk4, gaps = REGISTRY.make("solver", "rk4"), []
    for n in (50, 100, 200):
        u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        nodes = ends[0] ** (1 - u) * ends[1] ** u
        nodes[0], nodes[-1] = ends
        gaps.append(float((run(dc.Field(moved), rk4, up * X, nodes) / down - exact).abs().max()))
    assert gaps[-1] < 1e-8, gaps
    assert 10 < gaps[0] / gaps[1] < 24, gaps


@pytest.mark.item("6.11", "6.12")
def test_through_is_the_transform_with_guidance_kept(make):
    """The solver `through` gives the samples of the inner solver on the transformed field, and honours guidance."""
    data, guidance = golden_mixture((2,)), [make("guidance", "cfg", weight=2.0)]
    cond, x = {"label": torch.tensor([0, 1, 0, 1])}, X[:4, :2]
    denoiser = data.denoiser(A["vp"], "eps")
    field = dc.Field(denoiser, guidance, cond=cond)
    inner = make("solver", "ddim", grid={"type": "uniform-lam"})
    through = Through(steps=12, to=A["flow"], solver=inner)
    result = dc.sample(field, through, x, seed=1, keep_frames=True)
    want = dc.sample(field, inner, x, grid=result.grid, seed=1)
    assert float((result.x - want.x).abs().max()) < 1e-11
    assert (result.nfe, len(result.frames)) == (24.0, 13)
    unguided = dc.sample(dc.Field(denoiser, cond=cond), through, x, seed=1).x
    assert float((unguided - result.x).abs().max()) > 1e-2


def test_through_frames_are_states_and_times_of_the_trained_process(make):
    """Every frame lies on the trained process's own exact path, at its time; also from flow (pure noise) to EDM."""
    data = GAUSS
    rk4 = make("solver", "rk4", grid={"type": "karras"})
    for frame in dc.sample(data.field(A["vp"], "v"), Through(steps=60, to=A["edm"], solver=rk4), X, keep_frames=True).frames[:-1]:
        assert float((frame.x - data.flow(A["vp"], X, 1.0, frame.t)).abs().max()) < 2e-4, frame.t
    last = dc.sample(data.field(A["flow"], "velocity"), Through(steps=60, to=REGISTRY.make("process", "edm"), solver=rk4), X).x
    assert float((last - data.flow(A["flow"], X, 1.0, 0.0)).abs().max()) < 0.03  # the noise of EDM ends at 80


def test_nodes_of_through_begin_at_the_start(make):
    """A grid that is uniform in lam has the same levels on B, from the very start that was asked for."""
    inner = make("solver", "ddim", grid={"type": "uniform-lam", "end": "t_min"})
    nodes = Through(to=A["flow"], solver=inner).nodes(A["vp"], 5, 0.7)
    assert float(nodes[0]) == 0.7
    torch.testing.assert_close(nodes, inner.nodes(A["vp"], 5, 0.7), rtol=1e-9, atol=0)


def test_through_with_times_per_entry(make):
    """The same time for every sample, written out, gives the frames of one time: states, and A's times."""
    inner = make("solver", "gamma-sde", gamma=0.5)
    through = Through(to=A["flow"], solver=inner)
    grid, field, draw = torch.tensor([0.8, 0.5, 0.2], dtype=torch.float64), DATA.field(A["vp"]), dc.Draw(1, range(5))
    plain, wide = (list(through.frames(field, X, g, draw)) for g in (grid, grid[:, None].expand(3, 5)))
    for a, b in zip(plain, wide, strict=True):
        torch.testing.assert_close(torch.as_tensor(b.t), torch.full((5,), a.t, dtype=torch.float64), rtol=1e-12, atol=0)
        torch.testing.assert_close(b.x, a.x, rtol=1e-11, atol=1e-13)
    *_, want = inner.frames(field, X, grid, draw)  # and, with the same noise, those of A itself
    torch.testing.assert_close(plain[-1].x, want.x, rtol=0, atol=1e-11)


def test_a_flow_map_belongs_to_one_schedule():
    class Jump(dc.Stepper):
        requires = frozenset({"flow_map"})

    with pytest.raises(dc.SpecError, match="flow map"):
        Through(to=A["flow"], solver=Jump())


def test_ends_are_those_the_network_knows():
    """T and min_time under B are A's levels; where B is the narrower, they are B's own."""
    there = Transformed(of=A["vp"], to=A["flow"])
    lam = A["flow"].coeffs(torch.tensor([there.min_time, there.T], dtype=torch.float64)).lam
    torch.testing.assert_close(lam, A["vp"].coeffs(torch.tensor([1e-3, 1.0], dtype=torch.float64)).lam, rtol=1e-9, atol=0)
    back = Transformed(of=A["flow"], to=A["vp"])
    assert (back.T, back.min_time) == (1.0, 1e-3)
    assert float(there.clock(torch.tensor(0.0))) == 0.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: REGISTRY.make("solver", "through", to={"type": "flow"}, solver={"type": "heun", "steps": 7}), "number of steps"),
        (
            lambda: Through(to=A["flow"], solver=REGISTRY.make("solver", "heun"), grid=REGISTRY.make("grid", "uniform")),
            "'solver'",
        ),
        (lambda: Transformed(of=A["vp"], to=A["flow"]).check_prediction("velocity", 0.5), "through"),
    ],
)
def test_what_is_refused_says_why(call, words):
    with pytest.raises(dc.DiffcoreError, match=words):
        call()

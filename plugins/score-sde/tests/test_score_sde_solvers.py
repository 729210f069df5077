"""Reverse diffusion and predictor-corrector: published forms, weak order, Bayes' rule, the law that a correction keeps."""

import itertools
import math

import pytest
import torch
from diffcore_score_sde.predictor_corrector import PredictorCorrector
from diffcore_score_sde.reverse_diffusion import ReverseDiffusion
from diffcore_score_sde.sde import diffusion_square, drift
from scipy import stats

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

VP, VE, FLOW, GOLDEN = ReferenceVP(), ReferenceVE(), ReferenceFlow(), golden_mixture()
ALL = [VP, VE, FLOW]
X = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]


def name(value):
    return type(value).__name__


def grid(*times):
    return torch.tensor(times, dtype=torch.float64)


def slope(steps, errors):
    return -math.log(errors[-1] / errors[-2]) / math.log(steps[-1] / steps[-2])


@dc.component
class Euler(dc.Stepper):
    """x + (s - t) v: a deterministic predictor from elsewhere."""

    requires = frozenset({"velocity", "flat"})

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, dt=s.t - t.t)

    def step(self, field, x, row, carry, z):
        assert z is None or row.noise == 0
        return dc.Moved(dc.lincomb((1, x), (row.dt, field.velocity(x, row.t))))


# --- reverse diffusion ------------------------------------------------------------------------------------------------


def stepped(solver, process, t, s, z=None):
    field = GOLDEN.field(process)
    (row,) = solver.plan(process, grid(t, s)).rows(field, X)
    return solver.step(field, X, row, None, torch.zeros_like(X) if z is None else z).x


@pytest.mark.item("4.22")
@pytest.mark.parametrize(("t", "s"), [(0.9, 0.85), (0.5, 0.3), (0.2, 0.19)])
def test_it_is_the_published_step_of_vp_and_ve(t, s):
    """VP: (2 - sqrt(1 - b)) x + b score + sqrt(b) z; VE: x + (sigma_t^2 - sigma_s^2) score + sqrt(sigma_t^2 - sigma_s^2) z."""
    z = torch.linspace(1, -1, 7, dtype=torch.float64)[:, None]
    b = 1 - float(instant(VP, t).alpha / instant(VP, s).alpha) ** 2
    score = GOLDEN.score(X, instant(VP, t))
    want = (2 - math.sqrt(1 - b)) * X + b * score + math.sqrt(b) * z
    assert float((stepped(ReverseDiffusion(), VP, t, s, z) - want).abs().max()) < 1e-12
    gap = t * t - s * s
    want = X + gap * GOLDEN.score(X, instant(VE, t)) + math.sqrt(gap) * z
    assert float((stepped(ReverseDiffusion(), VE, t, s, z) - want).abs().max()) < 1e-12


@pytest.mark.item("4.07", "6.18")
def test_it_differs_from_euler_maruyama_and_ddpm_by_the_known_second_order_terms():
    """b = 1 - (alpha_t / alpha_s)^2. EM with b for beta dt: x + b x / 2 + b score. Reverse diffusion - EM = b^2 x / 8 + O(b^3),
    DDPM - EM = 3 b^2 x / 8 + b^2 score / 2 + O(b^3)."""
    left = []
    for step in (0.02, 0.01, 0.005):
        t, s = 0.5, 0.5 - step
        at, to = instant(VP, t), instant(VP, s)
        b = 1 - float(at.alpha / to.alpha) ** 2
        score = GOLDEN.score(X, at)
        em = X + b / 2 * X + b * score
        known = GOLDEN.denoiser(VP)(X, t)
        ddpm = VP.reverse(X, at, to, known, torch.zeros_like(X))
        rest = stepped(ReverseDiffusion(), VP, t, s) - em - b**2 / 8 * X
        other = ddpm - em - 3 * b**2 / 8 * X - b**2 / 2 * score
        left.append((b, float(rest.abs().max()), float(other.abs().max())))
    for k in (1, 2):
        order = math.log(left[0][k] / left[-1][k]) / math.log(left[0][0] / left[-1][0])
        assert order > 2.8


def moments(plan, process, nodes, data):
    """Mean and variance of the samples of Gaussian data, by the exact recursion that the steps are."""
    m, d2 = float(data.m.reshape(-1)[0]), float(data.std.reshape(-1)[0]) ** 2
    at = process.coeffs(nodes)
    mean, var = float(at.alpha[0]) * m, float(at.alpha[0] ** 2 * d2 + at.sigma[0] ** 2)
    for i in range(len(nodes) - 1):
        a, v = float(at.alpha[i]), float(at.alpha[i] ** 2 * d2 + at.sigma[i] ** 2)
        keep, gain, noise = (float(plan.entries[k][i]) for k in ("keep", "gain", "noise"))
        k = keep + gain * a * d2 / v
        mean = k * mean + gain * (m - a * d2 / v * a * m)
        var = k * k * var + noise**2
    return mean, var


@pytest.mark.item("4.19", "4.22")
@pytest.mark.parametrize("process", ALL, ids=name)
def test_weak_order_one(process):
    data, errors, steps = Gaussian([0.5], 0.8), [], [100, 200, 400]
    end = instant(process, 0.02 * process.T)
    for n in steps:
        nodes = torch.linspace(0.7 * process.T, 0.02 * process.T, n + 1, dtype=torch.float64)
        _, var = moments(ReverseDiffusion().plan(process, nodes), process, nodes, data)
        errors.append(abs(var / float(end.alpha**2 * 0.64 + end.sigma**2) - 1))
    assert 0.85 < slope(steps, errors) < 1.25
    assert errors[-1] < 0.1


@pytest.mark.item("4.01")
@pytest.mark.parametrize("process", [VP, VE], ids=name)
def test_forward_euler_maruyama_has_weak_order_one(process):
    """x + f x dt + g sqrt(dt) w from data to .9 T, by recursion: the SDE of the kernel is that of drift and diffusion_square."""
    errors, steps = [], [200, 400, 800]
    for n in steps:
        h, mean, var = 0.9 * process.T / n, 0.5, 0.64
        for i in range(n):
            at = instant(process, (i + 0.5 * (i == 0)) * h)
            f, g2 = float(drift(at)), float(diffusion_square(at))
            mean, var = (1 + f * h) * mean, (1 + f * h) ** 2 * var + g2 * h
        end = instant(process, 0.9 * process.T)
        errors.append(abs(mean - float(end.alpha) * 0.5) + abs(var / float(end.alpha**2 * 0.64 + end.sigma**2) - 1))
    assert 0.85 < slope(steps, errors) < 1.15


@pytest.mark.item("4.23", "6.18")
@pytest.mark.parametrize("process", ALL, ids=name)
def test_a_step_is_bayes_rule_to_second_order(process):
    """E[x_s|x_t] and Var[x_s|x_t] of the mixture are those of the step up to O((t - s)^2)."""
    t, gaps = 0.5 * process.T, []
    x = X.clone().requires_grad_()
    known = GOLDEN.denoiser(process)(x, t)
    at = instant(process, t)
    (gradient,) = torch.autograd.grad(known.mean.sum(), x)
    spread = gradient * at.sigma**2 / at.alpha  # Cov[x_0|x_t]
    for h in (0.02, 0.01, 0.005):
        s = instant(process, t - h * process.T)
        base = process.reverse(X, at, s, known, torch.zeros_like(X)).detach()
        unit = s.alpha * (1 - (at.alpha * s.sigma / (s.alpha * at.sigma)) ** 2)
        noise = float(process.reverse_noise(*process.pairs(grid(t, float(s.t))))[0])
        mean = stepped(ReverseDiffusion(), process, t, float(s.t))
        own = float(ReverseDiffusion().plan(process, grid(t, float(s.t))).noise[0])
        gaps.append((float((mean - base).abs().max()), float((noise**2 + unit**2 * spread - own**2).abs().max())))
    for k in (0, 1):  # the mean of a VE step is exact
        for before, after in itertools.pairwise(gap[k] for gap in gaps):
            assert before < 1e-12 or math.log2(before / after) > 1.8


@pytest.mark.item("4.18")
@pytest.mark.parametrize("process", ALL, ids=name)
def test_one_step_to_data_is_the_posterior_mean(process):
    for t in (process.T, 0.4 * process.T):
        got = dc.sample(GOLDEN.field(process), ReverseDiffusion(), X, grid=grid(t, 0.0)).x
        assert float((got - GOLDEN.mean(X, instant(process, t))).abs().max()) < 1e-12
        known = GOLDEN.denoiser(process)(X, t)
        ancestral = process.reverse(X, instant(process, t), instant(process, 0.0), known, torch.ones_like(X))
        assert float((ancestral - got).abs().max()) < 1e-12


@pytest.mark.item("4.20")
def test_one_marginal_many_conditionals():
    """q(x_s|x_0, x_t) = the reverse kernel, or the flow with x_t: the law of x_s is one, its covariance with x_t is not."""
    data, t, s = Gaussian([0.3], 0.7), 0.6, 0.3
    at, to = instant(VP, t), instant(VP, s)
    v_t, v_s = (float(c.alpha**2 * 0.49 + c.sigma**2) for c in (at, to))
    keep = float((to.sigma / at.sigma) ** 2 * at.alpha / to.alpha)
    gain = float(to.alpha) - keep * float(at.alpha)
    noise = float(VP.reverse_noise(*VP.pairs(grid(t, s)))[0])
    cross = 0.49 * float(at.alpha)  # Cov(x_0, x_t)
    kernel_var = keep**2 * v_t + gain**2 * 0.49 + 2 * keep * gain * cross + noise**2
    kernel_cov = keep * v_t + gain * cross
    flow = data.flow(VP, torch.tensor([[0.0], [1.0]]).double(), t, s)
    flow_slope = float(flow[1] - flow[0])
    assert abs(kernel_var - v_s) < 1e-12
    assert abs(flow_slope**2 * v_t - v_s) < 1e-12
    assert flow_slope * v_t - kernel_cov > 0.1


# --- predictor-corrector ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("predictor", [ReverseDiffusion(), Euler()], ids=name)
def test_without_corrections_it_is_its_predictor(predictor):
    nodes = torch.linspace(1, 0, 9).double()
    both = [
        dc.sample(GOLDEN.field(VP), solver, X, grid=nodes, seed=3)
        for solver in (predictor, PredictorCorrector(inner=predictor, corrections=0))
    ]
    assert torch.equal(both[0].x, both[1].x)
    assert both[0].calls == both[1].calls


def test_evaluations_are_the_predictors_and_one_per_correction_but_none_at_clean_data():
    nodes = torch.linspace(1, 0, 6).double()
    for k in (0, 1, 3):
        solver = PredictorCorrector(corrections=k)
        run = dc.sample(GOLDEN.field(VP), solver, X, grid=nodes)
        assert run.calls == 5 + 4 * k == sum(map(len, solver.plan(VP, nodes).asks))


def corrected(size, process, data, x, t, z, snr=0.16):
    """One correction at level t (the predictor is a step of no length's worth)."""
    solver = PredictorCorrector(inner=Euler(), corrections=1, snr=snr, size=size)
    field = data.field(process)
    (row,) = solver.plan(process, grid(t * (1 + 1e-14), t)).rows(field, x)
    return solver.step(field, x, row, None, (None, (z,))).x


@pytest.mark.item("4.21", "R11")
@pytest.mark.parametrize("size", ["planned", "measured"])
@pytest.mark.parametrize("process", ALL, ids=name)
def test_a_correction_is_langevin_with_the_published_step(process, size):
    """x + eta score + sqrt(2 eta) z, eta = 2 (r |z| / |score|)^2; the ratio of its two moves is r."""
    data, t, r = Gaussian([0.2, -0.4, 0.1], 0.6), 0.5 * process.T, 0.16
    x, z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double(), torch.ones(5, 3).double()
    score = data.score(x, instant(process, t))
    if size == "measured":
        eta = 2 * (r * z.norm(dim=1) / score.norm(dim=1))[:, None] ** 2
    else:
        eta = 2 * (r * instant(process, t).sigma) ** 2 * torch.ones(5, 1).double()
    got = corrected(size, process, data, x, t, z)
    assert float((got - x - eta * score - (2 * eta) ** 0.5 * z).abs().max()) < 1e-9
    if size == "measured":
        ratio = (eta * score).norm(dim=1) / ((2 * eta) ** 0.5 * z).norm(dim=1)
        assert float((ratio - r).abs().max()) < 1e-12


@pytest.mark.item("4.21")
@pytest.mark.parametrize("process", ALL, ids=name)
def test_a_planned_correction_keeps_the_gaussian_marginal_to_first_order(process):
    """The chain x - a m -> (1 - eta/V)(x - a m) + sqrt(2 eta) z rests at variance V / (1 - eta / 2V)."""
    data, t, d2 = Gaussian([0.5], 0.8), 0.3 * process.T, 0.64
    at = instant(process, t)
    v, mean = float(at.alpha**2 * d2 + at.sigma**2), at.alpha * data.m
    for snr in (0.16, 0.05):
        eta = 2 * (snr * float(at.sigma)) ** 2
        ends = [
            corrected("planned", process, data, mean + torch.tensor([[y]]).double(), t, torch.tensor([[z]]).double(), snr)
            for y, z in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
        ]
        k, c = float(ends[1] - ends[0]), float(ends[2] - ends[0])
        assert abs(float(ends[0] - mean)) < 1e-12
        rest = c**2 / (1 - k**2)
        assert abs(rest / (v / (1 - eta / (2 * v))) - 1) < 1e-9
        assert abs(rest / v - 1) < eta / v


@pytest.mark.item("4.21")
def test_many_corrections_leave_the_mixture_as_it_is():
    """4000 points of p_t after 60 corrections at one level: Kolmogorov-Smirnov against the exact law, p > .01; without the
    noise (or with a score of the wrong sign) the same test refuses."""
    t, n = 0.2, 4000
    at = instant(VP, t)
    x = VP.corrupt(GOLDEN.sample(n), torch.full((n,), t).double(), dc.Draw(1, range(n))).xt
    solver = PredictorCorrector(inner=Euler(), corrections=60, snr=0.1)
    field = GOLDEN.field(VP)
    (row,) = solver.plan(VP, grid(t * (1 + 1e-14), t)).rows(field, x)
    z = solver.draws(VP, x, dc.Draw(2, range(n), block=n))
    kept = solver.step(field, x, row, None, z).x
    shrunk = solver.step(field, x, row, None, (None, [0 * v for v in z[1]])).x

    def law(y):
        return GOLDEN._tails(torch.as_tensor(y)[:, None], at)[0].numpy()

    assert not torch.allclose(kept, x, atol=0.1)
    assert stats.kstest(kept.flatten().numpy(), law).pvalue > 0.01
    assert stats.kstest(shrunk.flatten().numpy(), law).pvalue < 1e-6


def test_measured_norms_keep_the_marginal_only_where_there_are_many_entries():
    """N(0, V I): after 120 corrections the variance is V (4.5 s.e. and 3%) with 512 entries, and more than 1.3 V with one."""
    off = {}
    for dim, n in ((512, 16), (1, 4000)):
        data = Gaussian(0.0, 0.8, shape=(dim,))
        at = instant(VP, 0.2)
        v = float(at.alpha**2 * 0.64 + at.sigma**2)
        x = VP.corrupt(data.sample(n), torch.full((n,), 0.2).double(), dc.Draw(1, range(n))).xt
        solver = PredictorCorrector(inner=Euler(), corrections=120, size="measured", snr=0.1)
        (row,) = solver.plan(VP, grid(0.2 * (1 + 1e-14), 0.2)).rows(data.field(VP), x)
        y = solver.step(data.field(VP), x, row, None, solver.draws(VP, x, dc.Draw(2, range(n), block=n))).x
        off[dim] = float((y**2).median() / (v * 0.4549)) - 1 if dim == 1 else float(y.var()) / v - 1
    assert abs(off[512]) < 0.03 + 4.5 * (2 / 8192) ** 0.5
    assert abs(off[1]) > 0.3


def test_corrections_mend_a_coarse_predictor():
    """The variance of Gaussian samples after 2 steps of Euler's method, .7 T to .3 T, is nearer the truth with corrections."""
    data, n = Gaussian(0.5, 0.3, shape=(64,)), 128
    nodes = grid(0.7, 0.5, 0.3)
    x = VP.corrupt(data.sample(n), torch.full((n,), 0.7).double(), dc.Draw(5, range(n))).xt
    end = instant(VP, 0.3)
    v = float(end.alpha**2 * 0.09 + end.sigma**2)
    errors = []
    for k in (0, 40):
        solver = PredictorCorrector(inner=Euler(), corrections=k, snr=0.1)
        errors.append(abs(float(dc.sample(data.field(VP), solver, x, grid=nodes, seed=2).x.var()) / v - 1))
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("size", ["planned", "measured"])
def test_trees_tensor_rows_and_pure_steps(size):
    """What the conformance kit asks of other solvers: leaves as they are alone (planned), rows of tensors as rows of floats."""
    solver, data = PredictorCorrector(corrections=2, size=size), Gaussian(0.5, 0.8, shape=(3,))
    x = {"a": X.expand(7, 3).clone(), "b": X.expand(7, 3).flip(0).clone()}
    field = dc.Field(dc.Denoiser(lambda x, t: dc.tree_map(lambda v: data.mean(v, VP.coeffs(t)), x), "x0", VP))
    nodes = grid(0.8, 0.5, 0.2)
    plan = solver.plan(VP, nodes)
    z = solver.draws(VP, x, dc.Draw(0, range(7)))
    before = dc.tree_map(torch.clone, x)
    outs = [solver.step(field, x, plan.rows(field, x, tensors=flag)[0], None, z).x for flag in (False, True)]
    for leaf in x:
        assert torch.equal(x[leaf], before[leaf])
        assert torch.allclose(outs[0][leaf], outs[1][leaf], atol=1e-12)
        if size == "planned":
            alone = data.field(VP)
            got = solver.step(alone, x[leaf], plan.rows(alone, x[leaf])[0], None, (z[0][leaf], tuple(v[leaf] for v in z[1]))).x
            assert torch.allclose(got, outs[0][leaf], atol=1e-12)


def test_the_noises_of_a_step_are_independent_and_the_predictors_is_its_own():
    x, draw = torch.zeros(4000, 2).double(), dc.Draw(0, range(4000), index=3)
    first, more = PredictorCorrector(corrections=2).draws(VP, x, draw)
    assert torch.equal(first, VP.noise.like(x, draw))
    z = (first, *more)
    for i in range(3):
        for j in range(i):
            assert abs(float((z[i] * z[j]).mean())) < 4.5 / 8000**0.5


def test_predictors_that_cannot_be_run_are_refused():
    @dc.component
    class Nodes(dc.Grid):
        def nodes(self, process, steps, start):
            return process.default_grid(steps, start)

    @dc.component
    class Own(dc.Program):
        def frames(self, field, x, grid, draw):
            yield dc.Frame(0, 1.0, x)

    @dc.component
    class Jumps(Euler):
        requires = frozenset({"jumps"})

    with pytest.raises(dc.SpecError, match="grid to PredictorCorrector"):
        PredictorCorrector(inner=Euler(grid=Nodes()))
    with pytest.raises(dc.SpecError, match="owns its loop"):
        PredictorCorrector(inner=Own())
    with pytest.raises(dc.IncompatibleError, match="PredictorCorrector needs 'jumps'"):
        dc.sample(GOLDEN.field(VP), PredictorCorrector(inner=Jumps()), X, steps=3)

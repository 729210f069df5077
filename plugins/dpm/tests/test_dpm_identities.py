"""The published algorithms written out, equalities within the family, and data for which a method is exact."""

import itertools
import math

import numpy as np
import pytest
import torch
from diffcore_dpm.deis import DEIS
from diffcore_dpm.dpm_solver_2 import DPMSolver2
from diffcore_dpm.dpm_solver_3 import DPMSolver3
from diffcore_dpm.dpmpp_2m_sde import DPMpp2MSDE
from diffcore_dpm.dpmpp_2s import DPMpp2S
from diffcore_dpm.dpmpp_3m import DPMpp3M
from diffcore_dpm.dpmpp_3m_sde import DPMpp3MSDE
from diffcore_dpm.dpmpp_sde import DPMppSDE
from diffcore_dpm.exp_adams import ExpAdams
from diffcore_dpm.unipc import UniPC

import diffcore as dc
from diffcore.testing import FiniteSet, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

VP, FLOW, VE, GOLDEN = ReferenceVP(), ReferenceFlow(), ReferenceVE(), golden_mixture()
PROCESSES = [VP, FLOW, VE]
X = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]
SHARES = [0.9, 0.7, 0.55, 0.33, 0.2, 0.08]


def largest(x, y):
    return float((x - y).abs().max())


def level(process, t):
    """alpha, sigma, lam as floats."""
    c = instant(process, t)
    return float(c.alpha), float(c.sigma), float(c.lam)


def seen(process, x, t):
    """E[x_0|x_t], E[eps|x_t] of the golden mixture."""
    return GOLDEN.moments(x, instant(process, t))


def time(process, lam):
    return float(process.t_of_lam(torch.tensor(lam, dtype=torch.float64)))


def times(process):
    return [share * process.T for share in SHARES]


def run(solver, process, grid=None, prediction="v", x=X, **more):
    return dc.sample(GOLDEN.field(process, prediction), solver, x, grid=times(process) if grid is None else grid, **more).x


def step_midpoint_eps(process, x, t, s):
    (at, _, lt), (as_, ss, ls) = level(process, t), level(process, s)
    h, u = ls - lt, time(process, (lt + ls) / 2)
    au, su, _ = level(process, u)
    y = au / at * x - su * math.expm1(h / 2) * seen(process, x, t)[1]
    return as_ / at * x - ss * math.expm1(h) * seen(process, y, u)[1]


def step_midpoint_x0(process, x, t, s):
    (_, st, lt), (as_, ss, ls) = level(process, t), level(process, s)
    h, u = ls - lt, time(process, (lt + ls) / 2)
    au, su, _ = level(process, u)
    y = su / st * x - au * math.expm1(-h / 2) * seen(process, x, t)[0]
    return ss / st * x - as_ * math.expm1(-h) * seen(process, y, u)[0]


def step_thirds(process, x, t, s):
    (at, _, lt), (as_, ss, ls) = level(process, t), level(process, s)
    h, e = ls - lt, seen(process, x, t)[1]
    u, v = time(process, lt + h / 3), time(process, lt + 2 * h / 3)
    (au, su, _), (av, sv, _) = level(process, u), level(process, v)
    d1 = seen(process, au / at * x - su * math.expm1(h / 3) * e, u)[1] - e
    y = av / at * x - sv * math.expm1(2 * h / 3) * e - 2 * sv * (math.expm1(2 * h / 3) / (2 * h / 3) - 1) * d1
    d2 = seen(process, y, v)[1] - e
    return as_ / at * x - ss * math.expm1(h) * e - 1.5 * ss * (math.expm1(h) / h - 1) * d2


@pytest.mark.item("9.11", "9.16", "R3", "R4", "R5")
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    ("solver", "rule"),
    [(DPMSolver2(), step_midpoint_eps), (DPMpp2S(), step_midpoint_x0), (DPMSolver3(), step_thirds)],
    ids=lambda v: type(v).__name__,
)
def test_singlestep_solvers_follow_their_papers(solver, rule, process):
    x, nodes = X, times(process)
    for t, s in itertools.pairwise(nodes):
        x = rule(process, x, t, s)
    assert largest(run(solver, process), x) < 1e-11


def multistep(process, second, third=None):
    """DPM-Solver++ multistep, in the differences of its paper: `second(h)` weighs D_1, `third(h)` D_2."""
    x, nodes, m, lam = X, times(process), [], [level(process, t)[2] for t in times(process)]
    for i, (t, s) in enumerate(itertools.pairwise(nodes)):
        m.append(seen(process, x, t)[0])
        (_, st, _), (as_, ss, _), h = level(process, t), level(process, s), lam[i + 1] - lam[i]
        after = ss / st * x - as_ * math.expm1(-h) * m[-1]
        if i > 0:
            r0 = (lam[i] - lam[i - 1]) / h
            first = (m[-1] - m[-2]) / r0
            if i > 1 and third is not None:
                r1 = (lam[i - 1] - lam[i - 2]) / h
                d0, d1 = first, (m[-2] - m[-3]) / r1
                first = d0 + r0 * (d0 - d1) / (r0 + r1)
                after = after + as_ * third(h) * (d0 - d1) / (r0 + r1)
            after = after + as_ * second(h) * first
        x = after
    return x


def exact_second(h):
    return math.expm1(-h) / h + 1


def exact_third(h):
    return -2 * ((math.expm1(-h) + h) / h**2 - 0.5)


WIDE = {"limit": 100.0}


@pytest.mark.item("9.19", "R6")
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_multistep_solvers_follow_their_papers(process):
    half = multistep(process, lambda h: -math.expm1(-h) / 2)
    line = multistep(process, exact_second)
    parabola = multistep(process, exact_second, exact_third)
    compat = multistep(process, exact_second, lambda h: exact_third(h) / 2)
    for solver, want in [
        (DPMpp2MSDE(eta=0.0, **WIDE), half),
        (UniPC(points=2, corrector=False, **WIDE), half),
        (DPMpp2MSDE(eta=0.0, variant="heun", **WIDE), line),
        (ExpAdams(points=2, **WIDE), line),
        (DPMpp3M(**WIDE), parabola),
        (DPMpp3MSDE(eta=0.0, **WIDE), parabola),
        (ExpAdams(points=3, **WIDE), parabola),
        (DPMpp3M(compat=True, **WIDE), compat),
        (DPMpp3MSDE(eta=0.0, compat=True, **WIDE), compat),
    ]:
        assert largest(run(solver, process), want) < 1e-11, solver
    assert min(largest(half, line), largest(line, parabola), largest(parabola, compat)) > 1e-4


@pytest.mark.item("9.09", "9.11", "9.16", "9.18")
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_order_one_of_every_family_is_ddim(process):
    x, nodes = X, times(process)
    for t, s in itertools.pairwise(nodes):
        m, e = seen(process, x, t)
        x = level(process, s)[0] * m + level(process, s)[1] * e
    for solver in (
        DEIS(degree=0),
        ExpAdams(points=1),
        ExpAdams(points=1, prediction="eps"),
        UniPC(points=1, corrector=False),
        UniPC(points=1, corrector=False, prediction="eps"),
    ):
        assert largest(run(solver, process), x) < 1e-12, solver


@pytest.mark.item("9.22", "R9")
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("prediction", ["x0", "eps"])
def test_unipc_follows_its_algorithm(variant, prediction):
    """Linear systems of the paper (signed h), a = 1/2 where there is one unknown; the corrector reuses the next evaluation."""
    nodes = times(VP)
    lam = [level(VP, t)[2] for t in nodes]
    pick = 0 if prediction == "x0" else 1

    def solve(base_at, i, f, rest, count):
        """The step from node i through f_i and `count` differences, and the evaluation ahead where `rest` has one."""
        (at, st, _), (as_, ss, _), h = level(VP, nodes[i]), level(VP, nodes[i + 1]), lam[i + 1] - lam[i]
        signed = -h if prediction == "x0" else h
        scale, kept = (as_, ss / st) if prediction == "x0" else (ss, as_ / at)
        b = signed if variant == "bh1" else math.expm1(signed)
        out = kept * base_at - scale * math.expm1(signed) * f[i]
        r = [(lam[i - j] - lam[i]) / h for j in range(1, count)] + [1.0] * len(rest)
        d = [(f[i - j] - f[i]) / r[j - 1] for j in range(1, count)] + [v - f[i] for v in rest]
        if not d:
            return out
        moments, phi = [], math.expm1(signed) / signed - 1
        for k in range(1, len(d) + 1):
            moments.append(phi * math.factorial(k) / b)
            phi = phi / signed - 1 / math.factorial(k + 1)
        a = [0.5] if len(d) == 1 else np.linalg.solve(np.array([[v**k for v in r] for k in range(len(d))]), moments)
        return out - scale * b * sum(w * v for w, v in zip(a, d, strict=True))

    for points in (1, 2, 3):
        x, corrected, f, count = X, X, [], 1
        for i in range(len(nodes) - 1):
            f.append(seen(VP, x, nodes[i])[pick])
            if i > 0:
                corrected = solve(corrected, i - 1, f, [f[i]], count)
            count = min(i + 1, points)
            x = solve(corrected, i, f, [], count)
        got = run(UniPC(points=points, variant=variant, prediction=prediction, **WIDE), VP)
        assert largest(got, x) < 1e-11, points


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("prediction", ["x0", "eps"])
def test_unipc_and_exponential_adams_are_one_method(process, prediction):
    """With three points and steps that begin after the ramp the published weights are the exact ones."""
    plans = [
        solver.plan(process, torch.tensor(times(process), dtype=torch.float64)).entries
        for solver in (
            UniPC(points=3, prediction=prediction, **WIDE),
            ExpAdams(points=3, prediction=prediction, corrector=True, **WIDE),
        )
    ]
    for name in ("own", "back", "c0", "c1", "c2", "c3", "base", "keep", "gain", "w1", "w2"):
        one, other = (p[name][3:] for p in plans)
        assert torch.allclose(one, other, rtol=1e-11, atol=1e-13), name


def test_corrector_off_is_the_predictor():
    for prediction in ("x0", "eps"):
        one = UniPC(points=3, corrector=False, prediction=prediction, **WIDE)
        plan, other = (s.plan(VP, torch.tensor(times(VP))) for s in (one, ExpAdams(points=3, prediction=prediction, **WIDE)))
        for name in ("keep", "gain", "w1", "w2"):
            assert torch.allclose(plan.entries[name][2:], other.entries[name][2:], rtol=1e-12, atol=0), name


@pytest.mark.item("R2")
def test_rho_and_time_polynomials_agree_where_time_is_rho():
    for degree in (0, 1, 2, 3):
        one, other = (run(DEIS(degree=degree, variable=v), VE) for v in ("t", "rho"))
        assert largest(one, other) < 1e-11


@pytest.mark.item("9.08", "R2")
@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize(("process", "variable"), [(VP, "t"), (VE, "t"), (VP, "rho"), (VE, "rho")], ids=repr)
def test_deis_integrates_its_polynomials_exactly(process, variable, degree):
    """e* is a polynomial of the degree in t or rho, whatever x: from the step with a full history on, the step is exact."""
    shape = [0.3, -1.1, 0.8, 0.5][: degree + 1]

    def rho(t):
        return instant(process, t).sigma / instant(process, t).alpha

    def net(x, t):
        t = t.double()
        y = t if variable == "t" else rho(t)
        return sum(c * y**k for k, c in enumerate(shape))[:, None].expand_as(x)

    field, solver = dc.Field(dc.Denoiser(net, "eps", process)), DEIS(degree=degree, variable=variable, limit=100.0)
    nodes = [0.6, 0.5, 0.42, 0.3, 0.22, 0.1, 0.0]
    found = [frame.x for frame in dc.frames(field, solver, X, grid=nodes)]
    points, weights = np.polynomial.legendre.leggauss(200)
    for i in range(degree, len(nodes) - 1):
        t, s = nodes[i], nodes[i + 1]
        end = float(rho(torch.tensor(s, dtype=torch.float64)))
        begin = float(rho(torch.tensor(t, dtype=torch.float64)))
        levels = torch.tensor((begin + end) / 2 + (end - begin) / 2 * points)
        inside = net(torch.zeros(200, 1), process.t_of_lam(-levels.log()))[:, 0]
        integral = float((inside * torch.tensor(weights)).sum() * (end - begin) / 2)
        want = level_alpha(process, s) * (found[i] / level_alpha(process, t) + integral)
        assert largest(found[i + 1], want) < 1e-9, i


def level_alpha(process, t):
    return float(instant(process, t).alpha)


@pytest.mark.item("9.10")
@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize(("process", "prediction"), [(VP, "x0"), (VP, "eps"), (FLOW, "x0"), (VE, "x0"), (VE, "eps")], ids=repr)
def test_polynomials_in_lam_are_integrated_exactly(process, prediction, corrector):
    """f is a cubic in lam, whatever x: four points are exact after the ramp; a corrector makes three exact but the last step."""

    def cubic(lam):
        return 0.4 - 0.7 * lam + 0.2 * lam**2 + 0.15 * lam**3

    def net(x, t):
        return cubic(process.coeffs(t.double()).lam)[:, None].expand_as(x)

    field = dc.Field(dc.Denoiser(net, prediction, process))
    points, weights = np.polynomial.legendre.leggauss(60)

    def solution(x, t, s):
        (at, st, lt), (as_, ss, ls) = level(process, t), level(process, s)
        lam = (lt + ls) / 2 + (ls - lt) / 2 * points
        sign = 1 if prediction == "x0" else -1
        integral = float((weights * np.exp(sign * lam) * cubic(lam)).sum() * (ls - lt) / 2)
        return ss / st * x + ss * integral if prediction == "x0" else as_ / at * x - as_ * integral

    nodes = times(process)
    if not corrector:
        found = [f.x for f in dc.frames(field, ExpAdams(points=4, prediction=prediction, **WIDE), X, grid=nodes)]
        for i in (3, 4):
            assert largest(found[i + 1], solution(found[i], nodes[i], nodes[i + 1])) < 1e-11
        return
    solver = ExpAdams(points=3, prediction=prediction, corrector=True, **WIDE)
    plan, x, states = solver.plan(process, torch.tensor(nodes, dtype=torch.float64)), X, []
    carry = solver.init(x)
    for row in plan.rows(field, x):
        x, carry = solver.step(field, x, row, carry, None)[:2]
        states.append(carry[0])
    for i in (3, 4):
        assert largest(states[i], solution(states[i - 1], nodes[i - 1], nodes[i])) < 1e-11


ODE = [
    DPMSolver2(), DPMSolver3(), DPMpp2S(), DPMpp3M(), UniPC(points=3), UniPC(prediction="eps"), DEIS(degree=3),
    ExpAdams(points=4, start="singlestep"), ExpAdams(points=3, prediction="eps", corrector=True, start="singlestep"),
    DPMpp2MSDE(eta=0.0), DPMpp3MSDE(eta=0.0), DPMppSDE(eta=0.0),
]  # fmt: skip


@pytest.mark.item("9.01", "A2")
@pytest.mark.parametrize("solver", ODE, ids=repr)
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_data_at_one_point_are_exact_in_any_number_of_steps(process, solver):
    """x* and e* are constant along the path: the linear part is exact, so the whole run is; also from pure noise to t = 0."""
    point = FiniteSet(torch.tensor([[0.7, -0.3]], dtype=torch.float64))
    x = torch.tensor([[1.0, 2.0], [-0.5, 0.1]], dtype=torch.float64)
    (at, st, _), (as_, ss, _) = level(process, 0.9 * process.T), level(process, 0.2 * process.T)
    want = as_ * point.points + ss / st * (x - at * point.points)
    field = point.field(process)
    for count in (1, 2, 5):
        nodes = torch.linspace(0.9, 0.2, count + 1, dtype=torch.float64) * process.T
        assert largest(dc.sample(field, solver, x, grid=nodes).x, want) < 1e-10
        landed = dc.sample(field, solver, x, steps=count).x
        assert largest(landed, point.points.expand_as(landed)) < 1e-9


def test_dpm_sde_without_noise_is_2s():
    for process in PROCESSES:
        assert largest(run(DPMppSDE(eta=0.0), process), run(DPMpp2S(), process)) < 1e-13


def turned(process, t):
    """alpha, sigma, phi and r, u and S at a time, as floats."""
    alpha, sigma, _ = level(process, t)
    return alpha, sigma, (math.atan2(sigma, alpha), math.hypot(alpha, sigma)), (sigma / (alpha + sigma), alpha + sigma)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("reading", ["v", "flow"])
def test_adams_of_v_and_flow_written_out(process, reading):
    """Three points by Newton's divided differences in the angle, or in the straight path's time, of y = x / S."""
    nodes, x, past = times(process), X, []
    for t, s in itertools.pairwise(nodes):
        alpha, sigma, *places = turned(process, t)
        (place, size), (end, end_size) = places[reading == "flow"], turned(process, s)[2 + (reading == "flow")]
        m, e = seen(process, x, t)
        past.insert(0, (place, (alpha * e - sigma * m) / size if reading == "v" else e - m))
        h, (_, f), moved = end - place, past[0], 0
        moved = h * f
        if len(past) > 1:
            first = (f - past[1][1]) / (place - past[1][0])
            moved = moved + first * h**2 / 2
        if len(past) > 2:
            before = (past[1][1] - past[2][1]) / (past[1][0] - past[2][0])
            second = (first - before) / (place - past[2][0])
            moved = moved + second * (h**3 / 3 + (place - past[1][0]) * h**2 / 2)
        x = end_size * (x / size + moved)
    found = run(ExpAdams(points=3, prediction=reading, limit=100.0), process)
    assert largest(found, x) < 1e-12 * max(1, float(x.abs().max()))


@pytest.mark.parametrize("corrector", [False, True])
def test_flow_on_the_straight_path_is_adams_on_its_velocity(corrector):
    """alpha = 1 - t, sigma = t: u = t, S = 1. Two points on equal steps have weights 3, -1 over 2; corrected 5, 8, -1 over 12."""
    nodes, x, before = torch.linspace(1, 0, 6, dtype=torch.float64).tolist(), X, []
    held = []
    for t, s in itertools.pairwise(nodes):
        m, e = seen(FLOW, x, t)
        f, h = e - m, s - t
        if corrector and before:
            x = held[-1] + h * ((5 * f + 8 * before[0] - before[1]) / 12 if len(before) > 1 else (f + before[0]) / 2)
        held.append(x)
        before.insert(0, f)
        x = x + h * (1.5 * f - 0.5 * before[1] if len(before) > 1 else f)
    solver = ExpAdams(points=2, prediction="flow", corrector=corrector)
    assert largest(run(solver, FLOW, grid=nodes), x) < 1e-12


@pytest.mark.parametrize("reading", ["v", "flow"])
def test_levels_not_processes_decide_what_v_and_flow_give(reading):
    """The same levels of sigma / alpha and the same y: x / alpha at the end is the same under VP, VE and the straight path."""
    lam = [-1.5, -0.8, -0.1, 0.7, 1.9, 3.0]
    found = []
    for process in PROCESSES:
        nodes = [time(process, v) for v in lam]
        x = level(process, nodes[0])[0] * X
        end = run(ExpAdams(points=3, prediction=reading, corrector=True), process, grid=nodes, x=x)
        found.append(end / level(process, nodes[-1])[0])
    assert largest(found[0], found[1]) < 1e-9
    assert largest(found[0], found[2]) < 1e-9


@pytest.mark.parametrize("reading", ["v", "flow"])
def test_v_and_flow_take_the_exact_network_of_one_point_anywhere(reading):
    """Data of one point: e and m are constant along a path, so flow is, and a single step of any length is exact; v turns."""
    point = FiniteSet(torch.tensor([[0.3]], dtype=torch.float64))
    field = point.field(FLOW)
    ends = dc.sample(field, ExpAdams(points=1, prediction=reading), X, grid=[1.0, 0.4]).x
    want = 0.6 * 0.3 + 0.4 * X
    if reading == "flow":
        assert largest(ends, want) < 1e-12
    else:
        angle = math.pi / 2 - math.atan2(0.4, 0.6)  # y = x from phi = pi / 2, where v = -m
        assert largest(ends, math.hypot(0.4, 0.6) * (X + angle * 0.3)) < 1e-12

"""6.16: every gamma has the process's marginals; the ends of the family are DDIM and the ancestral kernel."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_unified.gamma_sde import GammaSDE

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP

PROCESSES = [ReferenceVP(), ReferenceFlow(), ReferenceVE()]
MEAN, STD = 0.4, 0.7
LAWS = [("g", 0.0), ("g", 0.5), ("g", 1.0), ("g", 2.0), ("sigma", 1.0), ("constant", 0.5)]
ids = [f"{law}-{gamma}" for law, gamma in LAWS]


def grid(process, steps, start=0.7, end=0.02):
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    ends = process.coeffs(torch.tensor([start, end], dtype=torch.float64) * process.T).lam
    nodes = process.t_of_lam(ends[0] + u * (ends[1] - ends[0]))
    nodes[0], nodes[-1] = start * process.T, end * process.T
    return nodes


def moments_ode(process, solver, steps=2000, start=0.7, end=0.05):
    """Mean and variance of the SDE itself on N(m, d^2), by RK4 on m' = k m + b, P' = 2 k P - gamma^2 (time runs back).

    The drift k x + b is read off the exact velocity and score at x = 0 and x = 1.
    """
    data = Gaussian(MEAN, STD, shape=(1,))
    nodes = process.T * start * (end / start) ** torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    t = torch.cat([nodes, (nodes[1:] + nodes[:-1]) / 2])
    at = process.coeffs(t)
    strength, x = solver.strength(at), torch.ones(len(t), 1, dtype=torch.float64)
    b, one = (data.velocity(y, at)[:, 0] - strength / 2 * data.score(y, at)[:, 0] for y in (0 * x, x))
    k, b, g = ((one - b).tolist(), b.tolist(), strength.tolist())

    def slope(m, p, i):
        return k[i] * m + b[i], 2 * k[i] * p - g[i]

    m, p = float(at.alpha[0] * MEAN), float(at.alpha[0] ** 2 * STD**2 + at.sigma[0] ** 2)
    for i, h in enumerate((nodes[1:] - nodes[:-1]).tolist()):
        half = steps + 1 + i
        a1, v1 = slope(m, p, i)
        a2, v2 = slope(m + h / 2 * a1, p + h / 2 * v1, half)
        a3, v3 = slope(m + h / 2 * a2, p + h / 2 * v2, half)
        a4, v4 = slope(m + h * a3, p + h * v3, i + 1)
        m, p = m + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4), p + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
    return abs(m - float(at.alpha[steps] * MEAN)), abs(p - float(at.alpha[steps] ** 2 * STD**2 + at.sigma[steps] ** 2))


@pytest.mark.item("4.05", "6.16")
@pytest.mark.parametrize(("law", "gamma"), LAWS, ids=ids)
def test_the_sde_has_the_marginals_of_the_process(law, gamma):
    """The moments of the SDE run back are those of the process at .05 T, for every gamma (4e-12, relative to sigma_T^2)."""
    for process in PROCESSES:
        off = moments_ode(process, GammaSDE(law=law, gamma=gamma))
        assert max(off) < 4e-12 * max(1, process.T**2), (process, off)


@pytest.mark.parametrize(("law", "gamma"), LAWS, ids=ids)
def test_one_step_is_the_sde_to_first_order(law, gamma):
    """(x_t - E x_s) / D -> v - gamma^2 score / 2 and Var / D -> gamma^2 as D -> 0, with first-order differences."""
    solver, data = GammaSDE(law=law, gamma=gamma), Gaussian(MEAN, STD, shape=(1,))
    x = torch.tensor([[0.9], [-1.3]], dtype=torch.float64)
    for process in PROCESSES:
        t, gaps = 0.5 * process.T, []
        at = process.coeffs(torch.tensor(t, dtype=torch.float64))
        want = data.velocity(x, at) - solver.strength(at) / 2 * data.score(x, at)
        for d in (1e-4, 1e-5):
            plan = solver.plan(process, torch.tensor([t, t - d], dtype=torch.float64))
            keep, gain, noise = (float(v[0]) for v in (plan.entries["keep"], plan.entries["gain"], plan.noise))
            drift = (x - keep * x - gain * data.mean(x, at)) / d
            gaps.append(float((drift - want).abs().max()) + abs(noise**2 / d - float(solver.strength(at))))
        assert gaps[1] < 0.02
        assert gaps[0] < 1e-9 or 8 < gaps[0] / gaps[1] < 12, (process, gaps)


@pytest.mark.parametrize(("law", "gamma"), LAWS, ids=ids)
def test_the_marginal_given_the_data_is_exact_at_any_step(law, gamma):
    """keep^2 sigma_t^2 + noise^2 = sigma_s^2 and keep alpha_t + gain = alpha_s, also from T and to 0, in three steps."""
    for process in PROCESSES:
        nodes = torch.tensor([1.0, 0.5, 0.1, 0.0], dtype=torch.float64) * process.T
        plan, (t, s) = GammaSDE(law=law, gamma=gamma).plan(process, nodes), process.pairs(nodes)
        keep, gain = plan.entries["keep"], plan.entries["gain"]
        torch.testing.assert_close(keep**2 * t.sigma**2 + plan.noise**2, s.sigma**2, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(keep * t.alpha + gain, s.alpha, rtol=1e-12, atol=1e-15)


def recursion(process, solver, nodes):
    """Mean and variance of the run on N(m, d^2), exactly: every step is linear in x and z."""
    plan = solver.plan(process, nodes)
    t, _ = process.pairs(nodes)
    mean, var = float(t.alpha[0] * MEAN), float(t.alpha[0] ** 2 * STD**2 + t.sigma[0] ** 2)
    for i in range(plan.steps):
        a, s = float(t.alpha[i]), float(t.sigma[i])
        slope = a * STD**2 / (a**2 * STD**2 + s**2)  # x* = m + slope (x - a m)
        factor = float(plan.entries["keep"][i]) + float(plan.entries["gain"][i]) * slope
        mean = factor * mean + float(plan.entries["gain"][i]) * MEAN * (1 - slope * a)
        var = factor**2 * var + float(plan.noise[i]) ** 2
    return mean, var


@pytest.mark.parametrize(("law", "gamma"), LAWS, ids=ids)
def test_weak_order_one(law, gamma):
    """Mean and variance of the samples of a Gaussian, by exact recursion: slope 1 over 64 to 256 steps (tolerance .15)."""
    for process in PROCESSES:
        at, errors, counts = process.coeffs(torch.tensor(0.02 * process.T, dtype=torch.float64)), [], (64, 128, 256)
        for n in counts:
            mean, var = recursion(process, GammaSDE(law=law, gamma=gamma), grid(process, n))
            errors.append(abs(mean - float(at.alpha * MEAN)) + abs(var - float(at.alpha**2 * STD**2 + at.sigma**2)))
        slope = math.log(errors[0] / errors[2]) / math.log(4)
        assert abs(slope - 1) < 0.15, (process, errors)
        assert errors[2] < 0.05


@pytest.mark.item("6.16")
def test_the_ends_of_the_family(make):
    """gamma = 0 is ddim, gamma = 1 is ancestral, and 'g' does not depend on the schedule."""
    data, x = Gaussian(MEAN, STD, shape=(3,)), torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double()
    for process in PROCESSES:
        field, nodes = data.field(process), torch.tensor([1.0, 0.6, 0.3, 0.1, 0.0], dtype=torch.float64) * process.T
        for gamma, name in ((0.0, "ddim"), (1.0, "ancestral")):
            a, b = (dc.sample(field, s, x, grid=nodes, seed=5).x for s in (GammaSDE(gamma=gamma), make("solver", name)))
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_it_agrees_with_euler_maruyama_in_the_limit(make):
    """gamma = 1: the same noise gives the same path to first order in the step."""
    process, data = ReferenceVP(), Gaussian(MEAN, STD, shape=(3,))
    x, gaps = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double(), []
    for n in (100, 400):
        nodes = grid(process, n, 0.7, 0.1)
        a, b = (
            dc.sample(data.field(process), s, x, grid=nodes, seed=5).x for s in (GammaSDE(), make("solver", "euler-maruyama"))
        )
        gaps.append(float((a - b).abs().max()))
    assert gaps[1] < gaps[0] / 3 < 0.05, gaps


def test_a_moving_mean_is_refused():
    class Shifted(ReferenceVP):
        def coeffs(self, t):
            return super().coeffs(t)._replace(shift=t, dshift=torch.ones_like(t))

    with pytest.raises(dc.IncompatibleError, match="shifts the mean"):
        GammaSDE().plan(Shifted(), torch.tensor([1.0, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_only_without_noise_data_is_carried_to_noise(gamma):
    """One step of the straight path's ODE up from data at one point is exact; a diffusion cannot be run back."""
    field, x = Gaussian(0.7, 1e-9, shape=(2,)).field(ReferenceFlow()), torch.full((3, 2), 1.1, dtype=torch.float64)
    if gamma == 0:
        there = dc.sample(field, GammaSDE(gamma=gamma), x, grid=[0.2, 0.5]).x
        torch.testing.assert_close(there, torch.full_like(x, 0.5 * 0.7 + 0.5 / 0.2 * (1.1 - 0.8 * 0.7)), rtol=1e-6, atol=0)
    else:
        with pytest.raises(dc.SpecError, match="must fall"):
            dc.sample(field, GammaSDE(gamma=gamma), x, grid=[0.2, 0.5])

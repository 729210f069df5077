"""Distributions of steps and log-probabilities of stored trajectories, against joint densities written out by hand."""

from __future__ import annotations

import pytest
import torch

import diffcore as dc
from diffcore.testing import REFERENCES, Gaussian, ReferenceVP, instant

DOUBLE = torch.float64
VP = ReferenceVP()
COV = torch.tensor([[1.0, 0.5, 0.2], [0.5, 0.8, -0.3], [0.2, -0.3, 0.6]], dtype=DOUBLE)
DATA = Gaussian([0.3, -0.2, 1.0], cov=COV)
GRID = torch.tensor([0.9, 0.7, 0.4, 0.2, 0.1], dtype=DOUBLE)


@pytest.fixture(scope="module")
def registry():
    return dc.Registry.load()


def numbers(*shape, seed=0):
    return torch.empty(shape, dtype=DOUBLE).normal_(generator=torch.Generator().manual_seed(seed))


def close(found, want, atol=1e-9):
    torch.testing.assert_close(found, want, rtol=0, atol=atol)


def tilted(theta):
    """The exact mean of x_0, turned by theta: a denoiser that is linear in x_t, with one parameter."""
    turn = torch.eye(3, dtype=DOUBLE) + theta * torch.tensor([[0.0, 1.0, 0.5], [-1.0, 0.0, 0.0], [0.0, 0.3, 0.0]], dtype=DOUBLE)
    return dc.Field(dc.Denoiser(lambda x, t: DATA.mean(x, VP.coeffs(t.double())) @ turn, "x0", VP)), turn


def joint(path, turn):
    """log N of (x_1, ..., x_N) given x_0: x_{i+1} = M_i x_i + c_i + n_i z has the mean m_{i+1} = M_i m_i + c_i and the covariance
    C_{ji} = C_{j,i-1} M_{i-1}^T between steps, all from Bayes' rule for q(x_s | x_t, x_0)."""
    n, unit = len(GRID) - 1, torch.eye(3, dtype=DOUBLE)
    blocks, means, m = {}, [], path[0]
    for i in range(n):
        t, s = (instant(VP, u) for u in GRID[i : i + 2])
        jump = t.alpha / s.alpha
        v = t.sigma**2 - jump**2 * s.sigma**2  # the variance of x_t given x_s
        spread = t.alpha**2 * COV + t.sigma**2 * unit
        gain = t.alpha * torch.linalg.solve(spread, COV)
        matrix = jump * s.sigma**2 / t.sigma**2 * unit + s.alpha * v / t.sigma**2 * gain @ turn
        rest = s.alpha * v / t.sigma**2 * (DATA.m - t.alpha * DATA.m @ gain) @ turn
        m = m @ matrix + rest
        means.append(m)
        for j in range(i):
            blocks[j, i] = blocks[j, i - 1] @ matrix
        before = blocks[i - 1, i - 1] if i else torch.zeros(3, 3, dtype=DOUBLE)
        blocks[i, i] = matrix.T @ before @ matrix + v * s.sigma**2 / t.sigma**2 * unit
    rows = [torch.cat([blocks[j, i] if j <= i else blocks[i, j].T for i in range(n)], 1) for j in range(n)]
    law = torch.distributions.MultivariateNormal(torch.cat(means, 1), torch.cat(rows))
    return law.log_prob(torch.cat(path[1:], 1))


def test_the_sum_over_steps_is_the_joint_density_of_the_path(registry):
    """Correlated entries and steps: a product of marginals would be another number. The gradient is the difference quotient."""
    solver, x = registry.make("solver", "ancestral"), numbers(4, 3)
    frames = list(dc.frames(tilted(torch.tensor(0.3, dtype=DOUBLE))[0], solver, x, grid=GRID, seed=5))
    theta = torch.tensor(0.1, dtype=DOUBLE, requires_grad=True)
    field, turn = tilted(theta)
    found = dc.rescore(field, solver, frames, grid=GRID)
    assert found.shape == (4, 4)
    close(found.sum(0), joint([frame.x for frame in frames], turn.detach()))
    (slope,) = torch.autograd.grad(found.sum(), theta)
    up, down = (joint([f.x for f in frames], tilted(0.1 + h)[1]).sum() for h in (1e-5, -1e-5))
    close(slope, (up - down) / 2e-5, 1e-5)
    close(dc.rescore(field, solver, [f.x for f in frames[:3]], grid=GRID), found[:2])


@pytest.mark.parametrize(
    ("name", "fields"),
    [("ancestral", {}), ("ddim", {"eta": 0.7}), ("dpmpp-2m-sde", {}), ("dpmpp-3m-sde", {}), ("euler-maruyama", {})],
)
@pytest.mark.parametrize("process", [REFERENCES[0], REFERENCES[2]], ids=["vp", "ve"])
def test_a_step_has_the_probability_of_its_noise(name, fields, process, registry):
    """log p(x_s | x_t) = log N(z) - n log(noise), z the numbers that were drawn; through the history of multistep solvers."""
    solver, grid = registry.make("solver", name, **fields), GRID * process.T
    field, x = DATA.field(process), numbers(4, 3)
    frames = list(dc.frames(field, solver, x, grid=grid, seed=5))
    noise = solver.plan(process, grid).noise
    z = [dc.Draw(5, range(4)).at(i + 1).normal_like(x) for i in range(4)]
    want = [torch.distributions.Normal(0.0, 1.0).log_prob(each).sum(1) - 3 * w.log() for each, w in zip(z, noise, strict=True)]
    close(dc.rescore(field, solver, frames, grid=grid), torch.stack(want), 1e-7)


def test_leaves_of_a_tree_count_together(registry):
    solver, x = registry.make("solver", "ancestral"), {"a": numbers(4, 3), "b": numbers(4, 2, 2, seed=1)}
    whole = Gaussian(0.5, 0.8)

    def net(x, t):
        return {name: whole.mean(leaf, VP.coeffs(t.double())) for name, leaf in x.items()}

    both, alone = dc.Field(dc.Denoiser(net, "x0", VP)), whole.field(VP)
    frames = list(dc.frames(both, solver, x, grid=GRID, seed=5))
    parts = [dc.rescore(alone, solver, [frame.x[name] for frame in frames], grid=GRID) for name in "ab"]
    close(dc.rescore(both, solver, frames, grid=GRID), parts[0] + parts[1])


@dc.component
class Twice(dc.Stepper):
    """A draw from the reverse kernel, moved by 1 afterwards: not the kernel itself."""

    requires = frozenset({"reverse"})

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, s=s, noise=process.reverse_noise(t, s))

    def step(self, field, x, row, carry, z):
        return dc.Moved(field.reverse(x, row.t, row.s, z) + 1)


def test_what_has_no_density_is_refused(registry):
    field, x, ancestral = DATA.field(VP), numbers(2, 3), registry.make("solver", "ancestral")
    states = [f.x for f in dc.frames(field, ancestral, x, steps=3, seed=1)]
    message = r"step 3 of solver Ancestral \(to t = 0\) draws no noise and has no density; give .*: states\[:3\]"
    with pytest.raises(dc.IncompatibleError, match=message):
        dc.rescore(field, ancestral, states, steps=3)
    assert dc.rescore(field, ancestral, states[:3], steps=3).shape == (2, 2)
    with pytest.raises(dc.IncompatibleError, match="step 1 of solver Heun"):
        dc.rescore(field, registry.make("solver", "heun"), states, steps=3)
    with pytest.raises(dc.IncompatibleError, match="Twice has no known step kernel under ReferenceVP"):
        dc.rescore(field, Twice(), states[:3], steps=3)
    with pytest.raises(dc.DataError, match="4 states for the 3 times of the grid"):
        dc.rescore(field, ancestral, states, grid=[0.9, 0.5, 0.1])
    with pytest.raises(dc.DataError, match="two states or more, one for each time; got 1"):
        dc.rescore(field, ancestral, states[:1], steps=3)
    with pytest.raises(dc.NumericsError, match="draws no noise: it has no density"):
        VP.reverse_law(x, VP.coeffs(GRID[0]).map(float), instant(VP, 0.0).map(float), field.posterior(x, 0.9)).log_prob(x)

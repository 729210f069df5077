"""Rows that belong together: particles with weights, the same for any batch and world size, in the order of their groups."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import diffcore as dc
from diffcore.learning import distributed
from diffcore.testing import Gaussian, ReferenceVP
from diffcore.testing.driving import exact_moments

DOUBLE = torch.float64
VP = ReferenceVP()


@dc.component
class Steered(dc.Stepper):
    """Ancestral steps of `particles` rows that are resampled together, weighted by exp r(E[x_0 | x_t]), r = -c |x - a|^2 / 2.

    The weights telescope to exp r(x_0). Systematic resampling where the effective number is below half.
    """

    requires = frozenset({"reverse", "affine"})
    particles: int = dc.param(default=4, ge=1, doc="rows of a group")
    goal: float = dc.param(default=1.0, doc="a")
    sharp: float = dc.param(default=0.3, doc="c")

    @property
    def group(self):
        return self.particles

    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, s=s, noise=torch.ones_like(t.t), again=(1,) * (len(grid) - 2) + (0,))

    def init(self, x):
        zero = x.new_zeros(len(x))
        return zero, zero, zero

    def draws(self, process, x, draw):
        return {"z": process.noise.like(x, draw), "u": draw.fold(1).groups(self.group).uniform(dtype=x.dtype)}

    def reward(self, x):
        return -self.sharp * ((x - self.goal) ** 2).sum(1) / 2

    def step(self, field, x, row, carry, z):
        reward, logw, logz = carry
        posterior = field.posterior(x, row.t)
        now = self.reward(posterior.mean)
        rows, logw, logz = resampled(logw + now - reward, logz, z["u"], self.particles)
        moved = field.process.reverse(x, row.t, row.s, posterior, z["z"])
        state, now = dc.take((moved, now), rows)
        if not row.again:
            logw = logw + self.reward(state) - now
        return dc.Moved(state, (now, logw, logz), logw=logw + logz, ancestors=rows)


def resampled(logw, logz, u, n):
    """Rows that are kept, and the weights after: all alike where the effective number of a group is below n / 2."""
    each = logw.view(-1, n)
    share = each.softmax(1)
    poor = 1 / (share**2).sum(1, keepdim=True) < n / 2
    points = (torch.arange(n, dtype=u.dtype) + u.view(-1, n)[:, :1]) / n
    chosen = torch.searchsorted(share.cumsum(1), points).clamp_max(n - 1)
    own = torch.arange(len(logw)).view(-1, n)
    rows = torch.where(poor, chosen + own[:, :1], own).flatten()
    total = each.logsumexp(1, keepdim=True) - math.log(n)
    logz = logz.view(-1, n) + torch.where(poor, total, 0.0)
    return rows, torch.where(poor, 0.0, each).flatten(), logz.flatten()


DATA = Gaussian([0.0, 0.4, -0.3], [1.0, 0.7, 1.2])
GRID = torch.linspace(1, 0, 61, dtype=DOUBLE)


def closed_form(solver, grid):
    """Mean, variance and log Z of N(m, v) exp(-c (x - a)^2 / 2), with m and v of the samples of plain ancestral steps, exact."""
    plain = dc.Registry.load().make("solver", "ancestral")
    each = [exact_moments(plain, VP, Gaussian([m], [s]), grid) for m, s in zip(DATA.m.tolist(), DATA.std.tolist(), strict=True)]
    m, v = (torch.tensor([getattr(e, name) for e in each], dtype=DOUBLE) for name in ("mean", "variance"))
    c, a = solver.sharp, solver.goal
    spread = v / (1 + c * v)
    logz = (-0.5 * (1 + c * v).log() - 0.5 * c * (m - a) ** 2 / (1 + c * v)).sum()
    return spread * (m / v + c * a), spread, logz


def test_weighted_particles_have_the_tilted_law():
    """Mean, variance and log Z of each entry within 4.5 s.e. over 16 groups of 1,000, and resampling did happen."""
    solver, n, groups = Steered(particles=1000, sharp=1.0), 1000, 16
    draw = dc.Draw(3, range(groups * n))
    at = VP.coeffs(GRID[0])
    z = draw.groups(n).normal((3,), DOUBLE)
    start = at.alpha * DATA.m + (at.alpha**2 * DATA.std**2 + at.sigma**2) ** 0.5 * z
    frames = list(dc.frames(DATA.field(VP), solver, start, grid=GRID, seed=3))
    last = frames[-1]
    logw = last.logw.view(groups, n)
    w = logw.softmax(1)[:, :, None]
    x = last.x.view(groups, n, 3)
    mean = (w * x).sum(1)
    variance = (w * x**2).sum(1) - mean**2
    for found, want, most in zip(
        (mean, variance, logw.logsumexp(1) - math.log(n)), closed_form(solver, GRID), (0.02, 0.02, 0.02), strict=True
    ):
        error = found.std(0) / groups**0.5
        assert bool((error < most).all())
        assert bool(((found.mean(0) - want).abs() < 4.5 * error + 2 / n).all()), (found.mean(0), want, error)
    again = [frame.ancestors.view(groups, n) for frame in frames[1:]]
    own = torch.arange(groups * n).view(groups, n)
    assert sum(int((rows != own).any(1).sum()) for rows in again) >= groups


def run(solver, ids, grid=GRID[::6]):
    x = dc.Draw(7, ids).normal((3,), DOUBLE)
    return dc.sample(DATA.field(VP), solver, x, grid=grid, seed=5, ids=ids)


def test_a_group_is_the_same_alone_and_in_another_place():
    solver = Steered(particles=4, sharp=3.0)
    whole = run(solver, list(range(12)))
    for ids in ([4, 5, 6, 7], [8, 9, 10, 11, 0, 1, 2, 3]):
        part = run(solver, ids)
        assert torch.equal(part.x, whole.x[ids])
        assert torch.equal(part.logw, whole.logw[ids])
    assert len(whole.logw.unique()) > 3


@pytest.mark.parametrize(
    "ids", [[0, 1, 2], [1, 2, 3, 4], [0, 1, 3, 2], [0, 1, 2, 3, 8, 9], range(2, 6), [4, 5, 6, 7, 0, 1, 3, 3]], ids=str
)
def test_a_cut_group_is_refused(ids):
    with pytest.raises(dc.DataError, match=r"4 samples belong together, as those of the ids 0 to 3 do, and these \d ids cut"):
        run(Steered(particles=4), ids)


def test_groups_share_a_stream():
    """That of a block: other numbers than one stream for each sample, and the same for any set of whole groups."""
    draw = dc.Draw(1, range(12))
    assert torch.equal(draw.groups(4).normal((2,)), dc.Draw(1, range(12), block=4).normal((2,)))
    assert torch.equal(draw.take([8, 9, 10, 11]).groups(4).normal((2,)), draw.groups(4).normal((2,))[8:])
    assert torch.equal(draw.groups(1).normal((2,)), draw.normal((2,)))
    with pytest.raises(dc.SpecError, match="a group must be an integer of at least 1; got 0"):
        draw.groups(0)


def test_rows_of_every_leaf_are_taken():
    rows, x = torch.tensor([2, 0, 0]), torch.arange(6.0).view(3, 2)
    found = dc.take((x, {"a": x[:, 0], "b": None}), rows)
    assert torch.equal(found[0], x[rows])
    assert torch.equal(found[1]["a"], torch.tensor([4.0, 0.0, 0.0]))
    assert found[1]["b"] is None


SPEC = {
    "data": {"type": "two-moons"},
    "process": {"type": "vp"},
    "network": {"type": "mlp", "width": 8, "depth": 1},
    "loss": {"type": "denoising"},
    "solver": {"type": "steered", "steps": 5, "sharp": 3.0},
    "sampling": {"n": 8},
    "evaluation": {"n": 400},
}


@pytest.fixture
def registry():
    made = dc.Registry.load()
    made.add(Steered)
    return made


def test_a_pipeline_holds_whole_groups(registry, tmp_path, monkeypatch):
    """The batch is rounded down to groups; weights are the same for any batch and world size, and are in the file."""
    pipeline = dc.assemble(SPEC, registry=registry)
    whole = pipeline.sample(12, seed=1)
    sizes = [len(part) for part in pipeline.batches(12, seed=1, batch=7)]
    assert sizes == [4, 4, 4]
    parts = pipeline.sample(12, seed=1, batch=3)
    torch.testing.assert_close(parts.x, whole.x)
    torch.testing.assert_close(parts.logw, whole.logw)
    assert whole.group == 4
    held = np.load(whole.save(tmp_path / "made.npz"))
    np.testing.assert_array_equal(held["logw"], whole.logw.numpy())
    for rank in range(2):
        monkeypatch.setattr(distributed, "world", lambda rank=rank: (rank, 2))
        share = distributed.share(12, 4)
        assert share == (range(4), range(4, 12))[rank]
        made = pipeline.sample_ids(share, 1, {})
        torch.testing.assert_close(made.logw, whole.logw[share.start : share.stop])


def test_samples_that_are_no_whole_groups_are_refused(registry):
    """When assembled, at the number in the spec, and when asked for; saying which numbers would do."""
    message = "10 samples, and 4 of this solver belong together: take whole groups, such as 8 or 12"
    with pytest.raises(dc.SpecError, match=message):
        dc.assemble(SPEC, registry=registry).sample(10)
    for section in ("sampling", "evaluation"):
        with pytest.raises(dc.DiffcoreError, match=f"{section}.n: {message}"):
            dc.assemble({**SPEC, section: {"n": 10}}, registry=registry)


def test_metrics_of_weighted_samples_say_that_they_are_taken_alike(registry):
    spec = {**SPEC, "metrics": [{"type": "sliced-wasserstein"}], "evaluation": {"n": 40}}
    with pytest.warns(dc.DataWarning, match=r"the samples of steered.* are weighted \(logw\), and metrics take them as they are"):
        dc.assemble(spec, registry=registry).evaluate()


@dc.component
class Pairs(dc.Stepper):
    """x + z, two rows together, which draws nothing of its own."""

    @property
    def group(self):
        return 2

    def plan(self, process, grid):
        t, _ = process.pairs(grid)
        return dc.Plan(t=t, noise=torch.ones_like(t.t))

    def step(self, field, x, row, carry, z):
        return dc.Moved(dc.lincomb((1, x), (1, z)))


def test_the_noise_of_a_step_has_one_stream_for_each_group():
    x = torch.zeros(4, 3, dtype=DOUBLE)
    found = dc.sample(DATA.field(VP), Pairs(), x, grid=[0.9, 0.5], seed=5, ids=[6, 7, 2, 3]).x
    assert torch.equal(found, dc.Draw(5, [6, 7, 2, 3], block=2).at(1).normal((3,), DOUBLE))
    with pytest.raises(dc.DataError, match="2 samples belong together"):
        dc.sample(DATA.field(VP), Pairs(), x, grid=[0.9, 0.5], ids=[1, 2, 3, 4])

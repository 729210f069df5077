"""The Brownian path: its law exactly (every value is linear in independent normals), and that only seed and sample matter."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffcore_sde_solvers.brownian import Brownian
from diffcore_sde_solvers.euler_maruyama_lam import EulerMaruyamaLam
from diffcore_sde_solvers.ode_ancestral import ODEAncestral
from diffcore_sde_solvers.path import Path, Segment, split
from diffcore_sde_solvers.restart import Restart
from diffcore_sde_solvers.seeds import SEEDS
from diffcore_sde_solvers.sra1 import SRA1
from diffcore_sde_solvers.stochastic_heun import StochasticHeun

import diffcore as dc
from diffcore.testing import Gaussian, Mixture, ReferenceFlow, ReferenceVP, golden_mixture, instant
from diffcore.testing.driving import lam_grid, slope

VP, FLOW = ReferenceVP(), ReferenceFlow()
BASIS = 4096


class Basis(Path):
    """A path whose normals are unit vectors: inner products of what it returns are covariances."""

    def _normal(self, cell, node):
        seen = self.__dict__.setdefault("seen", {})
        return tuple(self._unit(seen.setdefault((cell, node, k), len(seen))) for k in range(3))

    def _unit(self, index):
        return torch.nn.functional.one_hot(torch.tensor([index]), BASIS).double()


def basis(power=1.0, depth=12):
    return Basis(dc.Draw(0, range(1)), torch.zeros(1, BASIS, dtype=torch.float64), power, depth)


def plain(power=1.0, depth=12, ids=range(3), seed=5, dtype=torch.float64):
    return Path(dc.Draw(seed, ids), torch.zeros(len(ids), 2, dtype=dtype), power, depth)


LEVELS = [-12.0, -3.1, -1.0, -0.6, -0.55, 0.0, 0.3, math.log(2) / 2, 1.7, 4.0]


@pytest.mark.parametrize("power", [1.0, 0.5, 2.0, -1.0])
def test_all_increments_and_bridges_are_independent_and_standard(power):
    """The Gram matrix of 18 values over 9 steps within and across cells, on irregular levels, is the identity (1e-9)."""
    path = basis(power)
    values = torch.cat([v for a, b in pairwise(LEVELS) for v in path.increment(a, b)])
    assert len(path.seen) < BASIS
    torch.testing.assert_close(values @ values.T, torch.eye(18).double(), rtol=0, atol=1e-9)


def test_from_pure_noise():
    """At lam = -inf the clock is 0; the increment from there is that of the two parts."""
    path = basis()
    whole, (one, two) = path.increment(-math.inf, 0.3)[0], (path.increment(a, b)[0] for a, b in ((-math.inf, -1.0), (-1.0, 0.3)))
    cut = math.exp(-2) / math.exp(0.6)
    torch.testing.assert_close(whole, cut**0.5 * one + (1 - cut) ** 0.5 * two, rtol=0, atol=1e-12)
    assert float((whole**2).sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("power", [1.0, -1.0])
def test_a_step_in_parts_is_the_step(power):
    """sqrt(l) z adds up, and H is the average of the path less half its increment: against the trapezoidal rule on 400 parts."""
    path, lam = plain(power), torch.linspace(-0.4, 0.9, 401, dtype=torch.float64).tolist()
    z, h = path.increment(lam[0], lam[-1])
    q = [path.clock(v) for v in lam]
    steps = torch.stack([path.increment(a, b)[0] * abs(path.clock(b) - path.clock(a)) ** 0.5 for a, b in pairwise(lam)])
    length = abs(q[-1] - q[0])
    assert float((steps.sum(0) - length**0.5 * z).abs().max()) < 1e-11
    walk = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])
    widths = torch.tensor([abs(b - a) for a, b in pairwise(q)]).double()[:, None, None]
    average = ((walk[1:] + walk[:-1]) / 2 * widths).sum(0) / length
    assert float((average - walk[-1] / 2 - (length / 12) ** 0.5 * h).abs().max()) < 0.01 * length**0.5


def test_a_split_segment_is_whole_again():
    """Both parts in a row have the increment and the integral they were cut from, for any share and any fresh numbers."""
    normal = dc.Draw(1, range(4)).normal((5,), torch.float64)
    whole = Segment(0.7, normal[:, 0], normal[:, 1])
    for u in (0.5, 0.1, 0.93):
        one, two = split(whole, u, (normal[:, 2], normal[:, 3], normal[:, 4]))
        again = one.then(two)
        assert again.length == pytest.approx(0.7)
        assert one.length == pytest.approx(0.7 * u)
        torch.testing.assert_close(torch.stack([again.w, again.area]), torch.stack([whole.w, whole.area]), rtol=0, atol=1e-13)
        torch.testing.assert_close(again.after(one).area, two.area, rtol=0, atol=1e-13)


def test_the_path_belongs_to_seed_and_sample():
    """The same whatever was asked before, in whatever batch and precision; another for another seed, sample or coordinate."""
    alone = plain(ids=[2]).increment(-0.2, 0.5)[0]
    path = plain()
    for a, b in pairwise(LEVELS):
        path.increment(a, b)
    assert torch.equal(path.increment(-0.2, 0.5)[0][2:], alone)
    assert torch.equal(plain(dtype=torch.float32, ids=[2]).increment(-0.2, 0.5)[0], alone.float())
    others = torch.cat([path.increment(-0.2, 0.5)[0].flatten(), plain(seed=6).increment(-0.2, 0.5)[0].flatten()])
    assert len(set(others.tolist())) == len(others)


def test_every_node_has_numbers_of_its_own():
    """12 cells of 16 nodes with 3 numbers each, for 3 samples of 2 entries: no two alike, and mean square 1 within 4 s.e."""
    path = plain()
    made = torch.stack([torch.stack(path._normal(cell, node)) for cell in range(12) for node in range(16)]).flatten()
    assert len(set(made.tolist())) == len(made) == 12 * 16 * 18
    assert abs(float((made**2).mean()) - 1) < 4 * (2 / len(made)) ** 0.5


def test_a_step_within_one_leaf_is_refused():
    """With depth 3 a leaf is 1/8 of an octave; a node of the tree itself is the start of its leaf."""
    path = plain(depth=3)
    a = 0.5 * math.log(1.3)
    with pytest.raises(dc.NumericsError, match="depth 3"):
        path.increment(a, a + 1e-6)
    assert bool(path.increment(0.0, 0.5 * math.log(1.126))[0].isfinite().all())


def test_a_path_has_no_increment_where_its_clock_stands():
    for levels in ((0.1, 0.1), (0.0, math.inf)):
        with pytest.raises(dc.NumericsError, match="no increment"):
            plain().increment(*levels)


def test_a_run_takes_its_noise_from_the_path():
    """Written out step by step, in the solver's own clock."""
    solver, nodes = SRA1(eta=0.5), lam_grid(VP, 0.6, 0.05, 4)
    field, x = golden_mixture().field(VP), torch.linspace(-1, 1, 3, dtype=torch.float64)[:, None]
    got = dc.sample(field, Brownian(of=solver), x, grid=nodes, seed=5).x
    path, lam = Path(dc.Draw(5, range(3)), x, 0.5, 10), VP.coeffs(nodes).lam.tolist()
    for row, (a, b) in zip(solver.plan(VP, nodes).rows(field, x), pairwise(lam), strict=True):
        x = solver.step(field, x, row, None, path.increment(a, b)).x
    assert float((got - x).abs().max()) < 1e-13


def test_the_clock_is_the_solvers_unless_named():
    assert [Brownian(of=s).exponent for s in (SRA1(eta=0.5), SRA1(eta=0.0), SEEDS(), EulerMaruyamaLam())] == [0.5, 1, -1, 1]
    assert Brownian(of=SEEDS(), power=2.0).exponent == 2


def test_a_step_of_infinite_clock_has_noise_of_its_own():
    """SEEDS' clock is infinite at pure noise: the first step has the solver's noise, the later ones the path's."""
    field, solver = golden_mixture().field(FLOW), SEEDS()
    x = FLOW.prior((1,), dc.Draw(1, range(4))).double()
    nodes = torch.tensor([1.0, 0.7], dtype=torch.float64)
    one, other = (dc.sample(field, s, x, grid=nodes, seed=3).x for s in (Brownian(of=solver), solver))
    assert torch.equal(one, other)
    nodes = torch.tensor([0.9, 0.7], dtype=torch.float64)
    assert not torch.equal(*(dc.sample(field, s, x, grid=nodes, seed=3).x for s in (Brownian(of=solver), solver)))


SOFT = Mixture([0.4, 0.6], [[-0.7], [0.6]], [0.5, 0.35])


@pytest.fixture(scope="module")
def refined():
    """Runs on one path of 4 x 512 independent mixtures from .6 T to .05 T, and the reference of 256 steps."""

    def net(x, t):
        return SOFT.mean(x.reshape(-1, 1), VP.coeffs(t.double()[0])).reshape(x.shape)

    field, at = dc.Field(dc.Denoiser(net, "x0", VP)), instant(VP, 0.6)
    x = SOFT.sample(4 * 512).reshape(4, 512) * at.alpha + at.sigma * dc.Draw(1, range(4)).normal((512,), torch.float64)

    def run(solver, steps):
        return dc.sample(field, Brownian(of=solver, power=1.0), x, grid=lam_grid(VP, 0.6, 0.05, steps), seed=7).x

    return run, run(SRA1(), 256)


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (EulerMaruyamaLam(), 1.0),
        (StochasticHeun(), 1.0),
        (SEEDS(stages=1), 1.0),
        (SEEDS(), 1.1),
        (SEEDS(stages=3), 1.15),
        (SRA1(), 1.85),
    ],
    ids=lambda v: f"{type(v).__name__}{getattr(v, 'stages', '')}" if isinstance(v, dc.Solver) else "",
)
def test_strong_convergence_on_a_mixture(refined, solver, order):
    """Root mean square distance to the reference on the same path, 16 to 64 steps: the slope within .15."""
    run, reference = refined
    counts = [16, 32, 64]
    errors = [float(((run(solver, n) - reference) ** 2).mean().sqrt()) for n in counts]
    assert abs(slope(counts, errors) - order) < 0.15, errors
    assert errors[-1] < 0.03


def test_without_the_path_nothing_converges(refined):
    """Fresh noise for every grid: the distance stays the spread of the samples."""
    _, reference = refined
    field = SOFT.field(VP)
    x = torch.zeros(400, 1).double()
    coarse, fine = (dc.sample(field, StochasticHeun(), x, grid=lam_grid(VP, 0.6, 0.05, n), seed=7).x for n in (32, 64))
    assert float((coarse - fine).std()) > 0.5
    assert float(reference.std()) > 0.5


def test_refusals():
    class Two(EulerMaruyamaLam):
        def draws(self, process, x, draw):
            return (process.noise.like(x, draw), process.noise.like(x, draw))

    uniform = dc.Registry.load().make("grid", "uniform")
    for wrong, words in (
        (EulerMaruyamaLam(grid=uniform), "grid of its own"),
        (Restart(), "owns its loop"),
        (Two(), "on_path"),
    ):
        with pytest.raises(dc.SpecError, match=words):
            Brownian(of=wrong)
    field, x = Gaussian(0.5, 0.8, shape=(1,)).field(VP), torch.zeros(2, 1)
    with pytest.raises(dc.SpecError, match="one time per step"):
        dc.sample(field, Brownian(), x, grid=torch.tensor([[0.9, 0.8], [0.5, 0.4]]))
    with pytest.raises(dc.IncompatibleError, match="eager mode only"):
        dc.sample(field, Brownian(), x, steps=3, mode="compile")
    assert dc.sample(field, Brownian(of=ODEAncestral()), x, steps=3).x.isfinite().all()

"""Time grids against their published formulas, and where they begin and end."""

import math

import pytest
import torch
from diffcore_solvers.karras import Karras
from diffcore_solvers.quadratic import Quadratic
from diffcore_solvers.shifted import Shifted
from diffcore_solvers.uniform import Uniform
from diffcore_solvers.uniform_lam import UniformLam

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, ReferenceVP, instant

VP, VE, FLOW = ReferenceVP(), ReferenceVE(), ReferenceFlow()


@dc.component
class Floored(ReferenceVP):
    """VP whose network is not asked below t = .001."""

    @property
    def min_time(self):
        return 1e-3


FLOOR = Floored()
GRIDS = [Uniform(), Quadratic(), UniformLam(), Karras(), Shifted(), Shifted(shift=0.5, grid=Karras())]
TO_T_MIN = [Uniform(end="t_min"), Quadratic(end="t_min"), UniformLam(end="t_min"), Karras(end="t_min")]


def lam(process, nodes):
    return process.coeffs(nodes).lam


@pytest.mark.item("9.13", "R26")
@pytest.mark.parametrize("process", [VP, VE, FLOW, FLOOR], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_n_steps_from_the_start_to_zero(grid, process):
    for start in (process.T, 0.6 * process.T, 0.05 * process.T):
        for steps in (1, 2, 3, 4, 17, 100):
            nodes = grid.nodes(process, steps, start)
            assert nodes.dtype == torch.float64
            assert len(nodes) == steps + 1
            assert float(nodes[0]) == start
            assert float(nodes[-1]) == 0.0
            assert bool((nodes[:-1] > nodes[1:]).all())


@pytest.mark.parametrize("grid", TO_T_MIN, ids=repr)
def test_a_grid_may_end_at_the_smallest_time_of_the_network(grid):
    for steps in (1, 2, 3, 20):
        nodes = grid.nodes(FLOOR, steps, 1.0)
        assert float(nodes[-1]) == 1e-3
        assert len(nodes) == steps + 1
        assert bool((nodes[:-1] > nodes[1:]).all())


@pytest.mark.item("9.13", "R26")
def test_uniform_and_quadratic_formulas():
    for i, (even, square) in enumerate(zip(Uniform().nodes(VE, 8, 10.0), Quadratic().nodes(VE, 8, 10.0), strict=True)):
        assert float(even) == pytest.approx(10 * (1 - i / 8), abs=1e-14)
        assert float(square) == pytest.approx(10 * (1 - i / 8) ** 2, abs=1e-14)
    roots = Quadratic(end="t_min").nodes(FLOOR, 5, 1.0).sqrt().diff()
    assert torch.allclose(roots, torch.tensor((math.sqrt(1e-3) - 1) / 5, dtype=torch.float64), atol=1e-14)


@pytest.mark.parametrize("grid", [Uniform(), Quadratic()], ids=repr)
def test_no_inner_time_lies_below_min_time(grid):
    """Few steps go straight to 0; with more the rule ends at min_time, one step earlier, and a last step goes from there."""
    to_floor = type(grid)(end="t_min")
    for steps in (2, 10, 100, 5000):
        nodes = grid.nodes(FLOOR, steps, 1.0)
        assert float(nodes[-2]) >= FLOOR.min_time
        free = Quadratic.nodes if isinstance(grid, Quadratic) else Uniform.nodes
        if float(free(grid, VE, steps, 1.0)[-2]) < FLOOR.min_time:
            assert torch.equal(nodes[:-1], to_floor.nodes(FLOOR, steps - 1, 1.0))
        else:
            assert torch.equal(nodes, free(grid, VE, steps, 1.0))
    assert float(grid.nodes(FLOOR, 3, 0.5 * FLOOR.min_time)[0]) == 0.5 * FLOOR.min_time


@pytest.mark.item("9.13", "R26")
def test_uniform_lam_has_equal_steps_and_one_jump():
    steps = lam(FLOOR, UniformLam().nodes(FLOOR, 11, 1.0)[:-1]).diff()
    span = float(instant(FLOOR, 1e-3).lam - instant(FLOOR, 1.0).lam)
    assert torch.allclose(steps, torch.tensor(span / 10, dtype=torch.float64), atol=1e-10)
    steps = lam(FLOOR, UniformLam(end="t_min").nodes(FLOOR, 10, 0.5)).diff()
    assert torch.allclose(steps, steps[:1], atol=1e-10)


def test_levels_begin_below_pure_noise_and_end_above_clean_data():
    """The straight path has lam = -inf at T and inf at 0: two jumps, and equal steps from -5 to 5 between."""
    inner = lam(FLOW, UniformLam().nodes(FLOW, 12, 1.0)[1:-1])
    assert torch.allclose(inner, torch.linspace(-5, 5, 11, dtype=torch.float64), atol=1e-12)
    inner = lam(FLOW, UniformLam(lam_min=-3.0, lam_max=4.0).nodes(FLOW, 9, 1.0)[1:-1])
    assert torch.allclose(inner, torch.linspace(-3, 4, 8, dtype=torch.float64), atol=1e-12)


def test_a_start_within_the_levels_is_the_first_level():
    inner = lam(FLOW, UniformLam().nodes(FLOW, 6, 0.5)[:-1])
    assert torch.allclose(inner, torch.linspace(0, 5, 6, dtype=torch.float64), atol=1e-12)


@pytest.mark.item("9.13", "R26")
def test_karras_is_equation_5_of_the_paper():
    """N levels from sigma_max to sigma_min, then 0: N steps."""
    n, low, high = 18, 0.002, 10.0
    nodes = Karras(sigma_min=low).nodes(VE, n, high)
    for i in range(n):
        sigma = (high ** (1 / 7) + i / (n - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
        assert float(nodes[i]) == pytest.approx(sigma, rel=1e-12)
    assert float(nodes[n]) == 0.0


def test_karras_spaces_sigma_over_alpha_for_every_process():
    c = VP.coeffs(Karras(rho=3.0, sigma_max=20.0, sigma_min=0.01).nodes(VP, 9, 1.0)[1:-1])
    want = torch.linspace(20 ** (1 / 3), 0.01 ** (1 / 3), 8, dtype=torch.float64) ** 3
    assert torch.allclose(c.sigma / c.alpha, want, rtol=1e-10)


@pytest.mark.item("9.13", "R26")
@pytest.mark.parametrize("k", [0.5, 1.0, 3.0])
def test_shift_formula_and_start(k):
    nodes = Shifted(shift=k).nodes(FLOW, 10, 1.0)
    for i, t in enumerate(nodes.tolist()):
        u = 1 - i / 10
        assert t == pytest.approx(k * u / (1 + (k - 1) * u), abs=1e-14)
    part = Shifted(shift=k).nodes(FLOW, 7, 0.4)
    back = part / (k - (k - 1) * part)
    assert torch.allclose(back.diff(), back.diff()[:1], atol=1e-14)


def test_the_shift_is_relative_to_the_time_of_pure_noise():
    assert torch.allclose(Shifted().nodes(VE, 6, 10.0), 10 * Shifted().nodes(FLOW, 6, 1.0), atol=1e-13)


def test_the_warp_is_applied_once_to_the_grid_inside():
    outer, inner = Shifted(shift=3.0, grid=UniformLam()).nodes(FLOW, 8, 1.0), UniformLam().nodes(FLOW, 8, 1.0)
    assert torch.allclose(outer, 3 * inner / (1 + 2 * inner), atol=1e-13)


def test_no_room_between_the_levels_is_an_error_that_says_where():
    with pytest.raises(dc.SpecError, match=r"no room for 5 times between lam = .*start t = 0\.0001.*larger time"):
        UniformLam(lam_max=2.0).nodes(FLOW, 5, 1e-4)


def test_a_grid_inside_a_shift_must_fit_the_process():
    @dc.component
    class Bare(dc.Process):
        """No coefficients."""

    with pytest.raises(dc.IncompatibleError, match="grid Karras needs affine, which Bare lacks"):
        Shifted(grid=Karras()).nodes(Bare(), 4, 1.0)

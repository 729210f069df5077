"""Explicit and cosine grids against their formulas; calibrated grids against closed forms and on states they have not seen."""

import math

import attrs
import pytest
import torch
from diffcore_auto.calibrated_grid import unpacked
from diffcore_auto.cosine import Cosine
from diffcore_auto.crash import Crash
from diffcore_auto.density import Slopes, _interpolated, klub, local_error, measured, shared
from diffcore_auto.descent import Shape, descend
from diffcore_auto.endpoint import Endpoint
from diffcore_auto.equidistributed import Equidistributed
from diffcore_auto.explicit import Explicit
from diffcore_auto.levels import inner_levels
from diffcore_auto.reference import fine_grid, solve
from diffcore_auto.standard import nodes_of, standard_grids
from diffcore_auto.straight import Straight
from diffcore_auto.trial import Trial

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, ReferenceVP
from diffcore.testing.oracles import Gaussian, Mixture

VP, VE, FLOW = ReferenceVP(), ReferenceVE(), ReferenceFlow()
RING = Mixture([0.3, 0.4, 0.3], [[-1.0, 0.5], [1.0, 0.2], [0.0, -1.0]], [0.1, 0.3, 0.2])


def starts(process, oracle, n=64, seed=0):
    return process.prior(oracle.shape, dc.Draw(seed, range(n))).double()


@pytest.fixture(scope="module")
def registry():
    return dc.Registry.load()


@pytest.fixture(scope="module")
def smooth(registry):
    return registry.make("process", "vp")


def test_cosine_grid_has_equal_angles_for_every_process():
    for process, scale in ((VP, 1.0), (VE, 0.5), (FLOW, 2.0)):
        at = process.coeffs(Cosine(scale=scale).nodes(process, 9, process.T))
        angles = torch.atan2(at.sigma, at.alpha * scale).diff()
        assert torch.allclose(angles, angles[:1], atol=1e-9)


def test_cosine_levels_are_those_of_the_cosine_schedule():
    at = FLOW.coeffs(Cosine().nodes(FLOW, 8, 1.0)[1:-1])
    want = torch.tensor([math.tan(math.pi / 2 * (1 - i / 8)) for i in range(1, 8)], dtype=torch.float64)
    assert torch.allclose(at.sigma / at.alpha, want, rtol=1e-9)


def test_straight_levels_are_the_equal_times_of_the_straight_path_and_scale_is_its_shift():
    u = torch.linspace(1, 0, 9, dtype=torch.float64)
    assert torch.allclose(Straight().nodes(FLOW, 8, 1.0), u, atol=1e-9)
    shifted = 3 * u / (1 + 2 * u)  # Esser et al. 2024, equation 23
    assert torch.allclose(Straight(scale=3.0).nodes(FLOW, 8, 1.0), shifted, atol=1e-9)
    for process, scale in ((VP, 1.0), (VE, 0.5)):
        at = process.coeffs(Straight(scale=scale).nodes(process, 9, process.T))
        steps = (at.sigma / (at.alpha * scale + at.sigma)).diff()
        assert torch.allclose(steps, steps[:1], atol=1e-9)


def test_crash_levels_are_those_of_its_formula():
    """On alpha = 1 - t, sigma = t the sine of the angle is sin(pi u / 2)^2 at equally spaced u; any start is one of the curve."""
    at = FLOW.coeffs(Crash().nodes(FLOW, 10, 1.0))
    want = torch.sin(torch.linspace(1, 0, 11, dtype=torch.float64) * math.pi / 2) ** 2
    assert torch.allclose(at.sigma / (at.alpha**2 + at.sigma**2) ** 0.5, want, atol=1e-9)
    at = VP.coeffs(Crash(scale=2.0).nodes(VP, 7, 0.6))
    sine = (at.sigma / (4 * at.alpha**2 + at.sigma**2) ** 0.5).sqrt().asin().diff()
    assert torch.allclose(sine, sine[:1], atol=1e-9)


@pytest.mark.parametrize("grid", [Cosine(), Straight(), Crash()], ids=repr)
def test_equal_steps_do_not_go_below_min_time(grid, smooth):
    """With so many steps that one would, N - 1 of them end at min_time (1e-3) and the last goes from there."""
    assert float(grid.nodes(smooth, 6, 1.0)[-2]) > smooth.min_time
    many = grid.nodes(smooth, 3000, 1.0)
    assert torch.equal(many[:-1], attrs.evolve(grid, end="t_min").nodes(smooth, 2999, 1.0))
    assert many[-2:].tolist() == [smooth.min_time, 0.0]


def test_explicit_times_levels_and_ratios_are_one_grid():
    times = (1.0, 0.7, 0.2, 0.0)
    lam = FLOW.coeffs(torch.tensor(times[1:-1], dtype=torch.float64)).lam.tolist()
    ratios = [math.exp(-v) for v in lam]
    for grid in (
        Explicit(times=times),
        Explicit(lam=(-math.inf, *lam, math.inf)),
        Explicit(sigma=(1e9, *ratios, 0.0)),
    ):
        assert torch.allclose(grid.nodes(FLOW, 3, 1.0), torch.tensor(times, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "one of times, lam and sigma; got 0"),
        ({"times": (1.0, 0.0), "lam": (0.0, 1.0)}, "got 2 of them"),
        ({"times": (0.0, 1.0)}, "fall strictly"),
        ({"lam": (1.0, 0.0)}, "rise strictly"),
        ({"sigma": (1.0,)}, "2 or more"),
        ({"times": (1.0, 0.5, 0.5, 0.0)}, "fall strictly"),
        ({"lam": (0.0, 0.0)}, "rise strictly"),
    ],
)
def test_explicit_refuses_what_is_no_grid(fields, message):
    with pytest.raises(dc.SpecError, match=message):
        Explicit(**fields)


def test_two_values_are_one_step():
    assert Explicit(times=(1.0, 0.25)).nodes(FLOW, 1, 1.0).tolist() == [1.0, 0.25]


def test_one_level_between_two_jumps_is_the_middle_of_those_given():
    grid = Explicit(lam=(-math.inf, -1.0, 0.5, 4.0, math.inf), resample=True)
    assert float(FLOW.coeffs(grid.nodes(FLOW, 2, 1.0)[1]).lam) == pytest.approx(0.5)
    assert grid.nodes(FLOW, 1, 1.0).tolist() == [1.0, 0.0]


def test_explicit_takes_no_other_number_of_steps_and_no_other_start():
    grid = Explicit(times=(1.0, 0.5, 0.0))
    with pytest.raises(dc.SpecError, match="set steps: 2, or resample: true"):
        grid.nodes(FLOW, 3, 1.0)
    with pytest.raises(dc.SpecError, match=r"begins at t = 1, the run at t = 0\.8"):
        grid.nodes(FLOW, 2, 0.8)


def test_resampling_is_linear_in_lam_and_keeps_the_jumps():
    grid = Explicit(sigma=(1e9, math.e**3, math.e**1, math.e**-3, 0.0), resample=True)
    inner = FLOW.coeffs(grid.nodes(FLOW, 6, 1.0)[1:-1]).lam
    assert torch.allclose(inner, torch.tensor([-3.0, -2.0, -1.0, 1.0, 3.0], dtype=torch.float64), atol=1e-9)
    later = grid.nodes(FLOW, 3, 0.5)  # lam = 0: two nodes are behind it
    assert torch.allclose(
        later[:3], torch.tensor([0.5, 1 / (1 + math.e**1.5), 1 / (1 + math.e**3)], dtype=torch.float64), atol=1e-9
    )


def test_fine_solutions_reach_the_closed_form(registry):
    for name in ("vp", "flow", "edm"):
        process, data = registry.make("process", name, t_min=1e-5), Gaussian(0.5, 0.8, shape=(2,))
        x = starts(process, data, 8)
        found = solve(data.field(process), x, 0.0)
        assert (
            float((found.x - data.flow(process, x, process.T, 0.0)).abs().max()) < 2e-3 if name != "edm" else found.error < 1e-3
        )


def test_equal_shares_of_a_known_density(smooth):
    levels = torch.linspace(-5, 4.5, 400, dtype=torch.float64)
    n = torch.exp(-((levels - 1) ** 2))
    inner = shared(smooth, 1.0, levels, n, 6)
    total = lambda a, b: _integral(levels, n + 0.2 * n.mean(), float(a), float(b))  # noqa: E731
    ends = [smooth.coeffs(torch.tensor(t).double()).lam for t in (1.0, smooth.min_time)]
    parts = [total(a, b) for a, b in zip([ends[0], *inner], [*inner, ends[1]], strict=True)]
    assert max(parts) / min(parts) == pytest.approx(1, abs=0.02)


def _integral(x, y, a, b):
    fine = torch.linspace(a, b, 4001, dtype=torch.float64)
    values = torch.from_numpy(__import__("numpy").interp(fine.numpy(), x.numpy(), y.numpy()))
    return float(torch.trapezoid(values, fine))


def test_slopes_of_a_gaussian_are_those_of_the_closed_form(registry):
    """m = s^2 alpha x_t / (alpha^2 s^2 + sigma^2) and x_t = x_T (V_t / V_T)^(1/2): its derivatives in lam by differences."""
    process, data = registry.make("process", "vp"), Gaussian(0.0, 0.5, shape=(3,))
    x = starts(process, data)
    found = measured(data.field(process), x)

    def mean(lam):
        at = process.coeffs(process.t_of_lam(lam))
        v, v_end = (c.alpha**2 * 0.25 + c.sigma**2 for c in (at, process.coeffs(torch.tensor(1.0).double())))
        return 0.25 * at.alpha / (v * v_end).sqrt() * x.square().mean().sqrt()

    h = 1e-3
    for order, rule in ((1, lambda lam: (mean(lam + h) - mean(lam - h)) / 2 / h),
                        (2, lambda lam: (mean(lam + h) - 2 * mean(lam) + mean(lam - h)) / h**2)):  # fmt: skip
        levels, size = found.of["x0", order]
        assert float((size - rule(levels).abs()).abs().max()) < 0.03 * float(size.max())
        assert len(levels) == len(inner_levels(process, fine_grid(process, 64, 0.0))) - order, "every level but the first ones"
    assert found.scale == pytest.approx(float(0.5 * x.square().mean().sqrt()), rel=0.02)


def test_densities_are_their_formulas():
    levels, size = torch.tensor([-1.0, 2.0]).double(), torch.tensor([3.0, 0.5]).double()
    slopes = Slopes({("x0", 1): (levels, size), ("eps", 2): (levels, size)}, 0.7)
    at = FLOW.coeffs(FLOW.t_of_lam(levels))
    reach = 0.7 / (at.alpha**2 * 0.49 + at.sigma**2).sqrt()
    assert torch.allclose(local_error(slopes, FLOW, "x0", 1)[1], (at.alpha * reach * size).sqrt())
    assert torch.allclose(local_error(slopes, FLOW, "eps", 2)[1], (at.sigma * reach * size) ** (1 / 3))
    assert torch.allclose(klub(slopes)[1], (levels.exp() * size) ** (2 / 3))


def test_shapes_read_back_the_grids_they_make(smooth):
    for process in (smooth, FLOW):
        shape = Shape(process, 1.0, 0.0)
        nodes = Cosine().nodes(process, 7, 1.0)
        assert torch.allclose(shape.nodes(shape.theta(nodes)), nodes, atol=1e-6)


def test_levels_beyond_the_room_are_scaled_down_and_others_are_as_they_are(smooth):
    """The last inner level of numbers whose sum is beyond the room is the end of the room, all in their proportions."""
    shape = Shape(smooth, 1.0, 0.0)
    for total, wanted in ((3 * shape.room, shape.room), (0.5 * shape.room, 0.5 * shape.room)):
        shares = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
        levels = smooth.coeffs(shape.nodes((total * shares).log())[1:-1]).lam
        assert torch.allclose(levels - shape.low, wanted * shares.cumsum(0), atol=1e-9)


def test_descent_finds_the_least_squares_of_levels_in_closed_form(smooth):
    """Offsets lam_i - target_i: zero where the levels are the targets."""
    shape, targets = Shape(smooth, 1.0, 0.0), torch.tensor([-3.0, -1.0, 0.5, 3.0]).double()

    def run(nodes):
        return (smooth.coeffs(nodes[1:-1]).lam - targets)[None]

    found = descend(run, shape, Cosine().nodes(smooth, 5, 1.0), 20)
    assert torch.allclose(smooth.coeffs(found.nodes[1:-1]).lam, targets, atol=1e-3)
    assert found.after < 1e-5 < found.before


def test_one_inner_node_is_the_optimum_in_closed_form(registry, smooth):
    """Two steps of DDIM on N(0, .25) multiply x by f(lam), the exact flow by k: the best level is argmin |f - k|."""
    data = Gaussian(0.0, 0.5, shape=(1,))
    field, x = data.field(smooth), starts(smooth, data, 64)
    solver = registry.make("solver", "ddim", steps=2, grid=Endpoint(rounds=20))
    found = dc.calibrate(solver, field, x)

    def step(t, s):
        known = 0.25 * t.alpha / (0.25 * t.alpha**2 + t.sigma**2)
        return s.sigma / t.sigma + (s.alpha - t.alpha * s.sigma / t.sigma) * known

    start, end = (smooth.coeffs(torch.tensor(t).double()) for t in (1.0, 0.0))
    scan = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    at = smooth.coeffs(smooth.t_of_lam(scan))
    exact = 0.5 / (0.25 * start.alpha**2 + start.sigma**2).sqrt()
    best = float(scan[(step(start, at) * step(at, end) - exact).abs().argmin()])
    assert float(smooth.coeffs(found["times"][1]).lam) == pytest.approx(best, abs=0.03)


@pytest.mark.parametrize("kind", [Endpoint, Equidistributed])
@pytest.mark.parametrize(("name", "solver"), [("vp", "dpmpp-2m"), ("flow", "heun"), ("edm", "ddim")])
def test_calibrated_grids_are_never_worse_than_the_best_standard_grid_on_held_out_states(registry, kind, name, solver):
    process = registry.make("process", name)
    field, x = RING.field(process), starts(process, RING)
    solver = registry.make("solver", solver, steps=5, grid=kind())
    found = dc.calibrate(solver, field, x)
    told, ready = unpacked(found["told"]), dc.calibrated(solver, found)
    trial = Trial(field, x, solve(field, x, 0.0).x).rows(32, 64)
    kept = trial.error(ready, ready.nodes(process), "median")
    assert kept == pytest.approx(min(told["found"], told["known"]), rel=1e-9)
    assert kept <= told["known"]
    assert told["calls"] > 5 * 32
    assert ready.grid == Explicit(times=tuple(found["times"].tolist()))
    assert any("held-out" in line for line in ready.grid.__class__ and solver.grid.why(found))


def test_a_grid_that_is_not_better_gives_way_and_says_so(registry, smooth):
    class Worse(Endpoint):
        def propose(self, trial, solver, starts, best):
            return torch.tensor([1.0, 0.999, 0.998, 0.997, 0.0]).double()

    solver = registry.make("solver", "ddim", steps=4, grid=Worse())
    found = dc.calibrate(solver, RING.field(smooth), starts(smooth, RING))
    assert "no better" in Worse().why(found)[0]
    assert float(found["times"][1]) < 0.99


def test_optimised_times_carry_over_to_fresh_noise(registry, smooth):
    field, dpm = RING.field(smooth), registry.make("solver", "dpmpp-2m", steps=8, grid=Endpoint())
    found = dc.calibrate(dpm, field, starts(smooth, RING, 128))
    fresh = starts(smooth, RING, 128, seed=9)
    trial = Trial(field, fresh, solve(field, fresh, 0.0).x)
    known = min(
        trial.error(dpm, registry.make("grid", name).nodes(smooth, 8, 1.0), "median")
        for name in ("uniform", "uniform-lam", "karras", "cosine", "quadratic")
    )
    assert trial.error(dpm, found["times"], "median") < known / 1.5


def test_least_squares_and_another_end(registry, smooth):
    solver = registry.make("solver", "ddim", steps=5, grid=Endpoint(end="t_min", measure="rms", calibration=32))
    found = dc.calibrate(solver, RING.field(smooth), starts(smooth, RING, 32))
    assert float(found["times"][-1]) == smooth.min_time
    assert "rms" in solver.grid.why(found)[0]


def test_a_grid_that_is_not_calibrated_says_what_to_do(smooth):
    with pytest.raises(dc.SpecError, match="diffcore calibrate RUN"):
        Endpoint().nodes(smooth, 4, 1.0)


def test_a_grid_fits_a_process_that_provides_what_it_requires_and_no_more():
    @dc.component
    class Bare(ReferenceVP):
        """Coefficients, and no velocity."""

        provides = frozenset({"affine"})

    names = [name for name, _ in standard_grids(dc.Field(dc.Denoiser(lambda x, t: x, "x0", Bare())))]
    assert {"uniform", "uniform-lam", "karras"} <= set(names)


def test_a_grid_that_cannot_end_above_zero_is_no_rival_of_those_that_do(registry):
    process, ddim = registry.make("process", "edm"), registry.make("solver", "ddim", steps=4)
    field = dc.Field(dc.Denoiser(lambda x, t: x, "x0", process))
    above, zero = (nodes_of(field, ddim, end) for end in ("t_min", "zero"))
    assert {float(nodes[-1]) for nodes in above.values()} == {process.min_time} != {0.0}
    assert {float(nodes[-1]) for nodes in zero.values()} == {0.0}
    assert set(zero) - set(above) == {"shifted(shift=3.0)"}


def test_beyond_its_ends_a_table_is_constant():
    x, known, values = (torch.tensor(v, dtype=torch.float64) for v in ([-1.0, 0.5, 3.0], [0.0, 1.0, 2.0], [1.0, 5.0, 2.0]))
    assert _interpolated(x, known, values).tolist() == [1.0, 3.0, 2.0]

"""What a calibration reports of itself (steps, calls, objective) is what happened, and each option shares out its own density."""

import itertools

import attrs
import pytest
import torch
from diffcore_auto.calibrated_grid import unpacked
from diffcore_auto.candidates import documented, solvers
from diffcore_auto.cosine import Cosine
from diffcore_auto.density import klub, measured, proposals
from diffcore_auto.descent import Shape, descend
from diffcore_auto.endpoint import Endpoint
from diffcore_auto.equidistributed import Equidistributed
from diffcore_auto.installed import label, made
from diffcore_auto.levels import inner_levels, span
from diffcore_auto.reference import CLOSE, SOLVERS, fine_grid, solve
from diffcore_auto.trial import Trial, summary

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, ReferenceVP
from diffcore.testing.oracles import Gaussian, Mixture

VP, VE, FLOW = ReferenceVP(), ReferenceVE(), ReferenceFlow()
RING = Mixture([0.3, 0.4, 0.3], [[-1.0, 0.5], [1.0, 0.2], [0.0, -1.0]], [0.1, 0.3, 0.2])


def starts(process, oracle, n=32, seed=0):
    return process.prior(oracle.shape, dc.Draw(seed, range(n))).double()


@pytest.mark.parametrize("process", [VP, FLOW], ids=lambda p: type(p).__name__)
def test_the_fine_solution_is_the_run_it_names(process):
    """Run again with the solver and the number of steps reported: the same states; half as many: the change reported."""
    x = starts(process, RING)
    found = solve(RING.field(process), x, 0.0)
    solver = made("solver", next(s for s in SOLVERS if s["type"] == found.solver))
    fine, half = (
        dc.sample(RING.field(process), solver, x, grid=fine_grid(process, n, 0.0)).x for n in (found.steps, found.steps // 2)
    )
    assert torch.equal(found.x, fine)
    assert found.error == pytest.approx(float((fine - half).norm(dim=1).median()) / 2**0.5, rel=1e-12)
    assert 0 < found.error <= CLOSE * float(fine.square().mean().sqrt())


def test_the_fine_solution_of_a_gaussian_is_its_flow():
    """To the 1e-4 of its size that is promised, on an N(m, s^2 I) that the states do not all but miss."""
    data = Gaussian(0.5, 0.8, shape=(2,))
    x = starts(VP, data)
    found, exact = solve(data.field(VP), x, 0.0), data.flow(VP, x, VP.T, 0.0)
    assert float((found.x - exact).norm(dim=1).median()) / 2**0.5 < 4 * CLOSE * float(exact.square().mean().sqrt())


@pytest.mark.parametrize(("std", "steps"), [(0.987, 256), (0.982, 512)])
def test_steps_are_doubled_until_the_change_is_a_ten_thousandth(monkeypatch, std, steps):
    """Euler's steps on N(0, std^2): from 128 to 256 steps 0.9e-4 of the size of the states change, or 1.2e-4."""
    monkeypatch.setattr("diffcore_auto.reference.SOLVERS", ({"type": "euler"},))
    data = Gaussian(0.0, std, shape=(2,))
    x = starts(VP, data)
    runs = [dc.sample(data.field(VP), made("solver", {"type": "euler"}), x, grid=fine_grid(VP, n, 0.0)).x for n in (128, 256)]
    change = float((runs[1] - runs[0]).norm(dim=1).median()) / 2**0.5 / float(runs[1].square().mean().sqrt())
    assert change == pytest.approx({256: 0.9e-4, 512: 1.2e-4}[steps], abs=0.08e-4)
    assert solve(data.field(VP), x, 0.0).steps == steps


def test_steps_are_doubled_to_the_finest_and_no_further(monkeypatch):
    """Euler from 64 steps on N(0, .5^2), whose change is far from a ten-thousandth at 128."""
    monkeypatch.setattr("diffcore_auto.reference.SOLVERS", ({"type": "euler"},))
    monkeypatch.setattr("diffcore_auto.reference.FINE", 128)
    data = Gaussian(0.0, 0.5, shape=(2,))
    found = solve(data.field(VP), starts(VP, data), 0.0)
    assert found.steps == 128
    assert found.error > 10 * CLOSE


@dc.component
class Affine(ReferenceVP):
    """Coefficients and no more."""

    provides = frozenset({"affine"})


@dc.component
class Flowing(ReferenceVP):
    """A velocity in flat space and no more."""

    provides = frozenset({"velocity", "flat"})


def test_a_search_needs_what_its_solvers_require_and_no_more():
    field, x = RING.field(Affine()), starts(VP, RING, 8)
    assert solve(field, x, 0.0).solver == solve(RING.field(VP), x, 0.0).solver == "exp-adams"
    assert [c.label for c in documented(field, 6)] == [c.label for c in documented(RING.field(VP), 6)] != []
    for process, ids in ((Affine(), {"ddim", "exp-adams", "dpmpp-2m"}), (Flowing(), {"euler", "heun", "rk4"})):
        assert ids <= {spec["type"] for spec, _ in solvers(RING.field(process), False, [])}


@pytest.mark.parametrize("end", [0.0, "min"])
@pytest.mark.parametrize(("process", "before"), [(VP, 0), (VE, 0), (FLOW, 1)], ids=["vp", "ve", "flow"])
def test_a_fine_grid_has_its_levels_and_no_time_twice(process, before, end):
    """N levels from the start of the span; where the process starts beyond it (no signal at T) one jump comes before them."""
    end = process.min_time if end == "min" else end
    nodes = fine_grid(process, 64, end)
    assert float(nodes[0]) == process.T
    assert float(nodes[-1]) == end
    assert bool((nodes.diff() < 0).all())
    assert len(nodes) == 64 + before + (end < process.min_time)
    inner = process.coeffs(nodes[1:-1]).lam
    assert torch.allclose(inner.diff(), inner.diff()[:1].expand(len(inner) - 1), rtol=1e-6, atol=0)


def shares(process, nodes, levels, n):
    """Integrals of a density, and a fifth of its mean, between the levels of a grid: trapezoids of a fine interpolation."""
    low, high = span(process, float(nodes[0]))
    edges = torch.cat([torch.tensor([low]), inner_levels(process, nodes), torch.tensor([high])]).double()
    fine = torch.linspace(0, 1, 501, dtype=torch.float64)
    parts = []
    for a, b in itertools.pairwise(edges):
        at = a + (b - a) * fine
        place = torch.searchsorted(levels.contiguous(), at).clamp(1, len(levels) - 1)
        share = ((at - levels[place - 1]) / (levels[place] - levels[place - 1])).clamp(0, 1)
        parts.append(torch.trapezoid(torch.lerp((n + 0.2 * n.mean())[place - 1], (n + 0.2 * n.mean())[place], share), at))
    return torch.stack(parts)


def uneven(process, nodes, levels, n):
    """The largest share over the least, less 1."""
    parts = shares(process, nodes, levels, n)
    return float(parts.max() / parts.min() - 1)


@pytest.mark.parametrize("density", ["klub", "local-error"])
def test_each_option_shares_out_its_own_density(density):
    """The nodes hold equal shares of the density named, to 2 %, and of no density of the other option."""
    field, x = RING.field(VP), starts(VP, RING)
    trial = Trial(field, x, solve(field, x, 0.0).x)
    solver = made("solver", {"type": "ddim"})
    nodes = Equidistributed(density=density).propose(trial, attrs.evolve(solver, steps=6), {}, "")
    slopes = measured(field, x)
    gaps = {
        "klub": uneven(VP, nodes, *klub(slopes)),
        "local-error": min(uneven(VP, nodes, *rule[1:]) for rule in proposals(slopes, VP)),
    }
    assert gaps.pop(density) < 0.02 < 0.1 < min(gaps.values())


@pytest.mark.parametrize("robust", [True, False])
def test_the_objective_of_a_descent_is_its_formula(robust):
    """Mean of log(1 + e^2 / c^2): c twice the median, or a thousand times the largest, which is least squares."""
    offsets = torch.tensor([[0.03, 0.04], [0.0, 0.2], [0.6, 0.8]], dtype=torch.float64)
    errors = torch.tensor([0.05, 0.2, 1.0], dtype=torch.float64) * 30
    found = descend(lambda nodes: 30 * offsets, Shape(VP, 1.0, 0.0), Cosine().nodes(VP, 4, 1.0), 0, robust)
    scale = 2 * errors.median() if robust else 1e3 * errors.max()
    assert found.before == pytest.approx(float((errors**2 / scale**2).log1p().mean()), rel=1e-12)
    assert found.after == found.before


def test_the_calls_of_a_calibration_are_its_own():
    """Counted by the network itself; the same on a field that was calibrated before."""
    field, x = RING.field(VP), starts(VP, RING)
    solver = attrs.evolve(made("solver", {"type": "ddim"}), steps=4, grid=Endpoint(rounds=1))
    counts = []
    for _ in range(2):
        with dc.Meter() as meter:
            told = unpacked(dc.calibrate(solver, field, x)["told"])
        assert told["calls"] == meter.calls
        counts.append(told["calls"])
    assert counts[0] == counts[1]


def test_a_spec_is_shown_with_its_fields():
    assert label({"type": "euler"}) == "euler"
    assert label({"type": "edm-heun", "s_churn": 4.0, "order": 2}) == "edm-heun(s_churn=4.0, order=2)"


def test_errors_are_summed_up_as_named():
    errors = torch.tensor([1.0, 2.0, 4.0])
    assert summary(errors, "rms") == pytest.approx(7**0.5)
    assert summary(errors, "median") == 2

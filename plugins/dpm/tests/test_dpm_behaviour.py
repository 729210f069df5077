"""The ends of a run, the limit on the order, precision, states and grids of every kind, and the example of the README."""

import re
from pathlib import Path

import attrs
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
from diffcore_dpm.multistep import history
from diffcore_dpm.unipc import UniPC
from ruamel.yaml import YAML

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

VP, FLOW, VE, GOLDEN = ReferenceVP(), ReferenceFlow(), ReferenceVE(), golden_mixture()
X = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]
ODE = [
    DPMSolver2(),
    DPMSolver3(),
    DPMpp2S(),
    DPMpp3M(),
    UniPC(),
    UniPC(points=3, prediction="eps"),
    DEIS(degree=3),
    DEIS(degree=2, variable="rho"),
    ExpAdams(points=5),
    ExpAdams(points=4, start="singlestep"),
    ExpAdams(points=3, start="singlestep", prediction="eps", corrector=True),
]
SDE = [DPMpp2MSDE(), DPMpp3MSDE(), DPMppSDE()]


@dc.component
class Cosine(dc.AffineProcess):
    """alpha = cos(pi t / 2), which is 6e-17 at t = 1."""

    def coeffs(self, t):
        q = torch.pi / 2
        return dc.Coeffs(t, torch.cos(q * t), torch.sin(q * t), -q * torch.sin(q * t), q * torch.cos(q * t))


def largest(x, y):
    return float((x - y).abs().max())


@pytest.mark.parametrize("solver", ODE + SDE, ids=repr)
@pytest.mark.parametrize("process", [VP, FLOW, VE, Cosine()], ids=lambda p: type(p).__name__)
def test_no_infinity_enters_a_plan_or_a_run(solver, process):
    """From pure noise (alpha = 0, or 6e-17) to data (sigma = 0), in 1 to 9 steps, predicting what is readable everywhere."""
    gauss, x = Gaussian(0.2, 0.5, shape=(1,)), process.T * X
    for steps in (1, 2, 3, 5, 9):
        nodes = torch.linspace(process.T, 0.0, steps + 1, dtype=torch.float64)
        for name, entry in solver.plan(process, nodes).entries.items():
            parts = entry if isinstance(entry, dc.Coeffs) else [entry]
            assert all(bool(v.isfinite().all()) for v in parts[:3] if isinstance(v, torch.Tensor)), (steps, name)
        got = dc.sample(gauss.field(process, "v"), solver, x, grid=nodes, seed=1).x
        assert float(got.abs().max()) < 10


@pytest.mark.parametrize("solver", ODE, ids=repr)
def test_one_step_to_the_data_is_the_posterior_mean(solver):
    for process in (VP, FLOW, VE):
        got = dc.sample(GOLDEN.field(process, "v"), solver, process.T * X, steps=1).x
        assert largest(got, GOLDEN.mean(process.T * X, instant(process, process.T))) < 1e-12


@pytest.mark.parametrize("solver", ODE, ids=repr)
@pytest.mark.parametrize("process", [VP, FLOW], ids=lambda p: type(p).__name__)
def test_a_run_may_start_in_the_middle_with_an_odd_number_of_steps(solver, process):
    gauss = Gaussian(0.5, 0.4, shape=(1,))
    found = dc.sample(gauss.field(process, "v"), solver, X, start=0.4, steps=201)
    assert largest(found.x, gauss.flow(process, X, 0.4, 0.0)) < 2e-2


def test_the_whole_flow_from_pure_noise_converges():
    """Equal steps of t from alpha = 0 to sigma = 0: at least second order for what is left of lam's infinite ends."""
    gauss, errors = Gaussian(0.5, 0.4, shape=(1,)), []
    exact = gauss.flow(FLOW, X, 1.0, 0.0)
    for solver in (DEIS(degree=2), ExpAdams(points=3), UniPC(), DPMSolver2()):
        errors = [largest(dc.sample(gauss.field(FLOW, "velocity"), solver, X, steps=n).x, exact) for n in (50, 200)]
        assert errors[1] < max(errors[0] / 8, 1e-4), (solver, errors)


def test_the_order_falls_where_the_step_jumps_and_comes_back():
    """Steps 1, 1, 1, 5, 1, 1, 1, inf with limit 2: the jumps have no history, and those after may use the long step's."""
    coordinate = torch.tensor([0.0, 1, 2, 3, 8, 9, 10, 11, torch.inf], dtype=torch.float64)
    nodes, active = history(coordinate, 3, 2.0)
    depth = sum(on.int() for on in active).tolist()
    assert depth == [0, 1, 2, 0, 3, 3, 3, 0]
    assert nodes[0][4] == pytest.approx(-5.0)
    assert sum(on.int() for on in history(coordinate, 3, 5.0)[1]).tolist()[3] == 3


def test_a_jump_does_not_blow_up_a_high_order():
    """One step of lam nine times as long as the others: without the limit four points are far worse."""
    lam = torch.cat([torch.linspace(-3, 0, 11), torch.linspace(2.7, 4.5, 7)]).double()
    nodes = VP.t_of_lam(lam)
    exact = GOLDEN.flow(VP, X, float(nodes[0]), float(nodes[-1]))
    held, free = (
        largest(dc.sample(GOLDEN.field(VP), ExpAdams(points=4, limit=limit), X, grid=nodes).x, exact) for limit in (2.0, 100.0)
    )
    assert held < 0.7
    assert held < free / 5


@dc.component
class SameNoise(dc.White):
    """Drawn in float32 for every dtype of the state."""

    def like(self, x, draw):
        return draw.normal_like(x.float()).to(x.dtype)


@pytest.mark.parametrize("solver", ODE + SDE, ids=repr)
def test_float32_is_near_float64(solver):
    x, field = X.float(), GOLDEN.field(ReferenceVP(noise=SameNoise()), "v")
    single, double = (dc.sample(field, solver, y, steps=20, start=0.9, seed=6).x for y in (x, x.double()))
    assert single.dtype == torch.float32
    assert largest(single.double(), double) < 1e-5


STARTED = [s for s in ODE if getattr(s, "start", "") == "singlestep"]


@pytest.mark.parametrize("solver", STARTED, ids=repr)
def test_a_singlestep_start_costs_what_is_declared(solver):
    inner = {4: 4, 3: 2}[solver.points]
    result = dc.sample(GOLDEN.field(VP, "v"), solver, X, grid=[0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.0])
    assert result.nfe == sum(map(len, solver.plan(VP, result.grid).asks)) == 6 + inner
    plain = attrs.evolve(solver, start="ramp")
    assert dc.sample(GOLDEN.field(VP, "v"), plain, X, steps=6).nfe == 6


@pytest.mark.parametrize("process", [VP, FLOW], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("solver", STARTED, ids=repr)
def test_a_singlestep_start_under_a_time_per_pixel(solver, process):
    """A pixel at rest (also at t = 0) stays bit-equal, the others run as if it were not there."""
    image = torch.linspace(-1.5, 1.5, 24, dtype=torch.float64).reshape(2, 3, 2, 2)
    falling = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.0], dtype=torch.float64)
    field = dc.Field(dc.Denoiser(lambda x, t: 0.5 * torch.tanh(x), "v", process))
    whole = dc.sample(field, solver, image, grid=falling).x
    for rest in (0.4, 0.0):
        values = falling[:, None, None].expand(-1, 2, 2).clone()
        values[:, 0, 1] = rest
        got = dc.sample(field, solver, image, grid=values[:, None, None].expand(-1, 2, 1, -1, -1)).x
        still = torch.zeros(2, 2, dtype=torch.bool)
        still[0, 1] = True
        assert torch.equal(got[..., still], image[..., still])
        assert largest(got[..., ~still], whole[..., ~still]) < 1e-12


@pytest.mark.parametrize("solver", STARTED, ids=repr)
def test_a_singlestep_start_with_rows_of_tensors(solver):
    field, nodes = dc.Field(dc.Denoiser(lambda x, t: torch.tanh(x), "v", VP)), torch.linspace(0.9, 0.0, 8).double()
    plan, ends = solver.plan(VP, nodes), []
    for tensors in (False, True):
        x, carry = X, solver.init(X)
        for row in plan.rows(field, x, tensors=tensors):
            x, carry = solver.step(field, x, row, carry, None)[:2]
        ends.append(x)
    assert largest(*ends) < 1e-12


@pytest.mark.parametrize("solver", [s for s in ODE if s.both_ways], ids=repr)
def test_data_can_be_carried_to_noise_and_back(solver):
    """A rising grid encodes: the error of the way up and back is that of a convergent method."""
    start = torch.linspace(float(instant(VP, 0.05).lam), float(instant(VP, 0.8).lam), 201, dtype=torch.float64)
    nodes = VP.t_of_lam(start)
    field = GOLDEN.field(VP, "v")
    up = dc.sample(field, solver, X, grid=nodes).x
    assert largest(up, GOLDEN.flow(VP, X, float(nodes[0]), float(nodes[-1]))) < 1e-2
    assert largest(dc.sample(field, solver, up, grid=nodes.flip(0)).x, X) < 2e-2


def test_a_moving_mean_is_refused_with_advice():
    @dc.component
    class Bridge(dc.AffineProcess):
        def coeffs(self, t):
            one = torch.ones_like(t)
            return dc.Coeffs(t, 1 - t, t, -one, one, shift=t, dshift=one)

    for solver in ODE + SDE:
        with pytest.raises(dc.IncompatibleError, match=r"Bridge shifts the mean.*euler, heun or rk4"):
            solver.plan(Bridge(), torch.tensor([1.0, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("bad", [{"points": 0}, {"points": 6}, {"prediction": "score"}, {"limit": 0.5}, {"start": "warm"}])
def test_bad_fields_are_refused_by_name(bad):
    with pytest.raises(dc.SpecError, match=next(iter(bad))):
        dc.Registry.load().make("solver", "exp-adams", **bad)


def test_the_solvers_of_the_readme_are_those_of_the_registry_and_run():
    """Every solver block of the README is made from the registry and samples the golden mixture."""
    page = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = [YAML(typ="safe").load(b)["solver"] for b in re.findall(r"```yaml\n(solver:.*?)```", page, re.S)]
    assert len(blocks) >= 2
    registry = dc.Registry.load()
    for block in blocks:
        solver = registry.make("solver", block.pop("type"), **block)
        got = dc.sample(GOLDEN.field(VP, "v"), solver, X, seed=1).x
        assert float(got.abs().max()) < 10

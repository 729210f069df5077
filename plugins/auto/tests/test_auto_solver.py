"""The solver `auto`: its budget, its choice, what it tells, and what a pipeline keeps of it."""

import re
from pathlib import Path

import pytest
import torch
from diffcore_auto.auto import Auto
from diffcore_auto.calibrated_grid import unpacked
from diffcore_auto.candidates import Candidate, solvers, within
from diffcore_auto.documented import ROWS
from diffcore_auto.race import race
from diffcore_auto.reference import solve
from diffcore_auto.trial import Trial
from ruamel.yaml import YAML

import diffcore as dc
from diffcore.testing.oracles import Gaussian, Mixture

RING = Mixture([0.3, 0.4, 0.3], [[-1.0, 0.5], [1.0, 0.2], [0.0, -1.0]], [0.1, 0.3, 0.2])
SPEC = {
    "data": {"type": "two-moons"},
    "process": {"type": "flow"},
    "network": {"type": "mlp", "width": 8, "depth": 1},
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 3, "batch": 8, "warmup": 1},
    "solver": {"type": "auto", "nfe": 4, "effort": 1, "calibration": 32},
    "sampling": {"n": 4, "batch": 4},
    "evaluation": {"n": 8},
}


@pytest.fixture(scope="module")
def registry():
    return dc.Registry.load()


def starts(process, oracle, n=32, seed=0):
    return process.prior(oracle.shape, dc.Draw(seed, range(n))).double()


@pytest.fixture(scope="module")
def known(registry):
    """effort 1, 6 evaluations, on VP."""
    process = registry.make("process", "vp")
    auto, field, x = Auto(nfe=6, effort=1, calibration=64), RING.field(process), starts(process, RING, 64)
    return process, auto, field, x, dc.calibrate(auto, field, x)


def test_it_keeps_within_its_budget_on_a_field_that_counts(registry):
    for name in ("vp", "flow", "edm"):
        process = registry.make("process", name)
        dummy = dc.Denoiser(lambda x, t: 0.5 * x, "x0", process)
        for spec, solver in solvers(dc.Field(dummy), False, []):
            for nfe in (1, 5, 8):
                nodes = within(dc.Field(dummy), solver, registry.make("grid", "uniform-lam"), nfe)
                if nodes is not None:
                    assert dc.sample(dc.Field(dummy), solver, torch.ones(1, 2).double(), grid=nodes).calls <= nfe, spec


def test_the_budget_is_spent_to_the_last_step_that_fits(registry):
    process = registry.make("process", "vp")
    field = dc.Field(dc.Denoiser(lambda x, t: x, "x0", process))
    grid = registry.make("grid", "uniform")
    steps = {
        name: len(within(field, registry.make("solver", name), grid, 8)) - 1 for name in ("euler", "heun", "rk4", "dpmpp-2m")
    }
    assert steps == {"euler": 8, "heun": 4, "rk4": 2, "dpmpp-2m": 8}
    assert within(field, registry.make("solver", "exp-runge-kutta", method="krogstad"), grid, 1) is not None


def test_all_deterministic_solvers_take_part_and_no_others(registry):
    field = RING.field(registry.make("process", "vp"))
    ids = {spec["type"] for spec, _ in solvers(field, False, [])}
    assert {"euler", "heun", "rk4", "ddim", "edm-heun", "dpmpp-2m", "dpmpp-3m", "unipc", "deis", "exp-adams"} <= ids
    assert not ids & {"ancestral", "euler-maruyama", "dpmpp-2m-sde", "ddpm", "flow-map", "auto", "adaptive", "brownian"}


def test_the_choice_runs_within_the_budget_on_its_times(known):
    _, auto, field, x, found = known
    ready = dc.calibrated(auto, found)
    result = dc.sample(field, ready, x)
    assert result.calls <= 6
    assert torch.equal(result.grid, found["times"])
    assert type(ready) is not Auto
    assert dc.calibrate_on(ready) == 0


def test_the_choice_is_no_worse_than_common_ones_on_fresh_noise(registry, known):
    process, auto, field, _, found = known
    x = starts(process, RING, 128, seed=5)
    trial, ready = Trial(field, x, solve(field, x, 0.0).x), dc.calibrated(auto, found)
    mine = trial.error(ready, ready.nodes(process), "median")
    for name in ("euler", "ddim", "dpmpp-2m", "unipc"):
        for grid in ("uniform", "uniform-lam", "karras"):
            nodes = registry.make("grid", grid).nodes(process, 6, 1.0)
            assert mine <= trial.error(registry.make("solver", name), nodes, "median"), (name, grid)


def test_the_reported_error_is_that_of_the_other_half(known):
    process, auto, field, x, found = known
    label, _, median, rms = unpacked(found["told"])["table"][0]
    ready, trial = dc.calibrated(auto, found), Trial(field, x, solve(field, x, 0.0).x).rows(32, 64)
    assert trial.error(ready, ready.nodes(process), "median") == pytest.approx(median, rel=1e-9)
    assert trial.error(ready, ready.nodes(process), "rms") == pytest.approx(rms, rel=1e-9)
    told = auto.why(found)
    assert told[0] == f"chosen: {label}"
    assert f"{median:.3g}" in told[1]
    assert any("calls of the network" in line for line in told)


def test_the_cost_that_is_told_is_what_was_counted(registry):
    process = registry.make("process", "vp")
    field, auto = RING.field(process), Auto(nfe=3, effort=1, calibration=16, optimize=False)
    with dc.Meter() as meter:
        found = dc.calibrate(auto, field, starts(process, RING, 16))
    assert unpacked(found["told"])["calls"] == meter.calls


def test_a_calibration_is_deterministic(known):
    process, auto, _, x, found = known
    again = dc.calibrate(auto, RING.field(process), x)
    assert set(again) == set(found)
    assert all(torch.equal(again[k], found[k]) for k in found)


def test_one_evaluation_of_a_gaussian_is_its_mean(registry):
    """With one evaluation every candidate goes from T to 0 at once; the best knows m + alpha C V^-1 (x - alpha m), or better."""
    process, data = registry.make("process", "flow"), Gaussian(0.5, 0.01, shape=(2,))
    auto, x = Auto(nfe=1, effort=1, calibration=16), starts(process, data, 16)
    ready = dc.calibrated(auto, dc.calibrate(auto, data.field(process), x))
    assert ready.steps == 1
    assert float((dc.sample(data.field(process), ready, x).x - 0.5).abs().max()) < 0.05


def test_candidates_that_fail_are_last_and_told(registry):
    process = registry.make("process", "vp")
    field, x = RING.field(process), starts(process, RING, 16)

    @dc.component
    class Nan(registry.get("solver", "euler")):
        def step(self, field, x, row, carry, z):
            return dc.Moved(x * torch.nan, carry)

    @dc.component
    class Broken(registry.get("solver", "euler")):
        def step(self, field, x, row, carry, z):
            raise ValueError("no")

    nodes = registry.make("grid", "uniform").nodes(process, 3, 1.0)
    good = registry.make("solver", "ddim")
    entrants = [Candidate({"type": n}, s, "uniform", nodes) for n, s in (("nan", Nan()), ("broken", Broken()), ("ddim", good))]
    placed = race(Trial(field, x, solve(field, x, 0.0).x), entrants, "median", 1)
    assert placed[0].candidate.solver == good
    assert {p.candidate.spec["type"]: p.cause for p in placed[1:]} == {"nan": "not finite", "broken": "ValueError: no"}


def test_the_race_finds_the_best_of_many(registry):
    """Candidates of known error: DDIM with ever more steps."""
    process = registry.make("process", "vp")
    field, x = RING.field(process), starts(process, RING, 64)
    ddim, grid = registry.make("solver", "ddim"), registry.make("grid", "uniform-lam")
    entrants = [Candidate({"type": "ddim"}, ddim, str(n), grid.nodes(process, n, 1.0)) for n in range(2, 22)]
    placed = race(Trial(field, x, solve(field, x, 0.0).x), entrants, "median", 2)
    assert placed[0].candidate.steps == 21
    assert placed[0].states == 64
    assert len(placed) == 20


def test_a_quarter_goes_on_to_twice_as_many_states(registry):
    """Of 21 the better 6 (a quarter, rounded up), of these 2, of these 1: 15, 4, 1 and 1 end on 8, 16, 32 and 64 states."""
    process = registry.make("process", "vp")
    field, x = RING.field(process), starts(process, RING, 64)
    ddim, grid = registry.make("solver", "ddim"), registry.make("grid", "uniform-lam")
    entrants = [Candidate({"type": "ddim"}, ddim, str(n), grid.nodes(process, n, 1.0)) for n in range(2, 23)]
    placed = race(Trial(field, x, solve(field, x, 0.0).x), entrants, "median", 1)
    assert [p.states for p in placed] == [64, 32, *[16] * 4, *[8] * 15]


def test_documented_rows_stay_in_to_the_last_round(registry):
    """On the first states the documented candidate is the worst, and would be thrown out first."""
    process = registry.make("process", "vp")
    field, x = RING.field(process), starts(process, RING, 64)
    ddim, grid = registry.make("solver", "ddim"), registry.make("grid", "uniform-lam")
    entrants = [Candidate({"type": "ddim"}, ddim, str(n), grid.nodes(process, n, 1.0), n == 2) for n in range(2, 22)]
    placed = race(Trial(field, x, solve(field, x, 0.0).x), entrants, "median", 2)
    documented = next(p for p in placed if p.candidate.documented)
    assert documented.states == 64
    assert len(placed) == 20
    assert [p.error for p in placed if p.states == 64] == sorted(p.error for p in placed if p.states == 64)


@pytest.mark.parametrize("optimize", [False, True])
def test_the_choice_is_no_worse_than_a_documented_row(registry, optimize):
    process = registry.make("process", "flow")
    auto = Auto(nfe=6, effort=1, calibration=32, optimize=optimize)
    table = unpacked(dc.calibrate(auto, RING.field(process), starts(process, RING, 32))["told"])["table"]
    errors = {label: used for label, used, _, _ in table}
    documented = [error for label, error in errors.items() if label.endswith("documented")]
    assert len(documented) == len(ROWS)
    assert table[0][1] <= min(documented)


@pytest.mark.parametrize(("calls", "made"), [(1, False), (2, True)])
def test_grids_are_optimised_where_they_have_a_time_between_their_ends(registry, calls, made):
    process = registry.make("process", "vp")
    found = dc.calibrate(Auto(nfe=calls, effort=1, calibration=16), RING.field(process), starts(process, RING, 16))
    assert any("optimised from" in label for label, *_ in unpacked(found["told"])["table"]) is made


def test_the_page_and_the_search_know_the_same_rows():
    page = (Path(__file__).parents[3] / "docs" / "how-to-choose-a-solver.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| `(\{type.*\})`", page, re.M))
    assert {calls: YAML(typ="safe").load(row) for calls, row in rows.items()} == dict(ROWS)


def test_a_grid_of_the_spec_is_the_only_one(registry):
    process = registry.make("process", "vp")
    auto = Auto(nfe=5, effort=1, calibration=16, optimize=False, grid=registry.make("grid", "karras"))
    found = dc.calibrate(auto, RING.field(process), starts(process, RING, 16))
    steps = len(found["times"]) - 1
    assert torch.equal(found["times"], registry.make("grid", "karras").nodes(process, steps, 1.0))
    with pytest.raises(dc.SpecError, match="optimises its grid itself"):
        dc.calibrate(Auto(grid=registry.make("grid", "endpoint")), RING.field(process), starts(process, RING, 16))


def test_guidance_is_part_of_what_is_measured(registry):
    """Under a guidance that shifts every mean by 1, the reported error is that of the shifted field."""

    class Shift(dc.Guidance):
        def denoiser(self, d):
            def guide(inner, x, t, **cond):
                p = inner(x, t, **cond)
                return inner.process.posterior(x, p.mean + 1, p.at, dc.Reading("x0"))

            return dc.Guided(d, guide)

    process = registry.make("process", "flow")
    plain, field = (dc.Field(RING.denoiser(process), guidance) for guidance in ([], [Shift()]))
    auto, x = Auto(nfe=3, effort=1, calibration=16, optimize=False), starts(process, RING, 16)
    found = dc.calibrate(auto, field, x)
    ready, reported = dc.calibrated(auto, found), unpacked(found["told"])["table"][0][2]
    guided, other = (Trial(f, x, solve(f, x, 0.0).x).rows(8, 16) for f in (field, plain))
    assert guided.error(ready, ready.nodes(process), "median") == pytest.approx(reported, rel=1e-9)
    assert other.error(ready, ready.nodes(process), "median") != pytest.approx(reported, rel=0.01)


def test_it_says_what_to_do_before_it_is_fitted(registry):
    process = registry.make("process", "vp")
    with pytest.raises(dc.SpecError, match="diffcore calibrate RUN"):
        dc.sample(RING.field(process), Auto(nfe=4), starts(process, RING, 2))


def test_the_stand_in_makes_one_call_per_evaluation(registry):
    process = registry.make("process", "vp")
    for auto in (Auto(nfe=7), Auto(steps=7)):
        assert dc.calibrate_on(auto.stand_in()) == 0
        assert dc.sample(RING.field(process), auto.stand_in(), starts(process, RING, 2)).calls == 7


def test_a_pipeline_calibrates_it_once_and_saves_the_choice(registry, tmp_path):
    pipeline = dc.assemble(SPEC, registry=registry)
    pipeline.train()
    first = pipeline.sample(4).x
    (found,) = pipeline.calibrations.values()
    pipeline.save(tmp_path)
    loaded = dc.Pipeline.load(tmp_path, registry=registry)
    (kept,) = loaded.calibrations.values()
    assert all(torch.equal(kept[k], found[k]) for k in found)
    assert torch.equal(loaded.sample(4).x, first)
    assert loaded.ready(loaded.spec.solver) == pipeline.ready(pipeline.spec.solver)
    assert loaded.spec.solver.why(kept) == pipeline.spec.solver.why(found)


def test_conditions_go_with_their_states(registry):
    """Every state has a label of its own; the choice is calibrated on slices of the states and of their labels."""
    process = registry.make("process", "vp")
    field = RING.field(process, cond={"label": torch.arange(16) % 3})
    auto, x = Auto(nfe=4, effort=1, calibration=16), starts(process, RING, 16)
    found = dc.calibrate(auto, field, x)
    ready = dc.calibrated(auto, found)
    rest = Trial(field, x, solve(field, x, 0.0).x).rows(8, 16)
    assert rest.error(ready, ready.nodes(process), "median") == pytest.approx(unpacked(found["told"])["table"][0][2], rel=1e-9)
    assert not unpacked(found["told"])["skipped"]

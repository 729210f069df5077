"""The fine solution against closed forms, and the two tables that are made with it."""

from __future__ import annotations

import json
from functools import partial

import attrs
import pytest
import torch
from click.testing import CliRunner

import diffcore as dc
from diffcore.cli import main
from diffcore.run import benching
from diffcore.run.fine import fine, is_repeatable, ode_solvers, rms
from diffcore.testing.oracles import Mixture

DATA = Mixture([0.3, 0.7], [[-1.5, 0.0], [1.0, 0.5]], [0.3, 0.5])
SPEC = {
    "name": "tiny",
    "data": {"type": "two-moons"},
    "process": {"type": "flow"},
    "network": {"type": "mlp", "width": 16, "depth": 2},
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 40, "batch": 64, "warmup": 1},
    "solver": {"type": "heun", "steps": 4},
}


@pytest.fixture(scope="module")
def registry():
    return dc.Registry.load()


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """References of the tables to three digits: what is tested is the bookkeeping."""
    monkeypatch.setattr(benching, "fine", partial(fine, tolerance=1e-3, most=128))


@pytest.fixture(scope="module")
def pipeline(registry):
    made = dc.assemble(SPEC, registry=registry)
    made.train()
    return made


def test_rms_is_per_dimension_and_over_all_leaves():
    a = {"x": torch.zeros(2, 3), "v": torch.zeros(2, 1)}
    b = {"x": torch.full((2, 3), 2.0), "v": torch.tensor([[2.0], [4.0]])}
    torch.testing.assert_close(rms(a, b), torch.tensor([2.0, 7.0**0.5], dtype=torch.float64))


@pytest.mark.parametrize("name", ["flow", "vp", "edm"])
def test_the_fine_solution_is_the_flow_of_a_mixture(registry, name):
    """It is where the exact flow ends, to the tolerance; processes that end before 0 are compared there."""
    process = registry.make("process", name)
    x = process.prior((2,), dc.Draw(0, range(16))).double()
    found = fine(DATA.field(process), x, registry, tolerance=1e-5)
    end = float(found.solver.nodes(process)[-1])
    exact = DATA.flow(process, x, process.T, end) if end > 0 else DATA.flow(process, x, process.T, 1e-9)
    assert found.error < 1e-5
    assert float(rms(found.x, exact).mean()) < 1e-4


def test_too_few_steps_say_how_far_they_got(registry):
    process = registry.make("process", "vp")
    x = process.prior((2,), dc.Draw(0, range(16))).double()
    found = fine(DATA.field(process), x, registry, tolerance=0.0, most=128)
    assert found.solver.steps == 128
    finer = fine(DATA.field(process), x, registry, tolerance=0.0, most=512)
    assert 0 < finer.error < found.error


def test_solvers_that_draw_noise_are_no_ode_solvers(registry):
    process = registry.make("process", "vp")
    field, x = DATA.field(process), process.prior((2,), dc.Draw(0, range(8)))
    found = {registry.id_of(type(solver)) for solver in ode_solvers(registry, field)}
    assert {"heun", "rk4", "dpmpp-2m"} <= found
    assert not {"ancestral", "euler-maruyama", "flow-map", "euler"} & found
    assert is_repeatable(field, registry.make("solver", "ddim"), x)
    assert not is_repeatable(field, registry.make("solver", "ddim", eta=1.0), x)


def test_the_table_holds_errors_that_fall_and_reasons(pipeline, registry):
    solvers = [registry.make("solver", id) for id in ("heun", "ancestral", "tau-leaping")]
    table = benching.bench(pipeline, solvers, (4, 16, 64), n=16)
    heun, ancestral, jumps = table["rows"]
    errors = [heun["cells"][str(budget)]["error"] for budget in (4, 16, 64)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert all(cell["calls"] <= int(budget) for budget, cell in heun["cells"].items())
    assert "draws noise" in ancestral["refused"]
    assert "needs" in jumps["refused"]
    assert not ancestral["cells"]
    json.dumps(table)


def test_a_solver_that_spends_more_than_the_budget_is_not_in_its_column(pipeline, registry, monkeypatch):
    """What was counted on a network that computes nothing is not what a solver that chooses its steps needs."""
    heun = registry.make("solver", "heun", steps=4)
    monkeypatch.setattr(benching, "for_calls", lambda pipeline, solver, calls: solver)
    (row,) = benching.bench(pipeline, [heun], (6, 7), n=4)["rows"]
    assert list(row["cells"]) == ["7"]


def test_the_reference_itself_has_no_error(pipeline):
    begun = benching.start(pipeline, 8, 0)
    cell = benching._cell(begun, begun.fine.solver)
    assert cell["error"] == 0.0
    other = benching._cell(begun, attrs.evolve(begun.fine.solver, steps=begun.fine.solver.steps // 2))
    assert 0 < other["error"] <= begun.fine.error


def test_errors_along_a_run_add_up(pipeline, registry):
    """The first step's error is all there is so far; the last total is the error of the run; a finer run has smaller ones."""
    solver = registry.make("solver", "heun", steps=3, grid={"type": "uniform"})
    rows, shown = benching.steps_of(pipeline, solver, n=8)
    assert rows[0]["local"] == rows[0]["total"] > 0
    assert [row["to"] for row in rows] == [frame.t for frame in shown[1:]]
    begun = benching.start(pipeline, 8, 0)
    final = float(rms(shown[-1].x, begun.fine.x).mean())
    assert abs(rows[-1]["total"] - final) < 0.02 * final + begun.fine.error
    finer, _ = benching.steps_of(pipeline, attrs.evolve(solver, steps=12), n=8)
    assert sum(row["local"] for row in finer) < sum(row["local"] for row in rows) / 4
    with pytest.raises(dc.SpecError, match="no error per step"):
        benching.steps_of(pipeline, registry.make("solver", "ancestral"), n=4)


def call(*arguments: str, code: int = 0) -> str:
    shown = CliRunner().invoke(main, list(arguments))
    assert shown.exit_code == code, shown.output
    return shown.output


def test_bench_and_trajectory_from_the_command_line(pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipeline.save(tmp_path / "runs" / "tiny")
    said = call("bench", "runs/tiny", "--solvers", "heun, dpmpp-2m@karras, {type: ddim, eta: 1.0}", "--nfe", "8,4", "-n", "4")
    assert "4 calls" in said.lower()
    assert "dpmpp-2m(grid=karras)" in said
    assert "ddim(eta=1): it draws noise" in said
    table = json.loads((tmp_path / "runs/tiny/bench/bench.json").read_text())
    assert table["budgets"] == [4, 8]
    assert (tmp_path / "runs/tiny/bench/bench.png").stat().st_size > 1000
    assert json.loads(call("bench", "runs/tiny", "--solvers", "heun", "-n", "2", "--json"))["n"] == 2
    said = call("trajectory", "runs/tiny", "-n", "4", "--out", "drawn")
    assert said.count("\n") > 5
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"steps.json", "steps.png", "paths.png"}
    assert len(json.loads((tmp_path / "drawn/steps.json").read_text())) == 4


def test_a_spec_stands_for_its_run(pipeline, registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from diffcore.specs import dump

    (tmp_path / "spec.yaml").write_text(dump(registry, pipeline.spec))
    assert "diffcore train spec.yaml" in call("bench", "spec.yaml", code=2)
    pipeline.save(tmp_path / "runs" / "tiny")
    call("bench", "spec.yaml", "--solvers", "heun", "--nfe", "4", "-n", "2")
    assert (tmp_path / "runs/tiny/bench/bench.json").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["bench", "runs/tiny", "--solvers", "hein"], "did you mean 'heun'"),
        (["bench", "runs/tiny", "--solvers", "a: ["], "a '[' is not closed"),
        (["bench", "runs/tiny", "--solvers", "{foo: 1}"], "'type' is missing: it says which solver this is"),
        (["bench", "runs/tiny", "--solvers", "{type: [x]}"], "expected the id of a solver; got a list of 1"),
        (["bench", "runs/tiny", "--solvers", "heun@kerras, 3"], "did you mean 'karras'"),
        (["bench", "runs/tiny", "--solvers", "null"], "got null"),
        (["bench", "runs/tiny", "--solvers", "[" * 3000], "nested more than 64 levels deep"),
        (["trajectory", "runs/tiny", "--solver", "{foo: 1}"], "'type' is missing"),
        (["bench", "runs/tiny", "--nfe", "99999999999999999999"], "of 1 to 1000000"),
        (["bench", "runs/tiny", "--nfe", "\N{ARABIC-INDIC DIGIT THREE}"], "no list of network calls"),
        (["bench", "runs/tiny", "-n", "\N{ARABIC-INDIC DIGIT THREE}"], "not a valid integer"),
        (["sample", "runs/tiny", "-n", "10000000000"], "not in the range"),
        (["sample", "tiny.yaml"], "'tiny.yaml' is a spec; 'diffcore sample' takes a run directory"),
        (["evaluate", "tiny.yml"], "which this makes: diffcore run tiny.yml"),
        (["bench", "runs/tiny", "--nfe", "5,x"], "no list of network calls"),
        (["bench", "no/such/run"], "no/such/run"),
        (["trajectory", "runs/tiny", "--solver", "heun,euler"], "one solver at a time"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told in call(*arguments, code=2)

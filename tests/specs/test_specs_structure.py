"""Strict structuring: what a field takes, every fault at its place, and what the message says."""
# ruff: noqa: E501  messages stand in one piece

from __future__ import annotations

import pytest

import diffcore as dc
from diffcore.specs import SpecErrors, parse, structure


def faults(registry, kind, text, name="s.yaml"):
    with pytest.raises(SpecErrors) as caught:
        structure(registry, kind, parse(text, name))
    return [str(fault) for fault in caught.value.faults]


def messages(registry, kind, **fields):
    with pytest.raises(SpecErrors) as caught:
        registry.make(kind, fields.pop("type"), **fields)
    return [str(fault) for fault in caught.value.faults]


SOLVERS = "installed: euler, heun"


@pytest.mark.parametrize(
    ("text", "message"),
    [  # the rows of what people ask for: a wrong value is never made into another one
        ("{type: huen}", f"s.yaml:1:8: solver.type: no solver 'huen'; did you mean 'heun'? {SOLVERS}"),
        ("{steps: 3}", f"s.yaml:1:1: solver: 'type' is missing: it says which solver this is; {SOLVERS}"),
        ("heun", f"s.yaml:1:1: solver: expected a map with 'type', such as {{type: heun}}; got the text 'heun'; {SOLVERS}"),
        ("", f"s.yaml:1:1: solver: expected a map with 'type', such as {{type: euler}}; got null; {SOLVERS}"),
        ("[heun]", f"s.yaml:1:1: solver: expected a map with 'type', such as {{type: euler}}; got a list of 1; {SOLVERS}"),
        ("{type: karras}", f"s.yaml:1:8: solver.type: no solver 'karras'; 'karras' is a grid; {SOLVERS}"),
        ("{type: [heun]}", "s.yaml:1:8: solver.type: expected the id of a solver; got a list of 1"),
        ("{type: heun, steps: -1}", "s.yaml:1:21: solver.steps: must be >= 1; got -1"),
        ("{type: heun, steps: 3.7}", "s.yaml:1:21: solver.steps: expected an integer; got 3.7"),
        ("{type: heun, steps: 2e1}", "s.yaml:1:21: solver.steps: expected an integer; got 20.0; write 20"),
        ("{type: heun, steps: '12'}", "s.yaml:1:21: solver.steps: expected an integer; got the text '12'; remove the quotes"),
        ("{type: heun, steps: true}", "s.yaml:1:21: solver.steps: expected an integer; got true"),
        ("{type: heun, steps: null}", "s.yaml:1:21: solver.steps: expected an integer; got null"),
        ("{type: heun, final: 'false'}", "s.yaml:1:21: solver.final: expected true or false; got the text 'false'; remove the quotes"),
        ("{type: heun, final: no}", "s.yaml:1:21: solver.final: expected true or false; got the text 'no'; write false"),
        ("{type: heun, final: 1}", "s.yaml:1:21: solver.final: expected true or false; got 1"),
        ("{type: heun, churn: true}", "s.yaml:1:21: solver.churn: expected a number; got true"),
        ("{type: heun, churn: .nan}", "s.yaml:1:21: solver.churn: expected a number; got nan"),
        ("{type: heun, churn: 1}", "s.yaml:1:21: solver.churn: must be < 1; got 1.0"),
        ("{type: heun, churn: '1e-3'}", "s.yaml:1:21: solver.churn: expected a number; got the text '1e-3'; remove the quotes"),
        ("{type: heun, stpes: 3}", "s.yaml:1:14: solver.stpes: unknown field of solver 'heun'; did you mean 'steps'? fields: steps, grid, churn, final"),
        ("{type: euler, churn: 0}", "s.yaml:1:15: solver.churn: unknown field of solver 'euler'; fields: steps, grid"),
        ("{type: heun, grid: {type: heun}}", "s.yaml:1:27: solver.grid.type: no grid 'heun'; 'heun' is a solver; installed: custom, karras"),
        ("{type: heun, grid: {type: karras, rho: 0}}", "s.yaml:1:40: solver.grid.rho: must be > 0; got 0.0"),
        ("{type: heun, grid: {rho: 3}}", "s.yaml:1:20: solver.grid: 'type' is missing: it says which grid this is; installed: custom, karras"),
        ("{type: heun, grid: 3}", "s.yaml:1:20: solver.grid: expected a map with 'type', such as {type: custom} or null; got 3; installed: custom, karras"),
        ("{type: heun, grid: karras}", "s.yaml:1:20: solver.grid: expected a map with 'type', such as {type: karras} or null; got the text 'karras'; installed: custom, karras"),
        ("{type: heun, grid: {type: custom, times: 0.5}}", "s.yaml:1:42: solver.grid.times: expected a list of numbers; got 0.5; write [0.5]"),
        ("{type: heun, grid: {type: custom, times: [1, -1]}}", "s.yaml:1:42: solver.grid.times: must be >= 0; got -1.0"),
    ],
)  # fmt: skip
def test_one_fault(registry, text, message):
    assert faults(registry, "solver", text) == [message]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", None, "expected text; got null"),
        ("name", 3, "expected text; got 3; put it in quotes"),
        ("name", "${HOME}", "after '${' only env:NAME} or env:NAME:-default} can follow; write $${ for the characters themselves"),
        ("maybe", "x", "expected a number or null; got the text 'x'"),
        ("maybe", -1, "must be >= 0; got -1.0"),
        pytest.param("rate", 10**400, "expected a number; got an integer of 1329 bits", id="huge"),
        ("mode", "fsat", "expected one of 'fast', 'slow', 2; got the text 'fsat'; did you mean 'fast'?"),
        ("mode", 2.0, "expected one of 'fast', 'slow', 2; got 2.0"),
        ("order", 4, "must be one of 1, 2, 3; got 4"),
        ("seeds", "123", "expected a list of integers; got the text '123'; write [123]"),
        ("seeds", {"a": 1}, "expected a list of integers; got a map with a"),
        ("pair", [1.0], "expected a list of 2: a number, text; got a list of 1"),
        ("table", [1], "expected a map; got a list of 1"),
        ("window", 3, "expected a map with lo, hi or null; got 3"),
        ("label", 1.5, "expected an integer or text; got 1.5; put it in quotes"),
        ("grid", None, "expected a map with 'type', such as {type: custom}; got null; installed: custom, karras"),
        ("grid", object(), "expected a map with 'type', such as {type: custom}; got a value of the class object; installed: custom, karras"),
    ],
)  # fmt: skip
def test_one_fault_of_each_kind_of_field(registry, field, value, message):
    assert messages(registry, "metric", type="everything", count=1, **{field: value}) == [f"metric.{field}: {message}"]


def test_faults_inside_lists_maps_and_records_have_their_paths(registry):
    text = """\
type: everything
seeds: [1, two, 3.5]
pair: [1, 2]
table: {a: 1, b: x}
window: {lo: 1, hi: -1}
windows:
- {lo: 1}
- {lo: 1, hi: 2, mid: 3}
- 7
grids: [{type: karras}, {type: kerras}]
deep: {k: [[1, 2], [x]]}
"""
    found = [message.partition(" (")[0] for message in faults(registry, "metric", text, "m.yaml")]
    assert found == [
        "m.yaml:1:1: metric.count: missing",
        "m.yaml:2:12: metric.seeds.1: expected an integer; got the text 'two'",
        "m.yaml:2:17: metric.seeds.2: expected an integer; got 3.5",
        "m.yaml:3:11: metric.pair.1: expected text; got 2; put it in quotes",
        "m.yaml:4:18: metric.table.b: expected an integer; got the text 'x'",
        "m.yaml:5:21: metric.window.hi: must be > 0; got -1.0",
        "m.yaml:7:3: metric.windows.0.hi: missing",
        "m.yaml:8:18: metric.windows.1.mid: unknown field of 'metric.windows.1'; fields: lo, hi",
        "m.yaml:9:3: metric.windows.2: expected a map with lo, hi; got 7",
        "m.yaml:10:32: metric.grids.1.type: no grid 'kerras'; did you mean 'karras'? installed: custom, karras",
        "m.yaml:11:21: metric.deep.k.1.0: expected a number; got the text 'x'",
    ]


def test_a_missing_field_says_what_it_is(registry):
    assert messages(registry, "metric", type="everything") == ["metric.count: missing (mandatory); expected an integer"]


def test_a_misspelt_mandatory_field_is_one_fault(registry):
    assert [m.partition(";")[0] for m in messages(registry, "metric", type="everything", cuont=3)] == [
        "metric.cuont: unknown field of metric 'everything'"
    ]


def test_good_values_keep_their_types(registry, toys):
    text = """\
{type: everything, count: 3, flag: true, rate: 2, name: '1', maybe: 1e-3, mode: slow, seeds: [], pair: [1, b], table: {on: 1},
 window: {lo: -1, hi: 1}, windows: [{lo: 0, hi: 2.5}], grid: {type: custom, times: [1, 0.5]}, grids: [{type: local/karras}],
 label: x, deep: {k: [[1, 2], []]}}"""
    made = structure(registry, "metric", parse(text))
    assert made == toys.Everything(
        count=3, flag=True, rate=2.0, name="1", maybe=1e-3, mode="slow", seeds=(), pair=(1.0, "b"), table={"on": 1},
        window=toys.Window(lo=-1.0, hi=1.0), windows=(toys.Window(lo=0.0, hi=2.5),), grid=toys.Custom(times=(1.0, 0.5)),
        grids=(toys.Karras(),), label="x", deep={"k": ((1.0, 2.0), ())},
    )  # fmt: skip
    assert [type(v) for v in (made.rate, made.count, made.window.lo, made.grid.times[0], made.label)] == [
        float,
        int,
        float,
        float,
        str,
    ]
    assert structure(registry, "metric", {"type": "everything", "count": 1, "label": 5}).label == 5


def test_python_values_and_finished_components_are_taken(registry, toys):
    grid = toys.Karras(rho=2.0)
    made = registry.make("metric", "everything", count=1, grid=grid, window=toys.Window(lo=0.0, hi=1.0), seeds=(1, 2))
    assert made.grid is grid
    assert made.seeds == (1, 2)
    assert messages(registry, "solver", type="heun", grid=toys.Heun()) == [
        "solver.grid: expected a map with 'type', such as {type: custom} or null; got a value of the class Heun; "
        "installed: custom, karras"
    ]


def test_a_component_of_a_narrower_base(registry, toys):
    assert structure(registry, "guidance", {"type": "needs-affine", "process": {"type": "square"}}).process == toys.Square()
    assert messages(registry, "guidance", type="needs-affine", process={"type": "jump"}) == [
        "guidance.process.type: the process 'jump' is no AffineProcess, which this field needs"
    ]


def test_a_class_added_later_is_found():
    registry = dc.Registry()

    @registry.add
    @dc.component
    class Late(dc.Stepper):
        pass

    assert structure(registry, "solver", {"type": "late", "steps": 4}) == Late(steps=4)


def test_environment_variables_in_texts(registry, monkeypatch):
    monkeypatch.setenv("DIFFCORE_TEST_X", "12")
    monkeypatch.delenv("DIFFCORE_TEST_Y", raising=False)

    def name(text):
        return registry.make("metric", "everything", count=1, name=text).name

    assert name("a/${env:DIFFCORE_TEST_X}/b") == "a/12/b"
    assert name("${env:DIFFCORE_TEST_Y:-d}${env:DIFFCORE_TEST_Y:-}") == "d"
    assert name("$${env:DIFFCORE_TEST_X} $5") == "${env:DIFFCORE_TEST_X} $5"
    assert messages(registry, "metric", type="everything", count=1, name="${env:DIFFCORE_TEST_Y}") == [
        "metric.name: the environment variable DIFFCORE_TEST_Y is not set; set it, or write ${env:DIFFCORE_TEST_Y:-default}"
    ]
    assert messages(registry, "metric", type="everything", count="${env:DIFFCORE_TEST_X}") == [
        "metric.count: expected an integer; got the text '${env:DIFFCORE_TEST_X}'"
    ], "only texts are filled in"


@pytest.mark.parametrize("error", ["ValueError", "TypeError"])
def test_a_validator_over_two_fields_stands_at_its_map(registry, error):
    text = f"type: nest\ninner:\n  {{type: ordered, lo: 2, kind_of_error: {error}}}\n"
    assert faults(registry, "guidance", text) == ["s.yaml:3:3: guidance.inner: hi must be above lo"]


def test_a_spec_error_of_the_class_stands_at_its_map(registry):
    assert faults(registry, "guidance", "type: nest\ninner:\n  type: fragile\n  w: -1\n") == [
        "s.yaml:3:3: guidance.inner: w and nothing else must be positive"
    ]


def test_an_exception_of_the_plugin_passes_through_with_a_note(registry):
    with pytest.raises(ZeroDivisionError, match="float division by zero") as caught:
        structure(registry, "guidance", parse("type: nest\ninner: {type: fragile, w: 0}\n", "s.yaml"))
    assert caught.value.__notes__ == [
        "raised while making the guidance 'fragile' of local 0, 'guidance.inner' of the spec at s.yaml:2:8"
    ]


def test_an_exception_of_the_plugin_does_not_hide_the_faults(registry):
    found = faults(registry, "guidance", "type: nest\ninner: {type: fragile, w: 0}\nw: x\n")
    assert found[1] == "s.yaml:3:4: guidance.w: expected a number; got the text 'x'"
    assert found[0].startswith("s.yaml:2:8: guidance.inner: ZeroDivisionError: float division by zero (raised while making")


def test_a_broken_plugin_is_named():
    entry = dc.Entry("gone", "solver", "no_such_module:Gone", "", "diffcore-gone", "1.2")
    registry = dc.Registry([dc.Plugin("gone", "diffcore-gone", "1.2", "no_such_module", "ok", components=(entry,))])
    [message] = messages(registry, "solver", type="gone")
    assert message.startswith("solver.type: solver 'gone' of diffcore-gone 1.2 cannot be imported from no_such_module:Gone")
    broken = dc.Registry([dc.Plugin("bad", "diffcore-bad", "1", "bad", "broken", cause="SyntaxError: x")])
    [message] = messages(broken, "solver", type="gone")
    assert message == "solver.type: no solver 'gone'; not loaded: diffcore-bad (broken: SyntaxError: x); installed: none"


def test_a_field_type_that_no_spec_can_give():
    registry = dc.Registry()

    @registry.add
    @dc.component
    class Odd(dc.Stepper):
        what: complex = 1j

    [message] = messages(registry, "solver", type="odd", what=3)
    assert message == "solver.what: no spec can give a field of type <class 'complex'>; this is a fault of the plugin"


def test_annotations_that_cannot_be_resolved():
    registry = dc.Registry()
    registry.add(dc.component(type("Lost", (dc.Solver,), {"__annotations__": {"what": "Nowhere"}, "what": 1})))
    [message] = messages(registry, "solver", type="lost")
    assert "the field types of" in message
    assert "name 'Nowhere' is not defined" in message


def test_mappings_that_are_too_deep_or_have_odd_keys(registry):
    deep: dict = {"type": "nest"}
    deep["inner"] = deep
    with pytest.raises(SpecErrors, match="5000 values and 64 levels"):
        structure(registry, "guidance", deep)
    with pytest.raises(SpecErrors, match="keys are text; got 3"):
        structure(registry, "guidance", {"type": "nest", 3: 1})


def test_unknown_kind(registry):
    with pytest.raises(SpecErrors, match="no kind 'solvr'; did you mean 'solver'"):
        structure(registry, "solvr", {"type": "heun"})


def test_many_faults_stop_at_a_hundred(registry):
    with pytest.raises(SpecErrors) as caught:
        structure(registry, "metric", {"type": "everything", "count": 1, "seeds": ["x"] * 300})
    assert len(caught.value.faults) == 100
    assert str(caught.value).endswith("100 faults or more; the first of them are shown")


def test_faults_as_data(registry):
    with pytest.raises(SpecErrors) as caught:
        structure(registry, "solver", parse("type: heun\nsteps: 0\n", "s.yaml"))
    assert caught.value.as_dicts() == [
        {"file": "s.yaml", "line": 2, "column": 8, "path": "solver.steps", "message": "must be >= 1; got 0"}
    ]
    assert caught.value.exit_code == 2

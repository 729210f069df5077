"""Files on files, overrides, the format version, and where each value comes from."""
# ruff: noqa: E501  messages stand in one piece

from __future__ import annotations

import os
import subprocess
import sys

import attrs
import pytest

import diffcore as dc
from diffcore.run.sections import FORMAT, _outline, load_spec
from diffcore.specs import SpecErrors, origins
from diffcore.specs.faults import Faults
from diffcore.specs.loading import MAX_FILES, load_tree


def plain(node):
    if isinstance(node.value, dict):
        return {k: plain(v) for k, v in node.value.items()}
    return [plain(v) for v in node.value] if isinstance(node.value, list) else node.value


def load(source, *overrides):
    faults = Faults()
    tree = load_tree(source, overrides, faults)
    faults.check()
    return plain(tree)


def faults(source, *overrides):
    with pytest.raises(SpecErrors) as caught:
        load(source, *overrides)
    return [str(fault) for fault in caught.value.faults]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / (name.replace("__", "/") + ".yaml")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def test_extends(folder):
    folder(
        base="solver: {type: heun, steps: 3, grid: {type: karras, rho: 5}}\nguidance: [{w: 1}, {w: 2}]\nseed: 1\n",
        sub__mid="extends: ../base.yaml\nsolver:\n  steps: 4\n  grid: {type: uniform}\n",
        other="seed: 2\nname: other\n",
        top="diffcore: 1\nextends: [sub/mid.yaml, other.yaml]\nname: top\nguidance: [{w: 7}]\n",
    )
    assert load("top.yaml") == {
        "diffcore": 1,
        "solver": {"type": "heun", "steps": 4, "grid": {"type": "uniform"}},  # maps merge, another type replaces
        "guidance": [{"w": 7}],  # lists replace
        "seed": 2,  # the later base wins
        "name": "top",
    }
    assert origins("top.yaml", ["solver.grid.n=3"]) == {
        "diffcore": "top.yaml:1:11",
        "name": "top.yaml:3:7",
        "seed": "other.yaml:1:7",
        "solver.type": "base.yaml:1:16",
        "solver.steps": "sub/mid.yaml:3:10",
        "solver.grid.type": "sub/mid.yaml:4:16",
        "solver.grid.n": "--set solver.grid.n=3",
        "guidance.0.w": "top.yaml:4:16",
    }


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"a": "extends: b.yaml", "b": "extends: [a.yaml]"}, "b.yaml:1:11: extends: the files extend each other: a.yaml -> b.yaml -> a.yaml"),
        ({"a": "extends: a.yaml"}, "a.yaml:1:10: extends: the files extend each other: a.yaml -> a.yaml"),
        ({"a": "extends: bse.yaml", "base": "x: 1"}, "a.yaml:1:10: extends: the spec file 'bse.yaml' does not exist; did you mean 'base.yaml'?"),
        ({"a": "extends: no/b.yaml"}, "a.yaml:1:10: extends: the spec file 'no/b.yaml' does not exist"),
        ({"a": "extends: 3"}, "a.yaml:1:10: extends: expected a file or a list of files; got 3"),
        ({"a": "extends: [b.yaml, {}]", "b": "x: 1"}, "a.yaml:1:10: extends: expected a file or a list of files; got a list of 2"),
        ({"a": "extends: [b.yaml, b.yaml]", "b": "x: 1"}, "a.yaml:1:10: extends: a file is listed twice"),
        ({"a": "extends: b.yaml", "b": "- 1"}, "b.yaml:1:1: a spec is a map of sections (data, process, network, ...); got a list of 1"),
        ({"a": ""}, "a.yaml:1:1: a spec is a map of sections (data, process, network, ...); got nothing"),
        ({"a": "hello"}, "a.yaml:1:1: a spec is a map of sections (data, process, network, ...); got the text 'hello'"),
        ({"a": b"x: 1\ny: \xff\n"}, "a.yaml:2:4: the byte 0xff is not UTF-8; save the file as UTF-8"),
        ({"a": "x: 1".encode("utf-16")}, "a.yaml:1:1: the byte 0xff is not UTF-8; save the file as UTF-8"),
        ({"a": b"x: 1\n" * 2_000_000}, "a.yaml:1:1: too large for a spec: more than 128 KiB"),
        ({"a": "extends: ."}, "a.yaml:1:10: extends: the spec file '.' is a folder"),
    ],
    ids=[
        "cycle", "itself", "misspelt", "no folder", "number", "not a name", "twice", "list", "empty", "text", "latin", "utf-16", "huge", "folder",
    ],
)  # fmt: skip
def test_faults_of_files(folder, files, found):
    folder(**files)
    assert faults("a.yaml") == [found]


def test_a_file_that_is_not_there(folder):
    folder(mnist="x: 1")
    assert faults("minst.yaml") == ["the spec file 'minst.yaml' does not exist; did you mean 'mnist.yaml'?"]
    assert faults("\0") == ["the spec file '\\x00' cannot be read: embedded null byte"]


def test_a_chain_and_a_bomb_of_files_end(folder):
    folder(**{f"f{i}": f"extends: f{i + 1}.yaml" for i in range(MAX_FILES + 2)})
    assert "more than 64 files" in faults("f0.yaml")[0]
    folder(**{f"g{i}": f"extends: [g{i + 1}.yaml, h{i + 1}.yaml]\na: {i}" for i in range(30)}, g30="b: 1")
    folder(**{f"h{i}": f"extends: [g{i + 1}.yaml]" for i in range(30)}, h30="c: 1")
    assert load("g0.yaml") == {"a": 0, "b": 1, "c": 1}


def test_a_mapping_and_a_text_extend_too(folder):
    folder(base="solver: {type: heun, steps: 3}")
    assert load({"extends": "base.yaml", "solver": {"steps": 4}}) == {"solver": {"type": "heun", "steps": 4}}
    assert load("extends: base.yaml\nseed: 1\n") == {"solver": {"type": "heun", "steps": 3}, "seed": 1}


SPEC = {"solver": {"type": "heun", "steps": 3, "grid": None}, "guidance": [{"w": 1}, {"w": 2}], "seed": 1}


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (["seed=2"], {"seed": 2}),
        (["seed=2", "seed=3"], {"seed": 3}),
        (["solver.steps=20"], {"solver": {"type": "heun", "steps": 20, "grid": None}}),
        (["solver.type=heun"], {}),
        (["solver.type=euler"], {"solver": {"type": "euler"}}),
        (["solver.steps=9", "solver.type=euler"], {"solver": {"type": "euler", "steps": 9}}),  # in whichever order they are given
        (["solver={type: x, k: [1, a]}"], {"solver": {"type": "x", "k": [1, "a"]}}),
        (["solver.grid.type=karras"], {"solver": {"type": "heun", "steps": 3, "grid": {"type": "karras"}}}),
        (["guidance.1.w=1e-1"], {"guidance": [{"w": 1}, {"w": 0.1}]}),
        (["guidance.0={w: 9}"], {"guidance": [{"w": 9}, {"w": 2}]}),
        (["guidance=[]"], {"guidance": []}),
        (["name=a=b"], {"name": "a=b"}),
        (["name='3'"], {"name": "3"}),
        (["name="], {"name": None}),
        (["new.deep.er=1"], {"new": {"deep": {"er": 1}}}),
    ],
    ids=str,
)
def test_overrides(overrides, changes):
    assert load(SPEC, *overrides) == {**SPEC, **changes}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "an override is key.path=value, such as solver.steps=20"),
        ("=3", "an override is key.path=value, such as solver.steps=20"),
        ("solver..steps=3", "an override is key.path=value, such as solver.steps=20"),
        ("seed.x=3", "seed.x: 1 has no entry 'x'"),
        ("guidance.2.w=3", "guidance.2.w: the list has no entry '2': it has the entries 0 to 1"),
        ("guidance.w=3", "guidance.w: the list has no entry 'w': it has the entries 0 to 1"),
        ("guidance.-1.w=3", "guidance.-1.w: the list has no entry '-1': it has the entries 0 to 1"),
        ("seed=[1", "not YAML: a '[' is not closed, or a ',' is missing"),
        ("seed=!!int 3", "the tag !!int is not allowed: a spec is plain data; write the value without it"),
    ],
)
def test_faults_of_overrides(override, message):
    assert faults(SPEC, override) == [f"--set {override}: {message}"]


def test_long_override_paths_end():
    assert "an override is" in faults(SPEC, ".".join("a" * 5000) + "=1")[0]
    assert "64 levels" in faults(SPEC, ".".join("a" * 60) + "=" + "[" * 30 + "]" * 30)[0]


# The whole spec: the sections of `Spec`, with toys in every place.

WHOLE = """\
diffcore: 1
data: {type: points}
process: {type: square}
network: {type: net}
loss: {type: plain}
solver: {type: heun, steps: 3}
"""


PARTS = {"data": "points", "process": "square", "network": "net", "loss": "plain", "solver": "heun"}


@pytest.fixture(scope="module")
def pipeline_registry(toys):
    registry = dc.Registry.load(disable=[p.dist for p in dc.Registry.load().plugins if p.dist != "diffcore"])
    for cls in (toys.Karras, toys.Heun, toys.Euler, toys.Square, toys.Everything, toys.Nest):
        registry.add(cls)
    for name, base in {"points": dc.Data, "net": dc.Network, "plain": dc.Loss}.items():
        registry.add(dc.component(type(name.title(), (base,), {"__annotations__": {}})), id=name)
    return registry


def spec_faults(registry, source, *overrides):
    with pytest.raises(SpecErrors) as caught:
        load_spec(source, registry, overrides)
    return [str(fault) for fault in caught.value.faults]


def test_a_spec_is_read(pipeline_registry, toys):
    spec = load_spec(WHOLE, pipeline_registry, ["solver.grid={type: karras}", "sampling.n=3", "seed=7"])
    assert spec.solver == toys.Heun(steps=3, grid=toys.Karras())
    assert (spec.seed, spec.sampling.n, spec.sampling.batch) == (7, 3, 64)
    as_mapping = {"data": {"type": "points"}, "process": toys.Square(), "network": {"type": "net"}, "loss": {"type": "plain"}}
    assert load_spec({**as_mapping, "solver": toys.Heun(steps=3)}, pipeline_registry) == load_spec(WHOLE, pipeline_registry)


def test_an_override_edits_the_default_of_a_field_that_is_not_in_the_file(pipeline_registry, toys):
    default = load_spec(WHOLE, pipeline_registry).trainer
    assert load_spec(WHOLE, pipeline_registry, ["trainer.steps=7"]).trainer == attrs.evolve(default, steps=7)
    spec = load_spec(WHOLE + "metrics: [{type: everything, count: 1}]\n", pipeline_registry, ["metrics.0.default_window.lo=-4"])
    assert spec.metrics[0].default_window == toys.Window(lo=-4.0, hi=2.0)
    assert spec_faults(pipeline_registry, WHOLE, "trainer.stpes=7")[0].startswith(
        "--set trainer.stpes=7: trainer.stpes: unknown field of trainer 'standard'; did you mean 'steps'? fields: steps,"
    )
    assert spec_faults(pipeline_registry, WHOLE, "solver.grid.rho=3") == [
        "--set solver.grid.rho=3: solver.grid: 'type' is missing: it says which grid this is; installed: karras"
    ]
    assert spec_faults(pipeline_registry, WHOLE, "guidance.0.w=3") == [
        "--set guidance.0.w=3: guidance: expected a list of entries, which is not in the spec; set it as a whole"
    ]


def test_every_fault_of_a_spec_in_the_order_of_the_file(pipeline_registry):
    text = """\
diffcore: 1
seed: -1
name: [x]
data: {type: pionts}
proces: {type: square}
network: net
solver: {type: heun, steps: 0, churn: x, churn: 2}
sampling: {n: yes, mode: quick, cond: {label: 1.5}}
guidance: [{type: nest, w: x}, {type: nset}]
"""
    assert [m.partition(";")[0] for m in spec_faults(pipeline_registry, text, "evaluation.n=x")] == [
        "--set evaluation.n=x: evaluation.n: expected an integer",
        "<text>:1:1: loss: missing (the objective)",
        "<text>:2:7: seed: must be >= 0",
        "<text>:3:7: name: expected text",
        "<text>:4:14: data.type: no data 'pionts'",
        "<text>:5:1: proces: unknown field of a spec",
        "<text>:6:10: network: expected a map with 'type', such as {type: net}",
        "<text>:7:29: solver.steps: must be >= 1",
        "<text>:7:39: solver.churn: expected a number",
        "<text>:7:42: solver.churn: the key is already on line 7",
        "<text>:8:15: sampling.n: expected an integer",
        "<text>:8:26: sampling.mode: expected one of 'eager', 'compile', 'graph'",
        "<text>:8:47: sampling.cond.label: expected an integer or text",
        "<text>:9:28: guidance.0.w: expected a number",
        "<text>:9:39: guidance.1.type: no guidance 'nset'",
    ]


@pytest.mark.parametrize("name", ["../../x", "..", ".", "/abs", "a/b", "a\\b", "", " ", "a\nb", "a\0b", "x" * 101])
def test_a_name_is_that_of_one_folder(pipeline_registry, name):
    (message,) = spec_faults(pipeline_registry, {**{s: {"type": t} for s, t in PARTS.items()}, "name": name})
    assert message.startswith("name: must be one folder's name (the run goes to runs/NAME)")
    assert message.endswith(f"got {name[:100]!r}")


def test_a_name_with_spaces_and_letters_of_any_script_is_fine(pipeline_registry):
    assert load_spec(WHOLE + "name: Läufe 3 (η=1)\n", pipeline_registry).name == "Läufe 3 (η=1)"
    assert spec_faults(pipeline_registry, WHOLE + "name: ../x\n")[0].startswith("<text>:7:7: name: ")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["solver.type=euler"], ["--set solver.type=euler: what was set for 'heun' is dropped: steps (3), churn (0.5); set again what is still meant"]),
        (["solver.type=euler", "solver.steps=3"], ["--set solver.type=euler: what was set for 'heun' is dropped: churn (0.5); set again what is still meant"]),
        (["solver.type=heun"], []),
        (["solver={type: euler}"], []),
        (["trainer.type=standard"], []),
    ],
)  # fmt: skip
def test_what_an_override_of_type_drops_is_said_once(pipeline_registry, caplog, overrides, said):
    load_spec(WHOLE.replace("steps: 3", "steps: 3, churn: 0.5, grid: null"), pipeline_registry, overrides)
    assert [record.message for record in caplog.records] == said


def test_a_text_has_the_name_it_is_given(pipeline_registry):
    with pytest.raises(SpecErrors, match=r"^run/weights\.safetensors:7:7: seed: must be >= 0; got -1"):
        load_spec(WHOLE + "seed: -1\n", pipeline_registry, name="run/weights.safetensors")


def test_the_format_version(pipeline_registry):
    assert spec_faults(pipeline_registry, WHOLE.replace("diffcore: 1\n", "seed: 1\n")) == [
        "<text>:1:1: diffcore: missing; begin the file with 'diffcore: 1', the version of the spec format"
    ]
    assert spec_faults(pipeline_registry, WHOLE.replace("diffcore: 1", "diffcore: 2\nseeed: 3")) == [
        "<text>:1:11: diffcore: the spec has format 2, this diffcore reads format 1; update diffcore"
    ], "what a later format means is not guessed"
    assert spec_faults(pipeline_registry, WHOLE.replace("diffcore: 1", "diffcore: 0")) == [
        "<text>:1:11: diffcore: must be >= 1; got 0"
    ]
    assert "expected an integer" in spec_faults(pipeline_registry, WHOLE.replace("diffcore: 1", "diffcore: '1'"))[0]


def test_the_outline_is_that_of_spec():
    from diffcore.run import spec
    from diffcore.specs.fieldtypes import field_types, kind_of

    assert spec.FORMAT == FORMAT
    whole, outline = attrs.fields_dict(spec.Spec), attrs.fields_dict(_outline())
    assert set(whole) == set(outline)
    assert {n for n, a in whole.items() if a.default is attrs.NOTHING} == {
        n for n, a in outline.items() if a.default is attrs.NOTHING
    }

    def kinds(cls):
        def kind(t):
            return kind_of(t) or next((k for arg in getattr(t, "__args__", ()) if (k := kind(arg))), "")

        return {name: kind(t) for name, t in field_types(cls).items()}

    assert kinds(spec.Spec) == kinds(_outline())


NO_TORCH = """
import sys
import diffcore as dc
from diffcore.run.sections import load_spec
from diffcore.specs import origins, parse
registry = dc.Registry.load(disable=[])
def refused(call, *parts):
    try:
        call()
    except dc.SpecError as error:
        assert all(part in str(error) for part in parts), str(error)
    else:
        raise AssertionError("not refused")
parse("a: 1")
refused(lambda: parse("a: ["), "not YAML")
refused(lambda: registry.make("solver", "huen"), "no solver 'huen'")
text = '''diffcore: 1
data: {type: no-data}
process: {type: no-process}
network: {type: no-network}
los: {type: no-loss}
solver: no-solver
guidance: [{type: no-guidance}, 3]
'''
refused(lambda: load_spec(text, registry), "no data 'no-data'", "no process", "no network", "did you mean 'loss'", "got the text",
        "no guidance 'no-guidance'", "guidance.1", "7 faults", "init, data, process, network, prediction")
refused(lambda: load_spec("diffcore: 1\\n\\n", registry), "solver: missing")
refused(lambda: load_spec("nowhere.yaml", registry), "does not exist")
origins({"solver": {"type": "heun"}}, ["solver.steps=3"])
assert "torch" not in sys.modules
"""


def test_what_needs_no_torch():
    done = subprocess.run([sys.executable, "-c", NO_TORCH], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# What is no file of text.


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("pipe", "is a pipe or a device; write the spec to a file"),
        ("/dev/zero", "is a pipe or a device; write the spec to a file"),
        ("https://host.example/s.yaml", "is an address; download it, and name the file"),
        ("~/there-is-none.yaml", "HOME/there-is-none.yaml' does not exist"),
        (".", "is a folder"),
    ],
)
@pytest.mark.parametrize("extends", [False, True])
def test_what_is_no_file_is_refused_at_once(registry, tmp_path, monkeypatch, named, told, extends):
    """To open a pipe that nobody writes would be to wait for ever."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/HOME")
    os.mkfifo(tmp_path / "pipe")
    source = {"extends": named} if extends else named
    with pytest.raises(SpecErrors, match=told):
        load_spec(source, registry)


def test_a_home_folder_is_expanded(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.yaml").write_text("diffcore: 1\nsolver: {type: huen}\n")
    for source in ("~/base.yaml", {"extends": "~/base.yaml"}):
        with pytest.raises(SpecErrors, match=r"base\.yaml:2:16: solver\.type: no solver 'huen'"):
            load_spec(source, registry)


def test_no_text_of_a_spec_makes_a_second_line_or_moves_the_cursor(registry):
    odd = r'"a\n/x.yaml:1:1: solver: fake \u202e\e[31m"'
    with pytest.raises(SpecErrors) as caught:
        load_spec(f"diffcore: 1\nsolver: {{type: {odd}}}\n{odd}: {odd}\nprocess: {{type: square, {odd}: 1}}\n", registry)
    assert all(str(fault).isprintable() for fault in caught.value.faults)
    with pytest.raises(SpecErrors) as caught:
        load_spec({"solver": {"type": "a\nb\x1b[31m"}, "data\u202e": 1}, registry)
    assert all(str(fault).isprintable() for fault in caught.value.faults)

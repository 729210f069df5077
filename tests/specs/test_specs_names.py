"""Unknown fields are found from the sources of components: exactly those that their classes do not have, and without a class."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest

import diffcore as dc
from diffcore.run.sections import load_spec, refuse_unknown
from diffcore.run.spec import EvaluationPlan, Sampling, Spec
from diffcore.specs import SpecErrors
from diffcore.specs.faults import Fault, Faults
from diffcore.specs.fieldtypes import field_types, init_fields, kind_of
from diffcore.specs.loading import load_tree
from diffcore.specs.names import SPEC, Names
from diffcore.specs.statements import statement_of

ROOT = Path(__file__).parents[2]
REGISTRY = dc.Registry.load()
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def kind_in(wanted: Any) -> str:
    return kind_of(wanted) or next((kind for arg in get_args(wanted) if (kind := kind_in(arg))), "")


@pytest.mark.parametrize("entry", REGISTRY.list(), ids=lambda entry: f"{entry.kind} {entry.id}")
def test_the_source_of_every_component_says_what_its_class_has(entry: dc.Entry):
    cls, found = entry.load(), statement_of(entry.target.replace(":", "."))
    assert found is not None
    assert (found.kind, list(found.fields)) == (entry.kind, list(init_fields(cls)))
    for name, field in found.fields.items():
        there = statement_of(field.part)
        assert field.required == (init_fields(cls)[name].default is attrs.NOTHING)
        assert (there.kind if there else "") == kind_in(field_types(cls)[name])


def test_the_sections_of_a_spec_too():
    for cls in (Spec, Sampling, EvaluationPlan):
        found = statement_of(path_of(cls))
        assert found is not None
        assert (found.kind, list(found.fields)) == ("", list(init_fields(cls)))
    assert path_of(Spec) == SPEC


# What is not sure is passed over, and nothing is imported.

HEAD = "from __future__ import annotations\nfrom typing import ClassVar\nimport attrs\nimport diffcore as dc\n\n"
STEP = "@dc.component\nclass Step(dc.Solver):\n    a: int = 1\n    b: float = dc.param(default=2.0)\n"
SURE: dict[str, tuple[str, list[str]]] = {
    "plain": (STEP, ["steps", "grid", "a", "b"]),
    "own-name": ("from diffcore import component as made\n" + STEP.replace("dc.component", "made"), ["steps", "grid", "a", "b"]),
    "derived": (
        STEP.replace("Step", "Below") + "@dc.component\nclass Step(Below):\n    c: int = 1\n    a: int = 4\n",
        ["steps", "grid", "b", "c", "a"],
    ),
    "no-component": (STEP.replace("Step", "Below") + "class Step(Below):\n    c: int = 1\n", ["steps", "grid", "a", "b"]),
    "mixin": ("class Below:\n    c: int = 1\n" + STEP.replace("(dc", "(Below, dc"), ["steps", "grid", "a", "b"]),
    "constants": (
        STEP + "    C: ClassVar[int] = 3\n    '''x'''\n    def f(self): ...\n    class D: ...\n",
        ["steps", "grid", "a", "b"],
    ),
    "under": (STEP + "    _c: int = 1\n", ["steps", "grid", "a", "b", "c"]),
    "one-side": ("import sys\nif sys:\n" + "".join(f"    {line}\n" for line in STEP.splitlines()), ["steps", "grid", "a", "b"]),
}
UNSURE = {
    "twice": STEP + STEP,
    "either": "try:\n    import no_such as base\nexcept ImportError:\n    import diffcore as base\n"
    + STEP.replace("(dc", "(base"),
    "assigned": STEP + "Step = Step\n",
    "made": "Step = dc.component(type('Step', (dc.Solver,), {}))\n",
    "absent": "",
    "decorator": "def more(cls): return cls\n" + STEP.replace("@dc", "@more\n@dc"),
    "attrs": STEP.replace("@dc.component", "@attrs.frozen"),
    "foreign-base": "import abc\n" + STEP.replace("(dc", "(abc.ABC, dc"),
    "made-base": "def base(): return dc.Solver\n" + STEP.replace("dc.Solver", "base()"),
    "keyword": STEP.replace("Solver)", "Solver, metaclass=type)"),
    "condition": STEP + "    if True:\n        c: int = 1\n",
    "loop": STEP + "    for __i in ():\n        pass\n",
    "other-name": STEP + "    c: int = attrs.field(default=1, alias='d')\n",
    "helper": "def other(): return attrs.field(default=1, alias='d')\n" + STEP + "    c: int = other()\n",
    "star": "from diffcore_solvers.heun import *\n" + STEP,
    "syntax": STEP + "def (:\n",
    "null": "\0",
    "hook": STEP.replace("(dc.Solver)", "(Below)") + "class Below(dc.Solver):\n    def __init_subclass__(cls): ...\n",
    "itself": STEP.replace("dc.Solver", "Step"),
}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(module: str, code: str) -> None:
        path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)

    yield write
    for name in [name for name in sys.modules if name.startswith("seen_")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", SURE)
def test_sure(name: str, written: Any):
    module = f"seen_{name.replace('-', '_')}"
    written(module, HEAD + SURE[name][0])
    found = statement_of(f"{module}.Step")
    assert module not in sys.modules
    assert found is not None
    assert list(found.fields) == SURE[name][1]
    entry = dc.Entry("step", "solver", f"{module}:Step", "", "seen", "1")
    assert list(init_fields(entry.load())) == SURE[name][1]


@pytest.mark.parametrize("name", UNSURE)
def test_unsure(name: str, written: Any):
    module = f"unseen_{name.replace('-', '_')}"
    written(module, HEAD + UNSURE[name])
    assert statement_of(f"{module}.Step") is None
    assert module not in sys.modules


def test_a_base_in_a_package_that_is_not_imported(written: Any):
    written("seen_pack.__init__", "1 / 0")
    written("seen_pack.inner.__init__", "from .below import Below\n1 / 0")
    written("seen_pack.inner.below", HEAD + STEP.replace("Step", "Below"))
    written("seen_pack.below", HEAD + "@dc.component\nclass Below(dc.Solver):\n    wrong: int = 1\n")
    written(
        "seen_pack.top",
        HEAD + "from .inner import Below\n@dc.component\nclass Step(Below):\n    grids: tuple[dc.Grid, ...] = ()\n",
    )
    found = statement_of("seen_pack.top.Step")
    assert found is not None
    assert list(found.fields) == ["steps", "grid", "a", "b", "grids"]
    assert found.fields["grids"].part == found.fields["grid"].part == "diffcore.numerics.solver.Grid"
    assert not [name for name in sys.modules if name.startswith("seen_pack")]


def test_a_module_that_is_not_there_or_has_no_source():
    for target in ("no_such_module.Step", "no_such.module.Step", "sys.Step", "Step", "", "os.path.join", "a..b"):
        assert statement_of(target) is None


# What is found is what is found with the classes.

BAD = """\
diffcore: 1
data: {type: two-moons}
process: {type: flow}
network: {type: mlp, widht: 64}
loss: {type: denoising, time_law: {type: diffcore-denoising/uniform, foo: 1}, weighting: {type: constant, a: 3}}
guidance: [{type: interval, guidance: {type: cfg, scale: 3}}]
solver: {type: heun, stepz: 3, grid: {type: karras, roh: 2}}
samplingg: {}
sampling: {nn: 3, cond: {label: 1}}
evaluation: {solvers: [{type: heun, grid: null}, {type: euler, g: 1}]}
"""
OVERRIDES = ("solver.grid.rhoo=3", "metrics=[{type: sliced-wasserstein, n_proj: 3}]")


def early(source: Any, *overrides: str) -> tuple[list[Fault], bool]:
    faults = Faults()
    names = Names(REGISTRY, faults)
    names.spec(load_tree(source, overrides, faults))
    return faults.found, names.others


def late(source: Any, *overrides: str) -> list[Fault]:
    try:
        load_spec(source, REGISTRY, overrides)
    except SpecErrors as error:
        return list(error.faults)
    return []


def test_every_unknown_field_is_found_with_its_place_and_words():
    found, others = early(BAD, *OVERRIDES)
    assert not others
    assert sorted(map(str, found)) == sorted(map(str, late(BAD, *OVERRIDES)))
    assert [(fault.line, fault.path) for fault in SpecErrors(found).faults] == [
        (None, "metrics.0.n_proj"),
        (None, "solver.grid.rhoo"),
        (4, "network.widht"),
        (5, "loss.time_law.foo"),
        (5, "loss.weighting.a"),
        (6, "guidance.0.guidance.scale"),
        (7, "solver.stepz"),
        (7, "solver.grid.roh"),
        (8, "samplingg"),
        (9, "sampling.nn"),
        (10, "evaluation.solvers.1.g"),
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("type: karras", "type: karas"),
        ("type: mlp, ", ""),
        ("stepz: 3", "stepz: 3, steps: ten"),
        ("stepz: 3", "stepz: 3, steps: 0"),
        ("stepz: 3", "stepz: 3, steps: 3.0"),
        ("stepz: 3", "stepz: 3, steps: true"),
        ("{type: karras, roh: 2}", "3"),
        ("[{type: heun, grid: null}, ", "[3, "),
        ("nn: 3", "nn: 3, n: .inf"),
        ("samplingg: {}", "sigma_data: .inf"),
        ("samplingg: {}", "init: 3"),
        ("data: {type: two-moons}\n", ""),
    ],
)
def test_with_another_fault_that_can_be_seen_the_classes_are_asked_for_all(old: str, new: str):
    assert old in BAD
    found, others = early(BAD.replace(old, new))
    assert others
    assert {str(fault) for fault in found} < {str(fault) for fault in late(BAD.replace(old, new))}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_seems_right(file: Path):
    assert early(file) == ([], False)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_a_misspelt_key_anywhere_in_an_example_is_found_as_with_the_classes(file: Path, monkeypatch: pytest.MonkeyPatch):
    """One letter is added to a key, at six places in turn: exactly the unknown fields that the classes find."""
    monkeypatch.chdir(file.parent)
    rng = random.Random(file.stem)
    lines = file.read_text().splitlines()
    keys = [i for i, line in enumerate(lines) if ":" in line and not line.lstrip().startswith("#")]
    for i in rng.sample(keys, min(6, len(keys))):
        key = lines[i].index(":")
        changed = "\n".join([*lines[:i], f"{lines[i][:key]}q{lines[i][key:]}", *lines[i + 1 :]])
        unknown = {str(fault) for fault in late(changed) if "unknown field" in fault.message}
        assert unknown == {str(fault) for fault in early(changed)[0]}


def test_with_torch_there_all_faults_come_at_once():
    assert "torch" in sys.modules
    refuse_unknown(BAD, REGISTRY)
    with pytest.raises(dc.SpecError, match="must be >= 1; got 0") as caught:
        dc.assemble({"solver": {"type": "heun", "stepz": 3, "steps": 0}, "data": {"type": "two-moons"}}, registry=REGISTRY)
    assert "unknown field of solver 'heun'" in str(caught.value)

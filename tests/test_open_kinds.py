"""Kinds and commands of plugins: declared, used in a spec, checked, completed; and what is said where they cannot be used."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from click.testing import CliRunner

import diffcore as dc
from diffcore.cli import main
from diffcore.specs.fieldtypes import expected
from diffcore.specs.statements import statement_of

# --- fake 22: a kind, a component of it, a solver that holds one, and a command; under 40 lines -----------------------------
HOOKS = """
import diffcore as dc
API_VERSION = 1

@dc.hookimpl
def diffcore_components():
    yield dc.Kind("brake", "fake_brakes.parts:Brake", "slows a step down", checks="fake_brakes.checks:CHECKS")
    yield dc.Component("drag", "fake_brakes.parts:Drag", "a constant share", kind="brake")

@dc.hookimpl
def diffcore_solvers():
    yield dc.Component("braked", "fake_brakes.parts:Braked", "Euler's rule, slowed down")

@dc.hookimpl
def diffcore_commands():
    yield dc.Command("brakes", "fake_brakes.commands:brakes", "How much every brake leaves.")
"""
PARTS = """
import diffcore as dc

@dc.kind("brake")
class Brake(dc.Base):
    '''f(t) in (0, 1].'''
    def __call__(self, t):
        raise NotImplementedError

@dc.component
class Drag(Brake):
    '''f = share.'''
    share: float = dc.param(default=0.5, gt=0, le=1, doc="of a step that is left")
    def __call__(self, t):
        return self.share + 0 * t

@dc.component
class Braked(dc.Stepper):
    '''x_s = x_t + f(t) (s - t) v(x_t, t).'''
    brake: Brake = dc.param(doc="f")
    example = {"brake": Drag()}
    requires = frozenset({"velocity", "flat"})
    def plan(self, process, grid):
        t, s = process.pairs(grid)
        return dc.Plan(t=t, h=self.brake(t.t) * (s.t - t.t))
    def step(self, field, x, row, carry, z):
        return dc.Moved(dc.lincomb((1, x), (row.h, field.velocity(x, row.t))))
"""
CHECKS = """
import torch

def between_0_and_1(subject):
    t = torch.linspace(0, 1, 5)
    assert bool(((subject.component(t) > 0) & (subject.component(t) <= 1)).all()), "f is not in (0, 1]"

CHECKS = (between_0_and_1,)
"""
COMMANDS = """
import click
import diffcore as dc

@click.command("brakes")
def brakes():
    make = dc.Registry.load().make
    click.echo("\\n".join(f"{e.id} leaves {make('brake', e.full_id)(0.5)}" for e in dc.Registry.load().list("brake")))
"""
SPEC = """\
diffcore: 1
data: {type: two-moons}
process: {type: flow}
network: {type: mlp, width: 16, depth: 1}
loss: {type: denoising}
trainer: {type: standard, steps: 5, batch: 16, warmup: 1}
solver: {type: braked, steps: 4, brake: {type: drag, share: 0.25}}
"""
FILES = {"parts": PARTS, "checks": CHECKS, "commands": COMMANDS}


@pytest.fixture
def brakes(site) -> Any:
    site.install("fake-brakes", HOOKS, **FILES)
    return site


def run(*arguments: str, code: int = 0) -> Any:
    shown = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert shown.exit_code == code, shown.output
    return shown


FRESH = """
import sys, torch, diffcore as dc
made = dc.Pipeline.load("run")
assert made.spec.solver.brake.share == 0.25
torch.save(made.sample(4, seed=3).x, "fresh.pt")
"""


def test_fake_22_a_kind_a_component_and_a_command_of_a_plugin(brakes, tmp_path: Path):
    """Trained and sampled from a spec, saved, and sampled again in a fresh process; steps are those of Euler, slowed down."""
    lines = [
        line
        for text in (HOOKS, PARTS, COMMANDS)
        for line in text.split("\n")
        if line.strip() not in ("", "import diffcore as dc")
    ]
    assert len(lines) < 40
    (tmp_path / "spec.yaml").write_text(SPEC)
    pipeline = dc.assemble(tmp_path / "spec.yaml")
    pipeline.train()
    field, x = pipeline.field({}), pipeline.process.prior((2,), dc.Draw(3, range(4)))
    times = (1.0, 0.75, 0.5, 0.25, 0.1)
    found = dc.sample(field, pipeline.spec.solver, x, grid=times).x
    with torch.no_grad():
        for t, s in pairwise(times):
            x = x + 0.25 * (s - t) * field.velocity(x, torch.tensor(t))
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-6)
    made = pipeline.sample(4, seed=3)
    pipeline.save(tmp_path / "run")
    brakes.python("-c", FRESH, folder=tmp_path)
    assert torch.equal(torch.load(tmp_path / "fresh.pt"), made.x)
    assert run("brakes").output == "drag leaves 0.5\n"


PROBE = """
import sys
from diffcore.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    print("torch" in sys.modules)
"""


# --- a kind of a plugin is like one of the core -----------------------------------------------------------------------------
def test_it_is_listed_and_explained_without_torch(brakes):
    for arguments, words in (
        (["list", "brakes"], "drag"),
        (["list", "kinds"], "slows a step down"),
        (["plugins"], "2: braked, drag; kinds: brake; commands: brakes"),
        (["--help"], "Commands of fake-brakes:\n  brakes  How much every brake leaves."),
        (["list", "brkes"], ""),
    ):
        shown = brakes.python("-c", PROBE, *arguments)
        assert words in shown.stdout
        assert shown.stdout.splitlines()[-1] == "False", arguments
    assert "did you mean 'brakes'?" in shown.stderr


def test_it_is_shown_with_what_holds_it(brakes):
    told = json.loads(run("show", "drag", "--json").stdout)
    assert (told["kind"], told["fits"]) == ("brake", {"solver": ["braked"]})
    assert "brake:\n    type: drag\n    share: 0.5" in told["example"]
    assert [f["type"] for f in json.loads(run("show", "braked", "--json").stdout)["fields"]][-1] == "a map with 'type' (a brake)"
    assert "of the kind" not in run("show", "drag").output


def test_it_is_in_the_schema_and_completed(brakes):
    jsonschema = pytest.importorskip("jsonschema")
    made = json.loads(run("schema").stdout)
    assert [d["$ref"] for d in made["definitions"]["brake"]["oneOf"]] == ["#/definitions/brake.fake-brakes.drag"]
    solver = jsonschema.Draft7Validator(json.loads(run("schema", "--kind", "brakes").stdout))
    assert solver.is_valid({"type": "drag", "share": 0.5})
    assert not solver.is_valid({"type": "drag", "share": 2.0})
    for words, found in (
        ("list br", "brake"),
        ("show dr", "drag"),
        ("bra", "brakes"),
        ("check a.yaml --set solver.brake.type = d", "drag"),
    ):
        asked = {"COMP_WORDS": f"diffcore {words}", "COMP_CWORD": str(len(words.split())), "_DIFFCORE_COMPLETE": "bash_complete"}
        shown = CliRunner().invoke(main, env=asked, prog_name="diffcore", standalone_mode=True)
        assert [line.partition(",")[2] for line in shown.output.splitlines() if line] == [found], words
    assert "fake_brakes.commands" not in sys.modules


def test_a_fault_in_a_spec_is_at_its_place_and_found_without_torch(brakes, tmp_path: Path):
    assert statement_of("fake_brakes.parts.Brake").kind == "brake"  # pyright: ignore[reportOptionalMemberAccess]
    (tmp_path / "spec.yaml").write_text(SPEC.replace("share", "shrae"))
    shown = brakes.python("-c", PROBE, "check", "spec.yaml", folder=tmp_path)
    assert "spec.yaml:7:54: solver.brake.shrae: unknown field of brake 'drag'; did you mean 'share'?" in shown.stderr
    assert shown.stdout == "False\n"
    for text, says in (
        ("{type: dragg}", "no brake 'dragg'; did you mean 'drag'?"),
        ("drag", "expected a map with 'type', such as {type: drag}; got the text 'drag'"),
        ("{share: 0.5}", "'type' is missing: it says which brake this is; installed: drag"),
        ("{type: heun}", "'heun' is a solver"),
        ("{type: drag, share: 2}", "must be <= 1; got 2"),
    ):
        with pytest.raises(dc.SpecError) as error:
            dc.Registry.load().make("solver", {"type": "braked", "brake": _read(text)})
        assert says in str(error.value)


def _read(text: str) -> Any:
    from diffcore.specs import parse

    return parse(f"x: {text}").children["x"]


def test_it_is_held_to_its_own_checks(brakes):
    shown = run("conform", "drag")
    assert "ok    brake drag: between_0_and_1" in shown.output
    assert "documented" in shown.output
    parts = brakes.root / "fake_brakes" / "parts.py"
    parts.write_text(parts.read_text().replace("return self.share + 0 * t", "return self.share - t"))
    shown = brakes.python("-m", "diffcore", "conform", "drag", code=1)
    assert "FAIL  brake drag: between_0_and_1: f is not in (0, 1]" in shown.stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            None,
            "the checks of the kind 'brake' of fake-brakes 1.0 cannot be imported from fake_brakes.checks:CHECKS: ",
        ),
        ("CHECKS = 3", "must be a tuple of functions; got 3"),
    ],
)
def test_checks_that_cannot_be_had_are_one_failure(site, text: str | None, says: str):
    site.install("fake-brakes", HOOKS, parts=PARTS, **({} if text is None else {"checks": text}))
    shown = run("conform", "drag", code=1)
    (line,) = [line for line in shown.output.splitlines() if line.startswith("FAIL")]
    assert says in line
    assert "ok    brake drag: example" in shown.output


# --- a kind in a notebook ---------------------------------------------------------------------------------------------------
@dc.kind("gear")
class Gear(dc.Base):
    """n : m."""

    teeth: ClassVar[int] = 10
    turns: ClassVar[frozenset[str]] = frozenset()


class Oiled:
    """A mixin that declares something of its own."""

    viscosity: ClassVar[float] = 1.0


@dc.component
class Spur(Gear):
    """1 : 2."""

    teeth = 20


@dc.component
class Machine(dc.Guidance):
    """Turns."""

    gear: Gear = dc.param(factory=Spur, doc="what turns")


def test_a_kind_of_a_notebook_comes_with_its_component():
    registry = dc.Registry()
    for cls in (Machine, Spur):
        registry.add(cls)
    assert registry.make("guidance", {"type": "machine", "gear": {"type": "spur"}}) == Machine()
    assert expected(Gear) == "a map with 'type' (a gear)"
    assert "gear" not in dc.Registry().kinds
    only = dc.Registry()
    only.add(Machine)
    with pytest.raises(dc.SpecError, match=r"guidance.gear: no kind 'gear'; did you mean 'reward'"):
        only.make("guidance", {"type": "machine", "gear": {"type": "spur"}})


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"teeht": 3}, "'teeht' of Odd is nothing that a gear declares; did you mean 'teeth'?"),
        ({"visocsity": 3.0}, "did you mean 'viscosity'?"),
        ({"colour": "red"}, "it declares event_shape, example, "),
        ({"teeth": "3"}, "'teeth' of Odd must be int; got '3'"),
        ({"viscosity": "thick"}, "'viscosity' of Odd must be float; got 'thick'"),
        ({"turns": {"left"}}, r"must be frozenset\[str\]"),
    ],
)
def test_a_class_attribute_that_neither_kind_nor_mixin_declares_is_refused(body: dict[str, Any], says: str):
    with pytest.raises(dc.SpecError, match=says):
        dc.component(type("Odd", (Oiled, Gear), {"__module__": __name__, "__doc__": "x.", **body}))


def test_what_a_kind_and_a_mixin_declare_may_be_set():
    @dc.component
    class Fine(Oiled, Gear):
        """x."""

        TABLE = (1, 2)
        _scale = 2
        teeth = 12
        viscosity = 3.0

    assert (Fine().teeth, Fine().viscosity) == (12, 3.0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: dc.kind("gear2")(type("Plain", (), {})), "is no class that derives from dc.Base"),
        (lambda: dc.kind("Gear")(type("G", (dc.Base,), {})), "'Gear' cannot be the name of a kind: lower-case letters"),
        (lambda: dc.kind("kind")(type("G", (dc.Base,), {})), "'kind' cannot be the name of a kind"),
        (lambda: dc.kind("cog")(type("G", (Gear,), {})), "G is of kind 'gear' already; derive it from dc.Base"),
        (lambda: dc.kind("cog")(dc.component(type("G", (dc.Base,), {}))), "stands below @dc.component on G"),
        (lambda: dc.Kind("cog", "a.b"), "kind 'cog': target must be 'module:Class', got 'a.b'"),
        (lambda: dc.Kind("cog", "a:b", checks="c"), "kind 'cog': checks must be 'module:Class', got 'c'"),
        (lambda: dc.Kind("cog", "a:b", "x\ny"), "kind 'cog': summary must be one line of text"),
        (lambda: dc.Command("Say It", "a:b"), "'Say It' cannot be the name of a command"),
        (lambda: dc.Command("say", "a"), "command 'say': target must be"),
    ],
)
def test_a_bad_declaration_is_one_line(make: Any, says: str):
    with pytest.raises(dc.SpecError) as error:
        make()
    assert says in str(error.value)


# --- what cannot be used ----------------------------------------------------------------------------------------------------
def hooks(*lines: str, of: str = "components") -> str:
    body = "\n".join(f"    yield {line}" for line in lines)
    return f"import diffcore as dc\nAPI_VERSION = 1\n@dc.hookimpl\ndef diffcore_{of}():\n{body}\n"


def test_a_kind_of_two_distributions_names_both_and_costs_nothing_else(brakes, monkeypatch: pytest.MonkeyPatch):
    brakes.install(
        "fake-other", hooks('dc.Kind("brake", "fake_other:Brake")', 'dc.Component("soft", "fake_other:S", kind="brake")')
    )
    says = (
        "the kind 'brake' is declared by fake-brakes 1.0 (fake_brakes.parts:Brake) and fake-other 1.0 (fake_other:Brake); "
        "turn one of them off: DIFFCORE_DISABLE_PLUGINS=fake-other"
    )
    assert run("plugins").stderr == f"{says}\n"
    registry = dc.Registry.load()
    assert registry.get("solver", "braked").__name__ == "Braked"
    for use in (lambda: registry.list("brake"), lambda: registry.get("brake", "drag")):
        with pytest.raises(dc.SpecError) as error:
            use()
        assert str(error.value) == says
    with pytest.raises(dc.SpecError) as error:
        registry.make("solver", {"type": "braked", "brake": {"type": "drag"}})
    assert says in str(error.value)
    assert says in json.dumps(json.loads(run("schema", "--kind", "solver").stdout))
    monkeypatch.setenv("DIFFCORE_DISABLE_PLUGINS", "fake-other")
    assert run("plugins").stderr == ""
    assert [e.id for e in dc.Registry.load().list("brake")] == ["drag"]


def test_a_kind_of_the_core_stays_the_cores(site):
    site.install(
        "fake-grab", hooks('dc.Kind("operator", "fake_grab:Operator")', 'dc.Component("eye", "fake_grab:E", kind="operator")')
    )
    assert run("plugins").stderr == (
        "the kind 'operator' is diffcore's own, which is used; fake-grab 1.0 (fake_grab:Operator) must name its own otherwise\n"
    )
    assert dc.Registry.load().kinds["operator"].load() is dc.Operator
    assert "eye" in run("list", "operators").stdout


def test_a_component_of_a_kind_that_nobody_declares(site):
    of_solvers = "@dc.hookimpl\ndef diffcore_solvers():\n    yield dc.Component('slow', 'fake_lone:Slow')\n"
    site.install("fake-lone", hooks('dc.Component("soft", "fake_lone:S", kind="braek")') + of_solvers)
    says = "no installed distribution declares the kind 'braek', of which 'soft' of fake-lone 1.0 is said to be; install the"
    assert run("list").stderr.startswith(says)
    assert dc.Registry.load().find("solver", "slow").dist == "fake-lone"
    with pytest.raises(dc.UnknownComponentError, match=says):
        dc.Registry.load().get("braek", "soft")
    assert run("show", "soft", code=2).stderr.startswith("Error: no component 'soft' is installed")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (
            "fake_brakes.nowhere:Brake",
            "the kind 'brake' of fake-brakes 1.0 cannot be imported from fake_brakes.nowhere:Brake: Module",
        ),
        (
            "fake_brakes.parts:Drag",
            "fake_brakes.parts:Drag, declared as the kind 'brake' of fake-brakes 1.0, is no base class marked",
        ),
        ("fake_brakes.parts:Braked", "is no base class marked"),
    ],
)
def test_a_kind_whose_target_is_not_there(site, target: str, says: str):
    site.install("fake-brakes", HOOKS.replace('fake_brakes.parts:Brake"', f'{target}"'), **FILES)
    assert "drag" in run("list", "brakes").stdout
    registry = dc.Registry.load()
    with pytest.raises(dc.PluginError) as error:
        registry.kinds["brake"].load()
    assert says in str(error.value)
    if not target.endswith("Drag"):
        with pytest.raises(dc.PluginError, match="brake"):
            registry.get("brake", "drag")
    assert registry.get("solver", "heun").kind == "solver"


def test_a_component_with_another_base_of_that_name(brakes):
    brakes.install("fake-twin", hooks('dc.Component("twin", "fake_twin.parts:Drag", kind="brake")'), parts=PARTS)
    registry = dc.Registry.load()
    assert registry.get("brake", "drag").__module__ == "fake_brakes.parts"
    with pytest.raises(dc.PluginError) as error:
        registry.get("brake", "twin")
    assert str(error.value) == (
        "brake 'twin' of fake-twin 1.0 has another base than the kind 'brake' of fake-brakes 1.0, "
        "which is fake_brakes.parts:Brake"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (hooks('dc.Component("a", "b:C")'), "diffcore_components does not say of which kind 'a' is: dc.Component(..., kind=...)"),
        (hooks('dc.Component("a", "b:C", kind="solver")'), "cannot yield a solver ('a'); that is what diffcore_solvers is for"),
        (hooks('dc.Command("a", "b:c")'), "must yield diffcore.Component(...) or diffcore.Kind(...), got Command("),
        (hooks('dc.Kind("a", "b:C")', of="solvers"), "diffcore_solvers must yield diffcore.Component(...), got Kind("),
        (hooks('dc.Component("a", "b:C", kind="brake")', of="solvers"), "cannot yield a brake ('a'); it carries: solver, grid"),
        (hooks('dc.Component("a", "b:c")', of="commands"), "diffcore_commands must yield diffcore.Command(...), got Component("),
        (hooks('dc.Command("a b", "b:c")', of="commands"), "'a b' cannot be the name of a command"),
        (hooks(*['dc.Kind("a", "b:C")'] * 2), "diffcore_components yields the kind 'a' twice"),
        (hooks(*['dc.Command("a", "b:c")'] * 2, of="commands"), "diffcore_commands yields the command 'a' twice"),
    ],
)
def test_a_plugin_that_declares_wrongly_is_broken_in_one_line(site, text: str, says: str):
    site.install("fake-bad", text)
    (plugin,) = [p for p in dc.Registry.load().plugins if p.dist == "fake-bad"]
    assert plugin.status == "broken"
    assert says in plugin.cause
    assert run("list", "trainers").exit_code == 0


# --- commands ---------------------------------------------------------------------------------------------------------------
def test_a_command_of_the_core_is_not_replaced(site):
    site.install("fake-grab", hooks('dc.Command("list", "fake_grab.nowhere:list")', of="commands"))
    says = (
        "the command 'list' is diffcore's own, which is used; fake-grab 1.0 (fake_grab.nowhere:list) must name its own otherwise"
    )
    assert says in run("plugins").stderr
    assert "standard" in run("list", "trainers").stdout
    assert says in run("--help").stderr


def test_a_command_of_two_distributions_names_both(brakes):
    two = hooks('dc.Command("brakes", "fake_other:c")', 'dc.Command("wheels", "fake_other.c:c")', of="commands")
    brakes.install("fake-other", two, c=COMMANDS.replace("def brakes", "def c"))
    shown = run("brakes", code=2)
    assert shown.stderr.startswith(
        "Error: the command 'brakes' is declared by fake-brakes 1.0 (fake_brakes.commands:brakes) and fake"
    )
    assert run("wheels").output == "drag leaves 0.5\n"
    assert "  wheels" in run("--help").output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import no_such_module", "cannot be imported from fake_brakes.commands:brakes: ModuleNotFoundError: No module"),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
        ("def brakes(): pass", "which is no click command: decorate it with @diffcore.commands.command"),
    ],
)
def test_a_command_that_cannot_be_had_is_one_line(site, text: str, says: str):
    site.install("fake-brakes", HOOKS, parts=PARTS, commands=text)
    for arguments in (["brakes"], ["brakes", "--help"]):
        shown = run(*arguments, code=2)
        assert len(shown.stderr.splitlines()) == 1
        assert shown.stderr.startswith("Error: the command 'brakes' of fake-brakes 1.0 ")
        assert says in shown.stderr
    assert "  brakes  How much every brake leaves." in run("--help").output
    assert "drag" in run("list", "brakes").stdout
    asked = {"COMP_WORDS": "diffcore brakes -", "COMP_CWORD": "2", "_DIFFCORE_COMPLETE": "bash_complete"}
    assert "Traceback" not in CliRunner().invoke(main, env=asked, prog_name="diffcore", standalone_mode=True).output


def test_a_word_that_is_no_command_is_answered_with_those_of_plugins(brakes):
    assert "did you mean 'brakes'?" in run("brake", code=2).stderr

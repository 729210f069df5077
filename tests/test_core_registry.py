"""Discovery with fake distributions on disk: what loads, what does not, and what each says about it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import ClassVar

import pytest

import diffcore as dc
from diffcore.declare.discovery import misnamed

GOOD = """
    import diffcore as dc
    API_VERSION = 1
    @dc.hookimpl
    def diffcore_solvers():
        yield dc.Component("{id}", "{module}.solver:Step", "a step (Someone et al. 2022)")
        yield dc.Component("{id}-grid", "{module}.solver:Rule", "a rule", kind="grid")
"""
SOLVER = """
    import diffcore as dc
    @dc.component
    class Step(dc.Solver):
        '''x.'''
        size: float = dc.param(default=1.0, gt=0, doc="size")
    @dc.component
    class Rule(dc.Grid):
        '''t.'''
    class Plain:
        pass
"""


class Site:
    """A folder with fake installed distributions."""

    def __init__(self, root, monkeypatch):
        self.root = root
        monkeypatch.syspath_prepend(str(root))
        for name in ("DIFFCORE_DISABLE_PLUGINS", "DIFFCORE_PLUGINS", "DIFFCORE_NO_PLUGINS"):
            monkeypatch.delenv(name, raising=False)

    def install(self, dist, init=GOOD, *, id="stepper", version="1.2", entry=None):
        module = dist.replace("-", "_")
        folder, info = self.root / module, self.root / f"{module}-{version}.dist-info"
        folder.mkdir()
        info.mkdir()
        (folder / "__init__.py").write_text(textwrap.dedent(init).replace("{id}", id).replace("{module}", module))
        (folder / "solver.py").write_text(textwrap.dedent(SOLVER))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[diffcore]\n{entry or dist.removeprefix('fake-')} = {module}\n")
        (info / "RECORD").write_text("")
        return module

    def plugin(self, dist):
        (found,) = [p for p in dc.Registry.load().plugins if p.dist == dist]
        return found


@pytest.fixture
def site(tmp_path, monkeypatch):
    before = set(sys.modules)
    yield Site(tmp_path, monkeypatch)
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


def test_a_good_plugin_is_listed_found_and_loaded(site):
    site.install("fake-good")
    registry = dc.Registry.load()
    entry = registry.find("solver", "stepper")
    assert (entry.dist, entry.version, entry.kind, entry.full_id) == ("fake-good", "1.2", "solver", "fake-good/stepper")
    assert registry.find("grid", "fake-good/stepper-grid").kind == "grid"
    cls = registry.get("solver", "stepper")
    assert cls.__name__ == "Step"
    assert registry.id_of(cls) == "stepper"
    plugin = site.plugin("fake-good")
    assert (plugin.status, plugin.api, len(plugin.components)) == ("ok", 1, 2)


HOOK = "import diffcore as dc\nAPI_VERSION = 1\n@dc.hookimpl\ndef diffcore_solvers():\n    "
BROKEN = {
    "import error": ("import no_such_module_here", "broken", "ModuleNotFoundError: No module named 'no_such_module_here'"),
    "exit": ("raise SystemExit(3)", "broken", "SystemExit: 3"),
    "syntax": ("def (:", "broken", "SyntaxError"),
    "zero division": ("API_VERSION = 1 / 0", "broken", "ZeroDivisionError"),
    "no api": ("x = 1", "incompatible", "states no API_VERSION"),
    "other api": ("API_VERSION = 99", "incompatible", "written for api 99, this diffcore has api 1"),
    "misspelt hook": (
        "import diffcore as dc\nAPI_VERSION = 1\n@dc.hookimpl\ndef diffcore_solver():\n    return []",
        "broken",
        "'diffcore_solver' is not a hook of diffcore; did you mean 'diffcore_solvers'?",
    ),
    "undecorated": (
        "API_VERSION = 1\ndef diffcore_solvers():\n    return []",
        "broken",
        "'diffcore_solvers' lacks the @diffcore.hookimpl decorator",
    ),
    "misspelt and undecorated": (
        "API_VERSION = 1\ndef diffcore_sovlers():\n    return []",
        "broken",
        "did you mean 'diffcore_solvers'?",
    ),
    "not a component": (
        HOOK + "yield 'heun'",
        "broken",
        "must yield diffcore.Component(...), got 'heun'",
    ),
    "wrong kind": (
        HOOK + "yield dc.Component('a', 'b:C', kind='loss')",
        "broken",
        "cannot yield a loss ('a'); it carries: solver, grid",
    ),
    "twice": (
        HOOK + "yield from [dc.Component('a', 'b:C')] * 2",
        "broken",
        "yields the solver 'a' twice",
    ),
    "bad target": (
        HOOK + "yield dc.Component('a', 'b.C')",
        "broken",
        "target must be 'module:Class', got 'b.C'",
    ),
    "bad id": (
        HOOK + "yield dc.Component('Bad Id', 'b:C')",
        "broken",
        "Bad Id",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_bad_plugin_is_one_line_and_costs_the_others_nothing(site, fault):
    init, status, cause = BROKEN[fault]
    site.install("fake-bad", init)
    site.install("fake-good")
    plugin = site.plugin("fake-bad")
    assert plugin.status == status
    assert cause in plugin.cause
    assert "\n" not in plugin.cause.strip()
    assert plugin.components == ()
    assert dc.Registry.load().find("solver", "stepper").dist == "fake-good"


@pytest.mark.parametrize("metadata", [None, "", "Metadata-Version: 2.1\nName: ghost\n"], ids=["missing", "empty", "no version"])
def test_an_installation_without_metadata_is_one_broken_plugin(site, metadata):
    site.install("fake-good")
    info = site.root / "ghost-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[diffcore]\nghost = ghost\n")
    if metadata is not None:
        (info / "METADATA").write_text(metadata)
    registry = dc.Registry.load()
    (ghost,) = [p for p in registry.plugins if p.name == "ghost"]
    assert (ghost.status, ghost.dist, ghost.components) == ("broken", "unknown", ())
    assert str(site.root) in ghost.cause
    assert "METADATA" in ghost.cause
    assert registry.find("solver", "stepper").dist == "fake-good"


def test_two_entry_points_of_one_module_are_one_set_of_components(site):
    module = site.install("fake-good")
    info = site.root / f"{module}-1.2.dist-info" / "entry_points.txt"
    info.write_text(info.read_text() + f"again = {module}\n")
    registry = dc.Registry.load()
    assert registry.get("solver", "stepper").__name__ == "Step"
    assert [e.id for e in registry.list("solver")].count("stepper") == 1


def test_a_name_in_the_environment_that_is_no_plugin_is_told(site, monkeypatch):
    site.install("fake-good")
    monkeypatch.setenv("DIFFCORE_DISABLE_PLUGINS", "fake-good,fake-goood")
    monkeypatch.setenv("DIFFCORE_PLUGINS", "good")
    assert list(misnamed(dc.Registry.load().plugins)) == [
        "DIFFCORE_DISABLE_PLUGINS: no plugin or distribution 'fake-goood'; did you mean 'fake-good'? see: diffcore plugins"
    ]


def test_an_unknown_component_names_the_nearest_the_installed_and_the_failed(site):
    site.install("fake-good")
    site.install("fake-bad", BROKEN["import error"][0])
    registry = dc.Registry.load()
    with pytest.raises(dc.UnknownComponentError) as error:
        registry.get("solver", "steper")
    message = str(error.value)
    assert message.startswith(
        "no solver 'steper'; did you mean 'stepper'? not loaded: fake-bad (broken: "
        "ModuleNotFoundError: No module named 'no_such_module_here'); installed: "
    )
    with pytest.raises(dc.UnknownComponentError, match="'stepper' is a solver"):
        registry.get("loss", "stepper")
    with pytest.raises(dc.SpecError, match="no kind 'solvers'; did you mean 'solver'"):
        registry.list("solvers")
    with pytest.raises(dc.SpecError, match="no kind 'zzz'; kinds: process, "):
        registry.make("zzz", "x")


def test_two_distributions_with_one_id_are_settled_by_the_full_id(site):
    site.install("fake-one")
    site.install("fake-two")
    registry = dc.Registry.load()
    with pytest.raises(dc.UnknownComponentError) as error:
        registry.get("solver", "stepper")
    assert str(error.value) == (
        "solver 'stepper' is provided by fake-one and fake-two; write one of fake-one/stepper, fake-two/stepper"
    )
    cls = registry.get("solver", "fake-two/stepper")
    assert cls.__module__ == "fake_two.solver"
    assert registry.id_of(cls) == "fake-two/stepper"


@pytest.mark.parametrize(
    ("variable", "value", "cause"),
    [
        ("DIFFCORE_DISABLE_PLUGINS", "other, fake-good", "disabled by name"),
        ("DIFFCORE_DISABLE_PLUGINS", "good", "disabled by name"),
        ("DIFFCORE_PLUGINS", "other", "not in DIFFCORE_PLUGINS"),
        ("DIFFCORE_NO_PLUGINS", "1", "DIFFCORE_NO_PLUGINS is set"),
    ],
)
def test_the_environment_disables_without_importing(site, monkeypatch, variable, value, cause):
    site.install("fake-good", "raise RuntimeError('imported')")
    monkeypatch.setenv(variable, value)
    plugin = site.plugin("fake-good")
    assert (plugin.status, plugin.cause) == ("disabled", cause)
    assert "fake_good" not in sys.modules
    assert dc.Registry.load().list("trainer"), "the core's own components are always there"


def test_only_the_named_plugins_are_loaded(site, monkeypatch):
    site.install("fake-one")
    site.install("fake-two", id="other")
    monkeypatch.setenv("DIFFCORE_PLUGINS", "one")
    assert site.plugin("fake-one").status == "ok"
    assert site.plugin("fake-two").status == "disabled"
    monkeypatch.delenv("DIFFCORE_PLUGINS")
    loaded = dc.Registry.load(disable=["fake-one"])
    assert {p.dist: p.status for p in loaded.plugins if p.dist.startswith("fake")} == {"fake-one": "disabled", "fake-two": "ok"}


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("fake_good.nothing:Step", "cannot be imported from fake_good.nothing:Step: ModuleNotFoundError"),
        ("fake_good.solver:Stepp", "cannot be imported from fake_good.solver:Stepp: AttributeError"),
        ("fake_good.exits:Step", "cannot be imported from fake_good.exits:Step: SystemExit: 0"),
        ("fake_good.solver:Plain", "is not a class made with @diffcore.component"),
        ("fake_good.solver:Rule", "declared as a solver"),
    ],
)
def test_a_target_that_is_not_what_it_says_names_distribution_and_cause(site, target, cause):
    site.install("fake-good", GOOD.replace("{module}.solver:Step", target))
    (site.root / "fake_good" / "exits.py").write_text("import sys\nsys.exit(0)")
    registry = dc.Registry.load()
    assert registry.find("solver", "stepper")
    with pytest.raises(dc.PluginError) as error:
        registry.get("solver", "stepper")
    assert cause in str(error.value)
    assert "fake-good 1.2" in str(error.value)


def test_a_class_of_a_notebook_can_be_added_and_replaced():
    @dc.component
    class MyOwnStep(dc.Stepper):
        """One line about it."""

    registry = dc.Registry()
    assert registry.add(MyOwnStep) is MyOwnStep
    entry = registry.find("solver", "my-own-step")
    assert (entry.dist, entry.summary) == ("local", "One line about it.")

    @dc.component
    class MyOwnStep(dc.Stepper):
        """The second run of the cell."""

    registry.add(MyOwnStep)
    assert registry.get("solver", "my-own-step") is MyOwnStep
    assert len(registry.list()) == 1
    assert dc.Registry().list() == []
    with pytest.raises(dc.SpecError, match="not a component"):
        registry.add(int)  # type: ignore[arg-type]


def test_a_class_that_is_not_registered_says_how_to():
    @dc.component
    class Stray(dc.Stepper):
        """Nowhere."""

    with pytest.raises(dc.UnknownComponentError, match=r"registry.add\(Stray\) makes it one"):
        dc.Registry().id_of(Stray)


def test_components_are_frozen_checked_and_compared_by_value():
    @dc.component
    class Step(dc.Stepper):
        """x."""

        needs: ClassVar[frozenset[str]] = frozenset()
        size: float = dc.param(default=1.0, gt=0, doc="size")
        rates: tuple[float, ...] = dc.param(default=(0.5,), ge=0, le=1, doc="rates")
        how: str = dc.param(default="a", choices=("a", "b"), doc="how")

    assert Step(size=2.0) == Step(size=2.0)
    assert hash(Step()) == hash(Step())
    with pytest.raises(AttributeError):
        Step().size = 3.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        Step(3)  # type: ignore[misc]
    for fields, message in (
        ({"size": 0.0}, r"'size' of Step must be > 0; got 0.0"),
        ({"rates": (0.5, 1.5)}, r"'rates' of Step must be <= 1; got 1.5"),
        ({"how": "c"}, r"'how' of Step must be one of a, b; got 'c'"),
        ({"steps": 0}, r"'steps' of Step must be >= 1; got 0"),
    ):
        with pytest.raises(dc.SpecError, match=message):
            Step(**fields)


def test_listing_components_and_public_names_imports_no_torch():
    code = """
        import sys, diffcore
        listed = diffcore.Registry.load().list()
        print(len(listed) > 0, set(diffcore.__all__) <= set(dir(diffcore)), 'torch' in sys.modules)
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["True", "True", "False"]
    assert set(dc._WHERE) <= set(dc.__all__)


def test_public_names_are_what_they_say_whatever_is_imported_first():
    """Submodules never hide the functions and classes of the public interface."""
    code = """
        import importlib, pkgutil, types, diffcore
        for info in pkgutil.iter_modules(diffcore.__path__):
            if info.name not in ("__main__",):
                importlib.import_module(f"diffcore.{info.name}")
        hidden = [n for n in diffcore.__all__ if isinstance(getattr(diffcore, n), types.ModuleType)]
        print(hidden)
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_field_that_hides_a_method_is_refused():
    with pytest.raises(dc.SpecError, match="method 'noise' of Hidden has the name of a field of its base class"):

        @dc.component
        class Hidden(dc.AffineProcess):
            """Draws its own."""

            def noise(self, x, draw):
                return x

    with pytest.raises(dc.SpecError, match="field 'draws' of Hides hides the method"):

        @dc.component
        class Hides(dc.Stepper):
            """A solver whose loop would call a number."""

            draws: int = dc.param(default=3, doc="how many")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"requries": frozenset()}, "'requries' of Odd is nothing that a solver declares; did you mean 'requires'?"),
        ({"addititve_noise": True}, "did you mean 'additive_noise'?"),
        ({"ordre": 2}, "did you mean 'order'?"),
        ({"exemple": {}}, "did you mean 'example'?"),
        ({"stochastic": True}, "it declares additive_noise, both_ways, "),
        ({"rate": 0.5}, r"A field is annotated \(rate: float\), a constant of your own is _rate or RATE"),
        ({"__annotations__": {"requries": "ClassVar[frozenset[str]]"}, "requries": frozenset()}, "did you mean 'requires'?"),
        ({"rate": dc.param(default=0.5)}, r"the field 'rate' of Odd has no type: write rate: float = dc.param\(...\)"),
        ({"steps": 50}, r"'steps' of Odd is a field, and a field is annotated: steps: ... = dc.param\(default=...\)"),
        ({"requires": "flat"}, r"'requires' of Odd must be frozenset\[str\]; got 'flat'"),
        ({"requires": {"flat"}}, r"must be frozenset\[str\]; got {'flat'}"),
        ({"requires": frozenset({1})}, r"must be frozenset\[str\]"),
        ({"items": "4.08"}, r"must be tuple\[str, ...\]; got '4.08'"),
        ({"order": "2"}, r"must be int \| None; got '2'"),
        ({"order": True}, r"must be int \| None; got True"),
        ({"additive_noise": 1}, "must be bool; got 1"),
        ({"kind": "solver"}, "'kind' of Odd is set by @dc.kind on the base class of a kind"),
        ({"source": None}, "must be str; got None"),
        ({"variants": ({"a": 1}, 3)}, r"must be tuple\[Mapping\[str, Any\], ...\]"),
    ],
)
def test_a_class_attribute_that_the_kind_does_not_know_is_refused(body, says):
    with pytest.raises(dc.SpecError, match=says):
        dc.component(type("Odd", (dc.Stepper,), {"__module__": __name__, "__doc__": "x.", **body}))


def test_a_misspelt_attribute_of_a_mixin_is_refused_too():
    class Shared(dc.Stepper):
        """Not a component itself."""

        requries = frozenset({"flat"})

    with pytest.raises(dc.SpecError, match="'requries' of Leaf is nothing that a solver declares"):

        @dc.component
        class Leaf(Shared):
            """x."""


def test_what_a_component_may_have_of_its_own():
    """Fields, methods, properties, classes, constants, and names that it declares itself."""

    @dc.component
    class Family(dc.Stepper):
        """x."""

        TABLE = (1, 2)
        _scale = 0.5
        needs: ClassVar[frozenset[str]] = frozenset({"grad"})
        neutral: ClassVar[dict[str, float]] = {"rate": 1.0}
        stages: ClassVar[int] = 2
        order = 2
        rate: float = dc.param(default=0.5)

        class Part:
            """y."""

        @property
        def additive_noise(self):
            return True

        @staticmethod
        def helper():
            return 1

    @dc.component
    class Leaf(Family):
        """x."""

        stages: ClassVar[int] = 3
        steps: int = dc.param(default=50)

    @dc.component
    class OwnSource(dc.Data):
        """x."""

        event, size, classes = (2,), None, {}
        range = dc.Range(lo=0.0, hi=1.0)

    assert OwnSource().value_range == dc.Range(lo=0.0, hi=1.0)
    assert (Leaf().stages, Leaf().steps, Leaf().order, Leaf().TABLE) == (3, 50, 2, (1, 2))


def test_an_absent_component_of_our_own_names_what_brings_it(monkeypatch):
    with pytest.raises(dc.UnknownComponentError) as error:
        dc.Registry().get("network", "mlp")
    assert str(error.value) == "no network 'mlp' installed; it is in diffcore-nets: pip install diffcore-nets"
    bad = dc.Plugin("nets", "diffcore-nets", "1", "diffcore_nets", "broken", cause="ImportError: no torch")
    assert dc.Registry([bad]).remedy("network", "mlp") == "it is in diffcore-nets, which is broken: ImportError: no torch"
    assert dc.Registry().remedy("network", "diffcore-nets/mlp") == "it is in diffcore-nets: pip install diffcore-nets"
    assert dc.Registry().remedy("network", "else/mlp") == dc.Registry().remedy("network", "nothing") == ""
    assert dc.Registry.load().remedy("network", "mlp") == ""


@pytest.mark.parametrize(
    ("kind", "word", "ids"),
    [
        ("solver", "dpm++", {"dpmpp-2m", "dpmpp-2m-sde", "dpmpp-2s"}),
        ("solver", "DPM++ 2M Karras", {"dpmpp-2m"}),
        ("solver", "dpmpp_2m", {"dpmpp-2m"}),
        ("solver", "HEUN", {"heun"}),
        ("solver", "diffcore-solvers/huen", {"heun"}),
        ("metric", "fid", {"frechet"}),
        ("metric", "FID", {"frechet"}),
        ("solver", "zzzzzz", set()),
        ("solver", "", set()),
    ],
)
def test_a_word_is_understood_by_signs_letters_other_tools_and_summaries(kind, word, ids):
    assert set(dc.Registry.load().nearest(kind, word)) == ids


def test_a_message_fits_a_screen_and_acts_on_no_terminal():
    registry = dc.Registry.load()
    for word in ("zzzz", "dpm++", "x" * 10_000, "a\nb\x1b[2J\u202e"):
        with pytest.raises(dc.UnknownComponentError) as error:
            registry.get("solver", word)
        assert len(str(error.value)) < 250
        assert str(error.value).isprintable()
        assert " more: diffcore list solvers" in str(error.value)
    many = [dc.Plugin(f"p{i}", f"d{i}", "1", "m", "broken", cause="x" * 200) for i in range(9)]
    assert "7 more, see: diffcore plugins" in dc.Registry(many).failed()
    off = [dc.Plugin(f"p{i}", f"d{i}", "1", "m", "disabled", cause="by name") for i in range(9)]
    assert dc.Registry(off).failed() == "not loaded: 9 plugins (disabled: by name)"

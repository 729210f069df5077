"""`diffcore new plugin`: what it writes works as it is, for every kind; what cannot be written leaves nothing behind."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import diffcore as dc
from diffcore.cli import main
from diffcore.declare.hookspecs import KINDS
from diffcore.declare.kinds import CORE
from diffcore.run import scaffold
from diffcore.specs.registry import Registry


def new(*arguments: str) -> tuple[int, str]:
    shown = CliRunner().invoke(main, ["new", "plugin", *arguments], catch_exceptions=False)
    return shown.exit_code, shown.output


def install(folder: Path, site: Path) -> None:
    """What an editable install does, read from pyproject.toml: metadata with the entry points, and the folder on the path."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["diffcore"]
    (info / "entry_points.txt").write_text("[diffcore]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """One generated distribution of every kind, and an environment in which all of them are installed."""
    root = tmp_path_factory.mktemp("made")
    for kind in CORE:
        code, said = new(f"my-{kind.replace('_', '-')}", "--kind", kind, "--dir", str(root))
        assert code == 0, said
        install(folder(root, kind), root / "site")
    paths = [root / "site", *(folder(root, kind) for kind in CORE)]
    return root, {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}


def folder(root: Path, kind: str) -> Path:
    return root / f"diffcore-my-{kind.replace('_', '-')}"


def test_every_generated_plugin_passes_its_own_tests(made: tuple[Path, dict[str, str]]):
    root, env = made
    tests = [str(folder(root, kind) / "tests") for kind in CORE]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *tests]
    shown = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout[-4000:]
    assert " passed" in shown.stdout


def test_a_generated_plugin_is_listed_shown_and_conforms(made: tuple[Path, dict[str, str]]):
    root, env = made
    for command in (["list", "solvers"], ["show", "my-solver"], ["conform", "my-solver"]):
        shown = subprocess.run(
            [sys.executable, "-m", "diffcore", *command], env=env, cwd=root, capture_output=True, text=True, check=True
        )
        assert "my-solver" in shown.stdout


@pytest.mark.parametrize("kind", CORE)
def test_nothing_speaks_of_the_template_but_the_places_that_are_named(kind: str, tmp_path: Path):
    """Whoever replaces what the command names publishes no word of the template's method."""
    code, said = new("mine", "--kind", kind, "--dir", str(tmp_path))
    assert code == 0
    made = tmp_path / "diffcore-mine"
    formulas, summary, readme = (path for path, _ in scaffold.places("mine", CORE[kind]))
    assert all(str(made / path) in said for path in (formulas, summary, readme))
    module, _, line = summary.partition(":")
    words = ast.literal_eval((made / module).read_text().splitlines()[int(line) - 1].strip().rstrip(","))
    assert words.casefold() == (made / formulas).read_text().partition("\n")[0].strip('".').casefold()
    assert (made / readme).read_text().splitlines()[-1].startswith("Replace the formulas")
    elsewhere = {path for path in made.rglob("*.*") if path.is_file()} - {made / formulas, made / module}
    assert [path for path in elsewhere if words[:20].casefold() in path.read_text().casefold()] == []


def test_a_planted_error_fails_its_tests(made: tuple[Path, dict[str, str]], tmp_path: Path):
    """The middle of the step taken at the wrong time: still second-order in look, first-order in fact."""
    _, env = made
    assert new("my-slip", "--kind", "solver", "--dir", str(tmp_path))[0] == 0
    source = tmp_path / "diffcore-my-slip" / "diffcore_my_slip" / "my_slip.py"
    right = source.read_text()
    wrong = right.replace("(grid[:-1] + grid[1:]) / 2", "(grid[:-1] + grid[1:]) / 2 * 0.9")
    assert wrong != right
    source.write_text(wrong)
    install(tmp_path / "diffcore-my-slip", tmp_path / "site")
    path = os.pathsep.join([str(tmp_path / "site"), str(tmp_path / "diffcore-my-slip")])
    shown = subprocess.run(
        [sys.executable, "-m", "diffcore", "conform", "my-slip"],
        env={**env, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 1, shown.stdout
    assert "order" in shown.stdout


@pytest.mark.parametrize("kind", CORE)
def test_the_distribution_declares_one_component_of_its_kind(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = f"fresh-{kind.replace('_', '-')}"
    assert new(name, "--kind", kind, "--dir", str(tmp_path))[0] == 0
    install(tmp_path / f"diffcore-{name}", tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / f"diffcore-{name}")
    registry = Registry.load()
    assert registry.find(kind, name).dist == f"diffcore-{name}"
    cls = registry.get(kind, name)
    assert cls.kind == kind
    assert cls.source or kind in ("network", "data", "process")
    assert isinstance(registry.make(kind, name), cls)


@pytest.mark.parametrize("kind", CORE)
def test_the_method_is_short_enough_to_read(kind: str):
    text = scaffold.render("my-method", CORE[kind])["diffcore_my_method/my_method.py"]
    ast.parse(text)
    code = [line for line in text.splitlines() if line.strip()]
    assert len(code) < 60
    assert len(code) < 40 or kind in ("network", "data", "metric")


def test_every_kind_has_a_template_and_every_template_a_kind():
    there = {path.name.removesuffix(".py.in") for path in (Path(dc.__file__).parent / "template" / "kinds").iterdir()}
    assert there == set(CORE) == {kind for kinds in KINDS.values() for kind in kinds}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "lower-case letters"),
        ("My-Solver", "lower-case letters"),
        ("-x", "lower-case letters"),
        ("a--b", "lower-case letters"),
        ("../up", "lower-case letters"),
        ("a/b", "lower-case letters"),
        ("7up", "lower-case letters"),
        ("a" * 61, "60 characters"),
        ("naïve", "lower-case letters"),
        ("lambda", "a word of Python"),
        ("torch", "the name of a Python package"),
        ("json", "the name of a Python package"),
        ("x\n\u202ey", "'x\\n\\u202ey' cannot be the name"),
        ("flow-map", "diffcore/flow-map is installed"),
    ],
)
def test_a_bad_name_is_refused_and_nothing_written(name: str, says: str, tmp_path: Path):
    code, said = new("--kind", "solver", "--dir", str(tmp_path), "--", name)
    assert code == 2
    assert says in said
    assert list(tmp_path.iterdir()) == []


def test_the_prefix_may_be_written(tmp_path: Path):
    assert new("diffcore-x1", "--kind", "grid", "--dir", str(tmp_path))[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["diffcore-x1"]


def test_an_existing_folder_is_left_alone(tmp_path: Path):
    (tmp_path / "diffcore-mine").mkdir()
    (tmp_path / "diffcore-mine" / "work.py").write_text("precious")
    code, said = new("mine", "--kind", "solver", "--dir", str(tmp_path))
    assert code == 2
    assert "exists already" in said
    assert [path.name for path in (tmp_path / "diffcore-mine").iterdir()] == ["work.py"]


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write, count = Path.write_text, iter(range(100))

    def failing(self: Path, *args: object, **kwargs: object) -> int:
        if next(count) == 3:
            raise OSError(28, "No space left on device")
        return write(self, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Path, "write_text", failing)
    with pytest.raises(dc.DiffcoreError, match="No space left on device"):
        scaffold.write_plugin("mine", CORE["solver"], tmp_path, Registry.load())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path: Path):
    (tmp_path / "file").write_text("")
    code, said = new("mine", "--kind", "solver", "--dir", str(tmp_path / "file" / "inside"))
    assert code == 2
    assert "choose another --dir" in said


def test_an_unknown_kind_is_one_message(tmp_path: Path):
    code, said = new("mine", "--kind", "solvr", "--dir", str(tmp_path))
    assert code == 2
    assert "did you mean 'solver" in said


def test_a_generated_command_is_listed_runs_and_passes_its_tests(tmp_path: Path):
    shown = CliRunner().invoke(main, ["new", "command", "count-it", "--dir", str(tmp_path)], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    made = tmp_path / "diffcore-count-it"
    install(made, tmp_path / "site")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(made)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", str(made / "tests")]
    tested = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 passed" in tested.stdout, tested.stdout
    (tmp_path / "spec.yaml").write_text(
        "diffcore: 1\ndata: {type: two-moons}\nprocess: {type: flow}\nnetwork: {type: mlp, width: 16, depth: 1}\n"
        "loss: {type: denoising}\ntrainer: {type: standard, steps: 0}\nsolver: {type: heun}\n"
    )
    command = [sys.executable, "-m", "diffcore", "count-it", "spec.yaml", "--json"]
    said = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    net = dc.assemble(tmp_path / "spec.yaml").net
    assert json.loads(said.stdout)["parameters"] == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("name", "says"), [("sample", "diffcore sample is installed"), ("My-It", "lower-case letters")])
def test_a_bad_name_of_a_command_is_refused(name: str, says: str, tmp_path: Path):
    shown = CliRunner().invoke(main, ["new", "command", name, "--dir", str(tmp_path)])
    assert shown.exit_code == 2
    assert says in shown.stderr
    assert list(tmp_path.iterdir()) == []


KIND = """
import diffcore as dc
API_VERSION = 1

@dc.kind("gauge")
class Gauge(dc.Base):
    "y = f(x)."

@dc.hookimpl
def diffcore_components():
    yield dc.Kind("gauge", "fake_gauges:Gauge", "what is read off", checks="fake_gauges:CHECKS"TEMPLATE)

def positive(subject):
    assert subject.component(-2.0) > 0, "f(x) <= 0"

CHECKS = (positive,)
"""
METHOD = '''"""The size."""

import diffcore as dc
import fake_gauges


@dc.component
class $cls(fake_gauges.Gauge):
    """y = |x|."""

    def __call__(self, x: float) -> float:
        """y."""
        return abs(x)
'''


@pytest.mark.parametrize("brings", [True, False])
def test_a_plugin_of_a_kind_of_a_plugin(brings: bool, tmp_path: Path):
    """With the method that its distribution brings it passes the checks of the kind; without one it is an empty class."""
    site = tmp_path / "site"
    (site / "fake_gauges").mkdir(parents=True)
    text = KIND.replace("TEMPLATE", ', template="fake_gauges:gauge.py.in"' if brings else "")
    (site / "fake_gauges" / "__init__.py").write_text(text)
    (site / "fake_gauges" / "gauge.py.in").write_text(METHOD)
    (site / "fake_gauges-3.1.dist-info").mkdir()
    (site / "fake_gauges-3.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-gauges\nVersion: 3.1\n")
    (site / "fake_gauges-3.1.dist-info" / "entry_points.txt").write_text("[diffcore]\ngauges = fake_gauges\n")
    made = tmp_path / "diffcore-my-gauge"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(made)]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "diffcore", "new", "plugin", "my-gauge", "--kind", "gauges", "--dir", str(tmp_path)]
    subprocess.run(words, env=env, check=True, capture_output=True)
    install(made, site)
    assert '"fake-gauges>=3.1"' in (made / "pyproject.toml").read_text()
    words = [sys.executable, "-m", "diffcore", "conform", "my-gauge", "--json"]
    shown = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    told = json.loads(shown.stdout)
    failed = [outcome["check"] for outcome in told["outcomes"] if outcome["status"] == "failed"]
    assert failed == ([] if brings else ["positive"])

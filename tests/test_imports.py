"""Which module may import which. Every module and plugin that is in the repository is held by these rules from its first day."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/diffcore_*/__init__.py"))
LAYERS = ("declare", "specs", "numerics", "learning", "run", "cli")
"""The lowest first. Beside them: `testing`, which may import all but the command line, `builtin`, which declares, and `commands`,
which shows plugins the helpers of commands."""
PUBLIC = {"diffcore", "diffcore.commands", "diffcore.testing"}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("diffcore", *PLUGINS, exclude_type_checking_imports=True, cache_dir=None)


@pytest.fixture(scope="module")
def annotated():
    """With what is imported for annotations only."""
    return grimp.build_graph("diffcore", *PLUGINS, cache_dir=None)


def imports(graph):
    return [(a, b) for a in sorted(graph.modules) for b in sorted(graph.find_modules_directly_imported_by(a))]


def distribution(module):
    return module.partition(".")[0]


def layer(module):
    """The place of a module among the layers; -1 where it is in none."""
    name = ".".join(module.split(".")[1:2])
    return LAYERS.index(name) if name in LAYERS else -1


def cycles(graph):
    """The modules that import themselves by way of others."""
    return [m for m in sorted(graph.modules) if any(graph.chain_exists(n, m) for n in graph.find_modules_directly_imported_by(m))]


def test_every_module_of_the_core_is_in_a_layer(graph):
    free = {m for m in graph.modules if distribution(m) == "diffcore" and layer(m) < 0 and not m.startswith("diffcore.testing")}
    assert free == {"diffcore", "diffcore.__main__", "diffcore.builtin", "diffcore.commands"}


def test_the_core_imports_no_plugin(annotated):
    assert [pair for pair in imports(annotated) if distribution(pair[0]) == "diffcore" != distribution(pair[1])] == []


def test_plugins_import_public_names_of_the_core_only(annotated):
    own = [(a, b) for a, b in imports(annotated) if distribution(a) in PLUGINS and distribution(b) != distribution(a)]
    assert [pair for pair in own if pair[1] not in PUBLIC] == []
    assert {distribution(a) for a, _ in own} == set(PLUGINS)


def test_arrows_point_down(graph):
    wrong = [(a, b) for a, b in imports(graph) if layer(b) > layer(a) >= 0]
    assert wrong == []
    assert [(a, b) for a, b in imports(graph) if a.startswith("diffcore.testing") and b.startswith("diffcore.cli")] == []
    users = {a for a, b in imports(graph) if layer(a) >= 0 and b.startswith("diffcore.testing")}
    assert users == {"diffcore.cli.conform"}


def test_no_module_imports_itself_by_way_of_others(graph):
    assert cycles(graph) == []


def test_a_slip_is_found():
    """Each rule, on a graph with one wrong arrow of each kind."""
    bad = grimp.ImportGraph()
    arrows = [
        ("diffcore.numerics.tree", "diffcore.run.spec"),
        ("diffcore.run.spec", "diffcore.numerics.tree"),
        ("diffcore.declare.errors", "diffcore_dpm"),
        ("diffcore_dpm.span", "diffcore.numerics.tree"),
        ("diffcore_dpm.span", "diffcore_solvers.steps"),
    ]
    for a, b in arrows:
        bad.add_import(importer=a, imported=b)
    assert cycles(bad) == ["diffcore.numerics.tree", "diffcore.run.spec"]
    rules = (
        test_the_core_imports_no_plugin, test_plugins_import_public_names_of_the_core_only, test_arrows_point_down,
        test_no_module_imports_itself_by_way_of_others, test_every_module_of_the_core_is_in_a_layer,
    )  # fmt: skip
    for rule in rules:
        with pytest.raises(AssertionError):
            rule(bad)

"""`show`: what it says of every installed component is true."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

import diffcore as dc
from diffcore.cli import main
from diffcore.cli.show import describe
from diffcore.specs import parse, structure

REGISTRY = dc.Registry.load()
ENTRIES = REGISTRY.list()
WHERE = {"metric": "metrics", "grid": "solver", "weighting": "loss", "time_law": "loss", "coupling": "loss", "noise": "process"}


def made(entry: dc.Entry) -> Any:
    cls = REGISTRY.get(entry.kind, entry.full_id)
    return REGISTRY.make(entry.kind, entry.full_id, **cls.example)


@pytest.fixture(params=ENTRIES, ids=lambda e: f"{e.kind}-{e.id}")
def entry(request: pytest.FixtureRequest) -> dc.Entry:
    return request.param


def test_every_field_is_shown_with_its_default_and_bounds(entry: dc.Entry):
    told = {f["name"]: f for f in describe(REGISTRY, entry.full_id, entry.kind)["fields"]}
    fields = {a.name: a for a in attrs.fields(REGISTRY.get(entry.kind, entry.full_id)) if a.init}  # pyright: ignore[reportArgumentType]
    assert list(told) == list(fields)
    for name, attribute in fields.items():
        assert told[name]["required"] == (attribute.default is attrs.NOTHING)
        assert told[name]["doc"] == attribute.metadata["doc"]
        for bound in ("gt", "ge", "lt", "le"):
            assert told[name]["bounds"].get(bound) == attribute.metadata.get(bound)


def test_the_example_is_the_component(entry: dc.Entry):
    shown = describe(REGISTRY, entry.full_id, entry.kind)["example"]
    node = parse(shown).children[WHERE.get(entry.kind, entry.kind)]
    if isinstance(node.value, list):
        node = node.children["0"]
    elif entry.kind in WHERE:
        node = node.children[entry.kind]
    assert structure(REGISTRY, entry.kind, node) == made(entry)


def test_it_prints_and_is_json(entry: dc.Entry):
    words = [entry.full_id, "--kind", entry.kind]
    text = CliRunner().invoke(main, ["show", *words], catch_exceptions=False)
    assert text.stdout.startswith(f"{entry.kind} {entry.id} ")
    told = CliRunner().invoke(main, ["show", *words, "--json"], catch_exceptions=False)
    assert json.loads(told.stdout)["full_id"] == entry.full_id


@pytest.mark.parametrize("kind", ["solver", "grid", "guidance", "loss", "flow_map"])
def test_what_fits_is_what_the_core_lets_through(kind: str):
    """For every process, the components said to fit are those that a field of the process accepts."""
    flow_map = next((made(e) for e in REGISTRY.list("flow_map")), None)
    for process_entry in REGISTRY.list("process"):
        process = made(process_entry)
        prediction = "velocity" if "velocity" in process.predictions else process.predictions[0]
        field = dc.Field(dc.Denoiser(lambda x, t: x, prediction, process), flow_map=flow_map or object())  # pyright: ignore[reportArgumentType]
        accepted = [e.id for e in REGISTRY.list(kind) if accepts(field, made(e))]
        assert describe(REGISTRY, process_entry.full_id, "process")["fits"][kind] == accepted
        for e in REGISTRY.list(kind):
            shown = describe(REGISTRY, e.full_id, kind)["fits"]["process"]
            assert (process_entry.id in shown) == (e.id in accepted)


def accepts(field: dc.Field, part: Any) -> bool:
    try:
        field.check(part)
    except dc.IncompatibleError:
        return False
    return True


@dc.component
class Picky(dc.Stepper):
    """Needs what no process here has."""

    requires = frozenset({"a-new-capability"})


def test_a_component_that_fits_nothing_says_so():
    registry = dc.Registry.load()
    registry.add(Picky)
    told = describe(registry, "picky")
    assert told["declares"]["requires"] == {"a-new-capability"}
    assert told["fits"]["process"] == []
    assert "picky" not in describe(registry, "flow")["fits"]["solver"]
    assert "picky" in describe(registry, "karras")["fits"]["solver"]


def test_a_grid_names_what_it_can_stand_in():
    told = describe(REGISTRY, "uniform", "grid")["fits"]
    assert set(told["solver"]) == {e.id for e in REGISTRY.list("solver")}


def test_an_id_of_several_kinds_asks_which():
    shown = CliRunner().invoke(main, ["show", "edm"])
    assert shown.exit_code == 2
    assert "--kind process or --kind weighting" in shown.stderr
    assert CliRunner().invoke(main, ["show", "edm", "--kind", "weightings"]).exit_code == 0

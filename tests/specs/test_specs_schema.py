"""The JSON Schema takes what the checker takes, and refuses what it refuses."""

from __future__ import annotations

import json

import jsonschema
import pytest

import diffcore as dc
from diffcore.declare.kinds import CORE
from diffcore.run.spec import Spec
from diffcore.specs import schema, structure

GOOD = [
    ("solver", {"type": "heun"}),
    ("solver", {"type": "local/heun", "steps": 3, "churn": 0.5, "final": False, "grid": {"type": "karras", "rho": 3}}),
    ("solver", {"type": "euler", "grid": None}),
    ("metric", {"type": "everything", "count": 1}),
    ("metric", {"type": "everything", "count": 1, "mode": 2, "seeds": [], "pair": [1, "b"], "table": {"x": 1}, "label": "x"}),
    ("metric", {"type": "everything", "count": 1, "window": {"lo": -1, "hi": 1}, "grids": [{"type": "custom", "times": [1, 0]}]}),
    ("metric", {"type": "everything", "count": 1, "deep": {"k": [[1.5], []]}, "maybe": None, "order": 3}),
    ("guidance", {"type": "nest", "inner": {"type": "nest", "inner": {"type": "fragile"}}}),
    ("guidance", {"type": "needs-affine", "process": {"type": "square"}}),
]

BAD = [
    ("solver", {}),
    ("solver", "heun"),
    ("solver", {"type": "huen"}),
    ("solver", {"type": "karras"}),
    ("solver", {"type": "heun", "stpes": 1}),
    ("solver", {"type": "euler", "churn": 0.0}),
    ("solver", {"type": "heun", "steps": 0}),
    ("solver", {"type": "heun", "steps": 2.5}),
    ("solver", {"type": "heun", "steps": "3"}),
    ("solver", {"type": "heun", "steps": True}),
    ("solver", {"type": "heun", "steps": None}),
    ("solver", {"type": "heun", "churn": 1}),
    ("solver", {"type": "heun", "churn": -0.1}),
    ("solver", {"type": "heun", "final": "false"}),
    ("solver", {"type": "heun", "final": 0}),
    ("solver", {"type": "heun", "grid": {"type": "heun"}}),
    ("solver", {"type": "heun", "grid": {"type": "karras", "rho": 0}}),
    ("solver", {"type": "heun", "grid": {"type": "custom", "times": [1, -1]}}),
    ("solver", {"type": "heun", "grid": {"type": "custom", "times": 1}}),
    ("metric", {"type": "everything"}),
    ("metric", {"type": "everything", "count": 1, "mode": "quick"}),
    ("metric", {"type": "everything", "count": 1, "order": 4}),
    ("metric", {"type": "everything", "count": 1, "maybe": -1}),
    ("metric", {"type": "everything", "count": 1, "pair": [1]}),
    ("metric", {"type": "everything", "count": 1, "pair": ["a", 1]}),
    ("metric", {"type": "everything", "count": 1, "pair": [1, "a", 2]}),
    ("metric", {"type": "everything", "count": 1, "table": {"x": "y"}}),
    ("metric", {"type": "everything", "count": 1, "window": {"lo": 1}}),
    ("metric", {"type": "everything", "count": 1, "window": {"lo": 1, "hi": 2, "type": "window"}}),
    ("metric", {"type": "everything", "count": 1, "windows": {}}),
    ("metric", {"type": "everything", "count": 1, "label": 1.5}),
    ("metric", {"type": "everything", "count": 1, "grid": None}),
    ("metric", {"type": "everything", "count": 1, "deep": {"k": [1]}}),
    ("guidance", {"type": "nest", "inner": {"type": "nest", "inner": {"type": "cfg"}}}),
    ("guidance", {"type": "needs-affine", "process": {"type": "jump"}}),
    ("guidance", {"type": "needs-affine"}),
]


def is_valid(registry, kind, value):
    return jsonschema.Draft7Validator(schema(registry, kind)).is_valid(value)


@pytest.mark.parametrize(("kind", "value"), GOOD)
def test_good(registry, kind, value):
    structure(registry, kind, value)
    assert is_valid(registry, kind, value)


@pytest.mark.parametrize(("kind", "value"), BAD)
def test_bad(registry, kind, value):
    with pytest.raises(dc.SpecError):
        structure(registry, kind, value)
    assert not is_valid(registry, kind, value)


def test_it_is_a_schema_of_draft_7_in_strict_json(registry):
    for kind in (Spec, *CORE):
        made = schema(registry, kind)
        jsonschema.Draft7Validator.check_schema(made)
        assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_it_documents_the_fields(registry):
    heun = schema(registry, "solver")["definitions"]["solver.local.heun"]
    assert heun["description"] == "The second toy."
    assert heun["properties"]["churn"] == {
        "type": "number", "minimum": 0, "exclusiveMaximum": 1, "default": 0.0, "description": "noise [of sigma]",
    }  # fmt: skip
    assert heun["required"] == ["type"]
    assert heun["additionalProperties"] is False
    everything = schema(registry, "metric")["definitions"]["metric.local.everything"]
    assert everything["properties"]["grid"]["default"] == {"type": "karras", "rho": 3.0}
    assert everything["required"] == ["type", "count"]
    assert "default" not in everything["properties"]["count"], "what is required has none"


def test_a_whole_spec(registry):
    whole = jsonschema.Draft7Validator(schema(registry, Spec))
    sections = {"solver": {"type": "heun"}, "process": {"type": "square"}}
    messages = "; ".join(error.message for error in whole.iter_errors({"diffcore": 1, **sections, "sovler": 1}))
    assert "'sovler' was unexpected" in messages
    assert "'data' is a required property" in messages
    assert any("'diffcore' is a required property" in error.message for error in whole.iter_errors(sections))
    assert whole.is_valid({"extends": "base.yaml", "diffcore": 1, "solver": {"steps": 3}}), "the rest may be in the other file"
    assert not whole.is_valid({"extends": "base.yaml", "sovler": {"steps": 3}})
    assert not whole.is_valid({"extends": 3})


def test_a_component_that_cannot_be_imported_is_left_out_and_named(registry):
    entries = tuple(dc.Entry(name, "solver", f"no_such_module:{name}", "", "diffcore-gone", "1.2") for name in ("gone",))
    broken = dc.Registry([dc.Plugin("gone", "diffcore-gone", "1.2", "no_such_module", "ok", components=entries)])
    made = schema(broken, "solver")
    assert made["description"].startswith("a solver; given by its type; solver 'gone' of diffcore-gone 1.2 cannot be imported")
    assert not jsonschema.Draft7Validator(made).is_valid({"type": "gone"})


def test_two_distributions_with_one_id(toys):
    def plugin(dist):
        return dc.Plugin(
            dist, dist, "1", "m", "ok", components=(dc.Entry("heun", "solver", f"{toys.Heun.__module__}:Heun", "", dist, "1"),)
        )

    both = dc.Registry([plugin("diffcore-a"), plugin("diffcore-b")])
    for name, good in {"heun": False, "diffcore-a/heun": True, "diffcore-b/heun": True}.items():
        assert is_valid(both, "solver", {"type": name}) is good

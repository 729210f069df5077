"""Components to plain values and YAML, and back to equal ones; random specs are read or refused, never anything else."""
# ruff: noqa: E501  tables of odd texts

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import diffcore as dc
from diffcore.declare.kinds import CORE
from diffcore.run.sections import load_spec
from diffcore.specs import SpecErrors, dump, parse, roundtrip, structure, unstructure

SETTINGS = settings(
    max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None
)
NO_SHRINK = [phase for phase in Phase if phase is not Phase.shrink]  # it takes minutes where so much is drawn

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["on", "1e-3", "~", "null", "Null", "TRUE", "false", "y", "NaN", "2024-01-01", "12:30", "<<", "=", "- a", "a: b", "#x", "${env:HOME}", "$${", "", " ", "\n", "\u2028", "\x85", "\ufeff"]
)  # fmt: skip
FLOATS = st.floats(-1e30, 1e30)
POSITIVE = st.floats(1e-30, 1e30)
INTEGERS = st.integers(-(2**63), 2**63 - 1)


def instances(toys):
    window = st.builds(toys.Window, lo=FLOATS, hi=POSITIVE)
    grid = st.builds(toys.Karras, rho=POSITIVE) | st.builds(toys.Custom, times=st.lists(FLOATS.map(abs), max_size=4).map(tuple))
    return st.builds(
        toys.Everything,
        count=st.integers(1, 2**63 - 1),
        flag=st.booleans(),
        rate=FLOATS,
        name=TEXTS,
        maybe=st.none() | FLOATS.map(abs),
        mode=st.sampled_from(["fast", "slow", 2]),
        order=st.integers(1, 3),
        seeds=st.lists(INTEGERS, max_size=4).map(tuple),
        pair=st.tuples(FLOATS, TEXTS),
        table=st.dictionaries(TEXTS, INTEGERS, max_size=3),
        window=st.none() | window,
        windows=st.lists(window, max_size=2).map(tuple),
        default_window=window,
        grid=grid,
        grids=st.lists(grid, max_size=2).map(tuple),
        label=INTEGERS | TEXTS,
        deep=st.dictionaries(TEXTS, st.lists(st.lists(FLOATS, max_size=2).map(tuple), max_size=2).map(tuple), max_size=2),
    )


def test_a_key_with_a_dollar_comes_back(registry, toys):
    """Text is filled in where it is read, keys are not: only text is escaped."""
    made = toys.Everything(count=1, table={"${env:HOME}": 1, "$${": 2}, name="${x")
    assert structure(registry, "metric", unstructure(registry, made)) == made


@settings(SETTINGS, phases=NO_SHRINK, max_examples=60)
@given(data=st.data())
def test_everything_comes_back(registry, toys, data):
    made = data.draw(instances(toys))
    assert structure(registry, "metric", unstructure(registry, made)) == made
    assert roundtrip(registry, made) == made
    assert repr(roundtrip(registry, made)) == repr(made), "1 is not 1.0, -0.0 is not 0.0"


def test_nothing_is_dropped_and_the_type_is_first(registry, toys):
    plain = unstructure(registry, toys.Heun(steps=4, grid=toys.Karras(rho=2.0)))
    assert plain == {"type": "heun", "steps": 4, "grid": {"type": "karras", "rho": 2.0}, "churn": 0.0, "final": True}
    assert list(plain) == ["type", "steps", "grid", "churn", "final"]
    assert dump(registry, toys.Custom(times=(1.0, 0.5))) == "type: custom\ntimes: [1.0, 0.5]\n"


def test_a_class_that_is_not_registered(toys):
    with pytest.raises(dc.UnknownComponentError, match="is not a registered component"):
        unstructure(dc.Registry(), toys.Karras())


# Random texts and random changes of a good tree.

PIECES = ["a", "type", "heun", "karras", "steps", ": ", ":", "\n", "\n  ", "\n- ", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "<<", "!", "!!int ",
          "'", '"', "|", ">", "#", "%YAML 1.2\n", "---\n", "...\n", "\t", "?", "1", "-1", "1e9", ".nan", "~", "true", "\\", "\0", "é", "\U0001f600", "${env:X}"]  # fmt: skip


def read_or_refuse(call, *args):
    try:
        return call(*args)
    except SpecErrors as error:
        json.dumps([str(error), error.as_dicts()])
        return None


@settings(SETTINGS, max_examples=300)
@given(text=st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=60))
def test_any_text_is_read_or_refused(registry, text):
    read_or_refuse(lambda: structure(registry, "metric", parse(text)))
    read_or_refuse(lambda: structure(registry, "solver", parse(f"type: heun\n{text}\n")))
    read_or_refuse(load_spec, f"diffcore: 1\n{text}\n", registry)
    read_or_refuse(load_spec, {"solver": {"type": "heun"}}, registry, [text, f"solver.{text}", f"solver.steps={text}"])


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.sampled_from(["heun", "karras", "everything", "nest"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "steps", "grid", "rho", "count", "window", "lo", "inner"]) | TEXTS, inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(SETTINGS, max_examples=300)
@given(data=st.data(), name=st.sampled_from(["count", "rate", "name", "maybe", "mode", "seeds", "pair", "table", "window", "windows", "grid",
                                             "grids", "label", "deep", "default_window", "order", "flag", "other"]))  # fmt: skip
def test_any_value_of_any_field_is_taken_as_it_is_or_refused(registry, data, name):
    value = data.draw(PLAIN)
    made = read_or_refuse(structure, registry, "metric", {"type": "everything", "count": 1, name: value})
    if made is not None:
        again = unstructure(registry, made)[name]
        assert unstructure(registry, getattr(made, name)) == again
        if not isinstance(value, (dict, list, str)):
            assert again == value
            assert isinstance(again, bool) == isinstance(value, bool)
            assert isinstance(again, str) == isinstance(value, str)


@SETTINGS
@given(value=PLAIN)
def test_any_mapping_is_a_component_or_refused(registry, value):
    for kind in CORE:
        read_or_refuse(structure, registry, kind, value if isinstance(value, dict) else {"type": value})


def test_the_deepest_spec_that_is_read_comes_back(registry):
    text = "{type: nest" + ", inner: {type: nest" * 61 + "}" * 62
    made = structure(registry, "guidance", parse(text))
    assert roundtrip(registry, made) == made

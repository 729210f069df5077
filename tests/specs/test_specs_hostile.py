"""Thousands of damaged specs: each is sound or refused with a place, and nothing else is ever raised."""
# ruff: noqa: E501  tables of odd values

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import diffcore as dc
from diffcore.run.sections import load_spec, refuse_unknown
from diffcore.run.spec import SECTIONS
from diffcore.specs import SpecErrors

ROOT = Path(__file__).parents[2]
REGISTRY = dc.Registry.load()
TEXTS = {path.name: path.read_text() for path in sorted((ROOT / "examples").glob("*.yaml"))}
TREES = {name: YAML(typ="safe").load(text) for name, text in TEXTS.items() if "extends" not in text}
DEEP: Any = {"type": "x"}
for _ in range(80):
    DEEP = {"type": "cfg", "inner": DEEP}
VALUES = (
    None, True, False, 0, -1, 1, 3, 0.5, -0.0, 10**9, 10**30, -(10**400), 1e308, 1e-308, float("inf"), float("-inf"), float("nan"),
    "", " ", "~", "null", "x", "euler", "heun", "karras", "\u202e\x1b[31m", "a\nb:1:1: c", "x" * 5000, "${", "${env:NOT_THERE}", "../..", "\0",
    [], [[]], ["x"], [None], [1, "x", None], [{"type": "x"}], {}, {"a": 1}, {"type": None}, {"type": ["x"]}, {"type": {"a": 1}},
    {"type": {"type": {"type": "x"}}}, {"type": "euler"}, {"type": "karras"}, {"type": "diffcore-solvers/heun"}, {"type": "a/b/c"},
    {"": 1}, {"type": "heun", "grid": {"type": ["x"]}}, DEEP, b"bytes", {1, 2}, object(), (1, 2), 1j,
)  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a tree something may be changed."""
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield (*path, key)
        yield from places(tree[key], (*path, key))


def mutated(tree: Any, rng: random.Random) -> Any:
    """A tree with one to three places deleted, replaced, swapped, nested, renamed or added to."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 3)):
        found = list(places(tree))
        *above, last = rng.choice(found)
        *other, end = rng.choice(found)
        holder, donor = at(tree, above), at(tree, other)
        how = rng.choice(("delete", "value", "value", "value", "type", "swap", "nest", "rename", "add"))
        if how == "delete":
            del holder[last]
        elif how == "swap":
            holder[last] = copy.deepcopy(donor[end])
        elif how == "nest":
            holder[last] = rng.choice(([holder[last]], {"type": holder[last]}, {last: holder[last]}))
        elif how == "rename" and isinstance(holder, dict):
            holder[rng.choice((f"{last}x", last[::-1] if isinstance(last, str) else "k", *SECTIONS))] = holder.pop(last)
        elif how == "add" and isinstance(holder, dict):
            holder[rng.choice((*SECTIONS, "type", "grid", "steps", "weighting", "range"))] = rng.choice(VALUES)
        elif how == "type" and isinstance(holder[last], dict):
            holder[last]["type"] = rng.choice((*VALUES, *(entry.id for entry in REGISTRY.list())))
        else:
            holder[last] = rng.choice(VALUES)
    return tree


def at(tree: Any, path: Any) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def refused(call: Any, *args: Any) -> bool:
    """Whether a call refuses what it is given, well: with faults that are each one line, say where, and can be printed."""
    try:
        call(*args)
    except SpecErrors as error:
        for fault in error.faults:
            assert str(fault).isprintable()
            assert fault.path or fault.file
        return True
    return False


@pytest.mark.parametrize("name", TREES)
def test_a_damaged_tree_is_sound_or_refused(name: str):
    rng = random.Random(name)
    outcomes = [refused(load_spec, mutated(TREES[name], rng), REGISTRY) for _ in range(80)]
    assert sum(outcomes) > 45, "most changes are faults"


@pytest.mark.parametrize("name", ["two-moons.yaml", "digits-unconditional.yaml"])
def test_what_stands_of_a_damaged_spec_is_looked_at_without_a_trace(name: str):
    rng = random.Random(name)
    small = {**TREES[name], "network": {"type": "mlp", "width": 8, "depth": 1}, "data": {"type": "two-moons"}, "metrics": []}
    for _ in range(40):
        refused(lambda tree: dc.assemble(tree, registry=REGISTRY), mutated(small, rng))


def test_a_damaged_text_is_sound_or_refused(tmp_path: Path):
    rng = random.Random(0)
    for text in TEXTS.values():
        for _ in range(5):
            start, end = sorted(rng.randrange(len(text)) for _ in range(2))
            junk = "".join(rng.choice("{}[]:,&*!|>'\"%@`#-?~ \t\n\0\u2028é\U0001f600a1.") for _ in range(rng.randint(0, 6)))
            refused(load_spec, text[:start] + junk + text[rng.choice((start, start + 1, end)) :] + "\n", REGISTRY)


@pytest.mark.parametrize("path", ["solver", "solver.grid", "loss.weighting", "guidance", "guidance.0", "flow_map", "metrics.0", "evaluation.solvers", "trainer", "data", "sampling", "init", "name"])  # fmt: skip
def test_every_value_in_every_section_by_an_override(path: str):
    text = TEXTS["two-moons.yaml"]
    for value in (
        "[x]",
        "{a: 1}",
        "{type: [x]}",
        "{type: {a: 1}}",
        "null",
        "3",
        ".inf",
        "[" * 70,
        "{type: heun, grid: {type: [[]]}}",
    ):
        refused(load_spec, text, REGISTRY, [f"{path}={value}"])
        refused(refuse_unknown, text, REGISTRY, [f"{path}.type={value}"])

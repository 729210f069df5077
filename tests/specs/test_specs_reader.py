"""YAML 1.2 core with positions; every hostile text is one clear error."""

from __future__ import annotations

import math

import pytest

from diffcore.declare.errors import SpecError
from diffcore.specs import SpecErrors, parse
from diffcore.specs.reader import MAX_CHARS
from diffcore.specs.tree import Node


def plain(node: Node):
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return {k: plain(v) for k, v in node.value.items()} if isinstance(node.value, dict) else node.value


@pytest.mark.parametrize(
    ("text", "value"),
    [  # YAML 1.2.2, section 10.3.2, and what YAML 1.1 makes of it otherwise
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("-2E+3", -2000.0),
        ("+12", 12),
        ("010", 10),
        ("0o17", 15),
        ("0xfF", 255),
        ("-.inf", -math.inf),
        (".Inf", math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("NULL", None),
        *[
            (text, text)
            for text in (
                "on",
                "no",
                "Yes",
                "y",
                "tRUE",
                "nULL",
                "12:30",
                "1_000",
                "0b1",
                "2024-01-01",
                "e3",
                ".",
                "1e",
                "inf",
                "nan",
            )
        ],
    ],
)
def test_core_schema(text, value):
    node = parse(f"a: {text}\n").value["a"]
    assert (node.value, type(node.value)) == (value, type(value))
    assert parse(f"a: '{text}'\n").value["a"].value == text
    assert parse(f'a: "{text}"\n').value["a"].value == text


def test_nan_is_read():
    assert math.isnan(parse("a: .nan").value["a"].value)


def test_every_key_value_and_item_has_its_place():
    tree = parse("# comment\nsolver:\n  type: heun\n  times: [1, \n     2]\n  more:\n  - a\n  - {b: c}\n")
    solver = tree.value["solver"]
    places = {name: (node.key.line, node.key.column, node.mark.line, node.mark.column) for name, node in solver.value.items()}
    assert (solver.key.line, solver.key.column, solver.mark.line, solver.mark.column) == (2, 1, 3, 3)
    assert places == {"type": (3, 3, 3, 9), "times": (4, 3, 4, 10), "more": (6, 3, 7, 3)}
    assert [(n.mark.line, n.mark.column) for n in solver.value["times"].value] == [(4, 11), (5, 6)]
    assert [(n.mark.line, n.mark.column) for n in solver.value["more"].value] == [(7, 5), (8, 5)]


def test_anchors_and_merge_keys():
    tree = parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [{x: 9}, *a], z: 4}\nd: *a\ne: {'<<': 5}\n")
    assert plain(tree) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 9, "y": 2, "z": 4},
        "d": {"x": 1, "y": 2},
        "e": {"<<": 5},
    }
    assert tree.value["b"].value["x"].mark.line == 1, "a merged value is written where its anchor is"


def test_all_soft_faults_in_one_go():
    with pytest.raises(SpecErrors) as caught:
        parse("a: 1\nb: {c: 1, c: 2}\na: 3\n1: 2\n? [x]\n: 2\ne: !!python/object:os.system x\nf: 1e999\n~: 3\n", "s.yaml")
    assert [str(fault) for fault in caught.value.faults] == [
        "s.yaml:2:11: b.c: the key is already on line 2; keep one",
        "s.yaml:3:1: a: the key is already on line 1; keep one",
        "s.yaml:4:1: keys are text; got 1: put it in quotes",
        "s.yaml:5:3: keys are text; got a list of 1: put it in quotes",
        "s.yaml:7:4: e: the tag !!python/object:os.system is not allowed: a spec is plain data; write the value without it",
        "s.yaml:8:4: f: the number 1e999 is out of range",
        "s.yaml:9:1: keys are text; got null: put it in quotes",
    ]


HOSTILE = {
    "ten megabytes": "a: 1\n" * 2_000_000,
    "billion laughs": "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)),
    "merge bomb": "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{l: *a{i - 1}, r: *a{i - 1}}}\n" for i in range(1, 30)),
    "deep by aliases": "a0: &a0 " + "[" * 40 + "]" * 40 + "\na1: " + "[" * 40 + "*a0" + "]" * 40,
    "refers to itself": "a: &a [*a]",
    "brackets": "[" * 100_000,
    "braces": "{a: " * 30_000,
    "dashes": "- " * 60_000,
    "questions": "? " * 60_000,
    "many values": "[" + "1," * 60_000 + "]",
    "python object": "a: !!python/object/apply:os.system ['true']",
    "local tag": "a: !env X",
    "verbatim tag": "a: !<tag:x,2000:y> 1",
    "tag directive": "%TAG ! tag:x,2000:\n---\na: 1",
    "old version": "%YAML 1.1\n---\na: 1",
    "null byte": "a: 1\nb: \0",
    "control character": "a: \x07",
    "lone surrogate": 'a: "\\ud800"',
    "surrogate itself": "a: \ud800",
    "character out of range": 'a: "\\UFFFFFFFF"',
    "number of 9999 digits": "a: " + "9" * 9999,
    "two documents": "a: 1\n---\nb: 1",
    "unclosed": "a: [1, 2\nb: 3",
    "unclosed quote": "a: 'x\nb: 1",
    "tab": "a:\n\t- 1",
    "colon": "a: b: c",
    "at sign": "a: @x",
    "bad anchor": "a: *nowhere",
    "scalar merge": "a: {<<: 3}",
    "long key": "x" * 5000 + ": 1",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(20)
def test_hostile_text_is_one_error(name):
    with pytest.raises(SpecErrors) as caught:
        parse(HOSTILE[name])
    assert len(caught.value.faults) == 1
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable() or "\n" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\t- 1", "<text>:2:1: not YAML: a tab cannot indent: use spaces"),
        ("a: b: c", "<text>:1:5: not YAML: a ':' cannot stand here: check the indentation, or put the text in quotes"),
        ("a: [1, 2\nb: 3", "<text>:2:2: not YAML: a '[' is not closed, or a ',' is missing (it begins on line 1)"),
        ("a: 1\nb: \0", "<text>:2:4: the character U+0000 is not allowed in YAML"),
        ("a: *b", "<text>:1:4: a: '*b' has no anchor '&b' above it"),
        ("a: 1\n---\nb: 1", "<text>:2:1: a second document begins here; a spec is one document"),
    ],
)
def test_messages_of_broken_syntax(text, message):
    with pytest.raises(SpecErrors) as caught:
        parse(text)
    assert str(caught.value.faults[0]) == message


def test_the_line_is_shown_with_a_caret():
    with pytest.raises(SpecError, match="already") as caught:
        parse("a: 1\n\tb: 2\n".replace("\t", "") + "a: 3\n", "s.yaml")
    assert str(caught.value) == "s.yaml:3:1: a: the key is already on line 1; keep one\n     3 | a: 3\n       | ^"


def test_the_size_that_still_is_read():
    text = "a: 1\n" + "#" * (MAX_CHARS - 6) + "\n"
    assert plain(parse(text)) == {"a": 1}

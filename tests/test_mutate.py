"""Planted errors: which edits a source has, which are drawn, and that a test that notices is told from one that does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tools.mutate.__main__ import drawn, judged, scope, sources  # noqa: E402
from tools.mutate.edits import edits  # noqa: E402


def after(source, kind):
    """The lines that edits of a kind make of a function's last line."""
    source = source.encode()
    found = [e for e in edits("a.py", source) if e.kind == kind]
    for e in found:
        compile(e.apply(source), "edited", "exec")
    return [e.lines(source)[1] for e in found]


@pytest.mark.parametrize(
    ("line", "kind", "want"),
    [
        ("return a + b", "sign", ["return a - b"]),
        ("return -a", "sign", ["return a"]),
        ("return a * b", "times, divide", ["return a / b"]),
        ("return a * (b + 2)", "drop", ["return a", "return a * (b)", "return a * (2)", "return (b + 2)"]),
        ("return a ** 2", "power", ["return a ** (2 + 1)"]),
        ("return a.sqrt()", "power", ["return a.square()"]),
        ("return a.exp()", "function", ["return a.expm1()"]),
        ("return a.mean(1)", "reduction", ["return a.sum(1)"]),
        ("return a.clamp(min=0)", "clamp", ["return a"]),
        ("return 0.5 * a", "coefficient", ["return 0.75 * a"]),
        ("return a[1:]", "off by one", ["return a[2:]"]),
        ("return a < b", "comparison", ["return a <= b"]),
        ("return a if b else 2", "condition", ["return a if (not b) else 2"]),
        ("return where(a, b, 2)", "condition", ["return where(a, 2, b)"]),
        ("return f(a, b)", "swap", ["return f(b, a)"]),
        ("return a.alpha", "alpha, sigma", ["return a.sigma"]),
        ("return a.fold(1, b)", "noise, detach", ["return a.fold(1)"]),
        ("return a.detach()", "noise, detach", ["return a"]),
        ("raise ValueError(f'{a + b}')", "sign", []),
    ],
)
def test_edits_of_a_kind(line, kind, want):
    assert sorted(after(f"def f(a, b):\n    {line}\n", kind)) == sorted(want)


def test_names_are_exchanged_where_both_are_known():
    assert after("def f(t, s):\n    return t.x\n", "swap") == ["return s.x"]
    assert after("def f(t):\n    return t.x\n", "swap") == []


def test_a_draw_repeats_and_goes_round_distributions_and_kinds():
    files = sources(ROOT, ["plugins/guidance", "plugins/nets", "diffcore/numerics/affine.py"])
    chosen = drawn(files, ROOT, 30, 3)
    assert chosen == drawn(files, ROOT, 30, 3)
    assert len({(e.path, e.start, e.new) for e in chosen}) == 30
    assert Counter(scope(e.path) for e in chosen) == {"guidance": 10, "nets": 10, "core": 10}
    assert len({e.kind for e in chosen}) > 10
    for edit in drawn(files, ROOT, 0, 1):
        compile(edit.apply((ROOT / edit.path).read_bytes()), edit.path, "exec")


def test_judgements_are_about_edits_that_exist():
    """A line that was changed since is judged anew."""
    known = judged()
    for path in {path for path, _, _ in known}:
        source = (ROOT / path).read_bytes()
        assert {(b, a) for p, b, a in known if p == path} <= {e.lines(source) for e in edits(path, source)}, path
    assert all(len(reason) > 20 for reason in known.values())


TOY = """class Area:
    items = ("9.99",)


def area(a, b):
    return a * b


def shift(a):
    return a + 1.0
"""
TESTS = """import pytest

from diffcore_toy.formula import area, shift


def test_area():
    assert area(2, 3) == 6


@pytest.mark.item("9.99")
def test_shift():
    shift(2)
"""


def test_what_a_test_notices_is_told_from_what_it_only_runs(tmp_path):
    home = tmp_path / "plugins" / "toy"
    for name, text in (("diffcore_toy/__init__.py", ""), ("diffcore_toy/formula.py", TOY), ("tests/test_toy.py", TESTS)):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    kinds, out = ["-n", "0", "--kind", "times, divide", "--kind", "sign"], [str(tmp_path / f"{i}.json") for i in range(3)]
    runs = [kinds, ["--again", out[0]], [*kinds[:4], "--item", "9.99"]]
    given = [[*run, "--jobs", "1", "--out", file] for run, file in zip(runs, out, strict=True)]
    code = f"import pathlib, tools.mutate.__main__ as m; m.HEAVY = (); r = pathlib.Path({str(tmp_path)!r})"
    code += f"; print([m.main(given, r) for given in {given}])"
    quick = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env=quick)
    assert (done.stderr, done.stdout.splitlines()[-1]) == ("", "[1, 1, 1]")
    assert "survived: plugins/toy/diffcore_toy/formula.py:10 (sign)" in done.stdout
    assert (home / "diffcore_toy" / "formula.py").read_text() == TOY
    every, again, of_item = [{(r["before"], r["outcome"]) for r in json.loads(Path(file).read_text())} for file in out]
    assert every == {("return a * b", "caught"), ("return a + 1.0", "survived")}
    assert again == {("return a + 1.0", "survived")}
    assert of_item == {("return a * b", "survived")}

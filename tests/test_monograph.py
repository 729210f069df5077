"""Every numbered statement of the book is carried, the page says by what, and a component is named only where a test needs it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch

import diffcore as dc

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
import audit_monograph as audit  # noqa: E402  # pyright: ignore
import generate_monograph as generator  # noqa: E402  # pyright: ignore


@pytest.fixture(scope="module")
def carriers():
    return generator.carriers()


def test_the_page_is_current():
    assert (DOCS / "monograph.md").read_text() == generator.page(), "run: python docs/generate_monograph.py"


def test_no_statement_is_left_out(carriers):
    missing = [number for number in generator.titles() if number not in carriers]
    assert not missing, f"nothing carries {', '.join(missing)}"


def test_every_number_that_is_named_exists(carriers):
    named = {*carriers, *(claim.number for claim in generator.claims())}
    assert named <= set(generator.titles())


def test_every_claim_of_a_component_was_planted():
    assert set(generator.proofs()) == set(generator.claims()), "run: make monograph-audit (or docs/audit_monograph.py NUMBER ...)"


def test_every_proof_is_a_test_marked_with_its_statement():
    """So a test that is renamed or loses its mark takes the credit with it."""
    marks: dict[tuple[str, str], set[str]] = {}
    for test in filter(None, generator.proofs().values()):
        path, _, name = test.partition("::")
        if (path, name) in marks:
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.FunctionDef):
                calls = [d for d in node.decorator_list if isinstance(d, ast.Call) and ast.unparse(d.func) == "pytest.mark.item"]
                marks[path, node.name] = {a.value for call in calls for a in call.args if isinstance(a, ast.Constant)}
    wrong = [c for c, test in generator.proofs().items() if test and c.number not in marks.get(tuple(test.split("::")), set())]
    assert not wrong, wrong


def test_a_mark_and_a_proof_are_both_seen_and_a_claim_alone_is_not(tmp_path, monkeypatch):
    (tmp_path / "test_x.py").write_text('@pytest.mark.item("4.15", "R1")\ndef test_it(): ...\n')
    assert list(generator.marked(tmp_path / "test_x.py")) == ["4.15", "R1"]
    proof = tmp_path / "proof.tsv"
    proof.write_text("9.98\tgrid proved\ttests/test_x.py::test_it\n9.99\tgrid claimed\t\n")
    monkeypatch.setattr(generator, "PROOF", proof)
    assert generator.carriers()["9.98"] == ["grid `proved`"]
    assert "9.99" not in generator.carriers()


def test_what_is_planted_is_off_in_every_number():
    """10 % of floats, tensors, plans and posteriors; what the core gives a component is left alone."""

    @dc.component
    class Planted(dc.Grid):
        """t_i = start (1 - i / N)."""

        def nodes(self, process, steps, start):
            return torch.linspace(start, 0.0, steps + 1, dtype=torch.float64)

    assert set(audit.methods(Planted)) == {"nodes"}
    audit.plant(Planted)
    assert torch.allclose(Planted().nodes(None, 4, 1.0), 1.1 * torch.linspace(1, 0, 5, dtype=torch.float64))
    assert audit.wrong((2.0, [1], {"a": "b"})) == (2.2, [1], {"a": "b"})
    plan = audit.wrong(dc.Plan(t=torch.ones(3), keep=torch.ones(3), noise=torch.ones(3)))
    assert float(plan.entries["keep"][0]) == float(plan.entries["noise"][0]) == pytest.approx(1.1)
    assert audit.wrong(torch.tensor([3, 3, 3])).tolist() == [0, 3, 0]

"""Every numbered statement of the book is carried, and the page says by what."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import diffcore as dc

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))
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
    unknown = {number: who for number, who in carriers.items() if number not in generator.titles()}
    assert not unknown


def test_a_mark_and_an_attribute_are_both_seen(tmp_path, monkeypatch):
    (tmp_path / "test_x.py").write_text('@pytest.mark.item("4.15", "R1")\ndef test_it(): ...\n')
    assert list(generator.marked(tmp_path / "test_x.py")) == ["4.15", "R1"]

    @dc.component
    class Marked(dc.Grid):
        """A grid."""

        items = ("9.99",)

    registry = dc.Registry()
    registry.add(Marked)
    monkeypatch.setattr(generator.Registry, "load", classmethod(lambda cls: registry))
    assert generator.carriers()["9.99"] == ["grid `marked`"]

"""The generated pages about the hooks are current and complete."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import diffcore as dc
from diffcore.hookspecs import KINDS

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("generate_hooks", ROOT / "docs" / "generate_hooks.py")
assert spec is not None
assert spec.loader is not None
generator = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generator)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return generator.pages(dc.Registry.load())


def test_the_pages_in_the_repository_are_current(pages: dict[str, str]):
    assert generator.stale(pages) == [], "run: python docs/generate_hooks.py"


def test_there_is_a_page_per_hook_naming_its_kinds_and_components(pages: dict[str, str]):
    entries = generator.own_entries(dc.Registry.load())
    for hook, kinds in KINDS.items():
        text = pages[f"{hook}.md"]
        assert f"```python\n@dc.hookimpl\ndef {hook}():" in text
        for kind in kinds:
            assert f"## Kind `{kind}`" in text
            for cls in generator.base_classes(kind):
                assert f"### `diffcore.{cls.__name__}`" in text
            for entry in entries:
                assert (f"| `{entry.id}` | {entry.dist} |" in text) or entry.kind not in kinds


def test_a_changed_docstring_makes_a_page_stale(pages: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    from diffcore import hookspecs

    monkeypatch.setattr(hookspecs.diffcore_metrics, "__doc__", "Something else.")
    changed = generator.pages(dc.Registry.load())
    assert [name for name in pages if pages[name] != changed[name]] == ["diffcore_metrics.md"]

"""The generated pages (hooks, spec, checks) are current and complete."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import attrs
import pytest
import torch

import diffcore as dc
from diffcore.declare.hookspecs import KINDS
from diffcore.declare.kinds import CORE
from diffcore.run.spec import EvaluationPlan, Sampling, Spec

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import generate_hooks as generator  # noqa: E402  # pyright: ignore
import generate_reference as reference  # noqa: E402  # pyright: ignore

sys.path.pop(0)


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
            assert f"--kind {kind}` writes it:" in text
            for entry in entries:
                assert (f"| `{entry.id}` | {entry.dist} |" in text) or entry.kind not in kinds


def test_a_changed_docstring_makes_a_page_stale(pages: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    from diffcore.declare import hookspecs

    monkeypatch.setattr(hookspecs.diffcore_metrics, "__doc__", "Something else.")
    changed = generator.pages(dc.Registry.load())
    assert [name for name in pages if pages[name] != changed[name]] == ["diffcore_metrics.md"]


def test_a_page_tells_what_a_component_is_called_with_and_gets(pages: dict[str, str]):
    for hook, words in (
        ("losses", ("`__call__(self, model: Denoiser", "draw.fold(0)")),
        ("data", ("### `diffcore.Source`", "`size: int | None`", "**`batch(self, ids: Tensor)")),
        ("metrics", ("### `diffcore.Measured`", "`floor: float | None`")),
        ("networks", ("null_cond",)),
        ("guidance", ("### `diffcore.Posterior`", "**`replace(self, name: str, value: State)")),
    ):
        assert [word for word in words if word not in pages[f"diffcore_{hook}.md"]] == []


@pytest.fixture(scope="module")
def references() -> dict[str, str]:
    return reference.pages(dc.Registry.load())


def test_the_reference_in_the_repository_is_current(references: dict[str, str]):
    assert reference.stale(references) == [], "run: make docs"


def test_every_field_of_a_spec_is_in_the_reference(references: dict[str, str]):
    for cls in (Spec, Sampling, EvaluationPlan, dc.Trainer, dc.Solver):
        for field in attrs.fields(cls):
            assert re.search(rf"^\| `{field.name}` \| .*{re.escape(field.metadata['doc'])} \|$", references["spec.md"], re.M)
    named = set(re.findall(r"^\| `[a-z_.]+` \| ([a-z_]+) \| \[", references["spec.md"], re.M))
    assert named == set(CORE) - set(KINDS["diffcore_components"])


def test_the_formulas_of_predictions_are_those_of_the_code():
    at = dc.Coeffs(0.3, 0.8, 0.45, -0.7, 0.9)
    x0, eps, sd = torch.tensor(1.3), torch.tensor(-0.4), 0.6
    values = {"alpha": at.alpha, "sigma": at.sigma, "x_0": x0, "eps": eps, "sd": sd, "sqrt": lambda v: v**0.5}
    assert reference.PREDICTIONS.keys() == dc.ROWS.keys()
    for name, (formula, _) in reference.PREDICTIONS.items():
        code = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", formula.replace("alpha'", "dalpha").replace("sigma'", "dsigma"))
        said = eval(code.replace("^", "**"), {**values, "dalpha": at.dalpha, "dsigma": at.dsigma})
        torch.testing.assert_close(torch.as_tensor(said), torch.as_tensor(dc.combine(name, at, x0, eps, sd)))


def test_every_kind_has_its_checks_listed_with_what_they_hold(references: dict[str, str]):
    from diffcore.testing.base import RULES

    for kind in CORE:
        assert f"## Kind `{kind}`" in references["checks.md"]
    for rule in RULES:
        assert re.search(rf"^\| `{rule.name}` \| \S.+ \|$", references["checks.md"], re.M)

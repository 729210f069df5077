"""Checks of every component: that it is a proper, documented, frozen class whose fields are its spec."""

from __future__ import annotations

import re

import attrs
from ruamel.yaml import YAML, YAMLError

from diffcore.declare.errors import DiffcoreError
from diffcore.testing.base import SkipError, Subject, check
from diffcore.testing.leftovers import leftovers

PLAIN = ("data", "trainer")
"""Kinds that need no formula."""
FORMULA = re.compile(r"=|->|<-|~|\d{4}|et al|arXiv", re.IGNORECASE)


@check()
def frozen(subject: Subject) -> None:
    """All fields are keyword-only and none can be set."""
    assert all(a.kw_only for a in attrs.fields(subject.cls)), "fields must be keyword-only: decorate the class with @dc.component"
    component = subject.make()
    for attribute in attrs.fields(subject.cls):
        try:
            setattr(component, attribute.name, getattr(component, attribute.name))
        except attrs.exceptions.FrozenInstanceError:
            continue
        raise AssertionError(f"field '{attribute.name}' can be set: decorate the class with @dc.component")


@check()
def documented(subject: Subject) -> None:
    """Its own docstring with a formula or a source, a summary, a doc for every field; not the template's words for other code."""
    doc = subject.cls.__dict__.get("__doc__") or ""
    assert doc.strip(), f"{subject.cls.__name__} has no docstring of its own"
    formula = subject.entry.kind in PLAIN or FORMULA.search(doc + subject.cls.source)
    assert formula, "state the formula in the docstring, or the source in `source: ClassVar[str]`"
    assert subject.entry.summary.strip(), "its declaration has no summary line"
    bare = [a.name for a in attrs.fields(subject.cls) if not a.metadata.get("doc")]
    assert not bare, f"fields without documentation: {', '.join(bare)}; write dc.param(..., doc='what, unit')"
    left = leftovers(subject.cls, subject.registry.kinds[subject.entry.kind], subject.entry.summary)
    assert not left, (
        f"its formulas are no longer those of the template, but these still describe the template: {', '.join(left)}; say what "
        f"yours does"
    )


@check()
def example(subject: Subject) -> None:
    """It can be made from its defaults, or from `example`, whose keys are fields, and by its names in other tools."""
    unknown = set(subject.cls.example) - {a.name for a in attrs.fields(subject.cls)}
    assert not unknown, f"`example` names fields that do not exist: {', '.join(sorted(unknown))}"
    assert isinstance(subject.make(), subject.cls)
    for alias in subject.entry.aliases:
        text = alias.spec(subject.entry.full_id)
        try:
            subject.registry.make(subject.entry.kind, YAML(typ="safe").load(text))
        except (DiffcoreError, YAMLError) as error:
            raise AssertionError(f"{alias.tool}'s '{alias.name}' is said to be {text}, which makes nothing: {error}") from None


@check()
def by_value(subject: Subject) -> None:
    """Two instances of the same fields are equal, and hash alike where they can be hashed."""
    a, b = subject.make(), subject.make()
    assert a == b, "two instances with the same fields are not equal; fields must hold plain values"
    try:
        assert hash(a) == hash(b), "equal instances have different hashes"
    except TypeError:
        return


@check()
def spec_round_trip(subject: Subject) -> None:
    """Its fields written as a spec and read again give an equal component."""
    try:
        from diffcore.specs import unstructure
    except ImportError as error:
        raise SkipError(str(error)) from None
    made = subject.make()
    spec = unstructure(subject.registry, made)
    again = subject.registry.make(subject.entry.kind, {**spec, "type": subject.entry.full_id})
    assert again == made, f"read back from its spec {spec} it is {again}, not {made}"

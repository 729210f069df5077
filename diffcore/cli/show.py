"""`diffcore show`: everything about one component."""

from __future__ import annotations

import inspect
import json
import textwrap
from typing import Any

import click

from diffcore.cli.catalogue import entry_json, find
from diffcore.cli.completing import complete_ids
from diffcore.cli.fields import bounds_words, describe_fields
from diffcore.cli.fits import Declared, fits
from diffcore.cli.group import command, json_option
from diffcore.cli.output import print_json, print_table
from diffcore.run.scaffold import usage
from diffcore.specs.registry import Registry


@command("show")
@click.argument("id", shell_complete=complete_ids)
@click.option("--kind", metavar="KIND", help="Which one, where several kinds have this id.")
@json_option
def show(id: str, kind: str | None, as_json: bool) -> None:
    """One component, ID or DISTRIBUTION/ID: its fields, its source, what it needs and fits, an example."""
    registry = Registry.load()
    found = describe(registry, id, kind)
    if as_json:
        print_json(found)
    else:
        _print(registry, found)


def describe(registry: Registry, name: str, kind: str | None = None) -> dict[str, Any]:
    """Everything about one component, as plain data."""
    one = Declared(registry, find(registry, name, kind))
    return {
        **entry_json(one.entry),
        "documentation": inspect.getdoc(one.cls) or "",
        "source": one.cls.source,
        "fields": describe_fields(registry, one.cls),
        "declares": one.facts(),
        "fits": fits(registry, one),
        "example": example(registry, one),
    }


def example(registry: Registry, one: Declared) -> str:
    """The lines of a spec that use the component, with all its fields; only its id where no example can be made."""
    from diffcore.specs import dump

    shown = usage(one.entry.kind, registry.id_of(one.cls))
    fields = dump(registry, one.instance).partition("\n")[2].rstrip() if one.instance is not None else ""
    last = shown.splitlines()[-1]
    indent = " " * (len(last) - len(last.lstrip(" -")))
    return shown + ("\n" + textwrap.indent(fields, indent) if fields else "")


def _print(registry: Registry, found: dict[str, Any]) -> None:
    click.echo(f"{found['kind']} {found['id']}   ({found['distribution']} {found['version']}, {found['target']})")
    click.echo(found["summary"])
    click.echo(f"\n{found['documentation']}")
    if found["source"]:
        click.echo(f"\nsource: {found['source']}")
    if found["fields"]:
        click.echo()
        rows = [(f["name"], f["type"], _default(f), bounds_words(f), _meaning(f)) for f in found["fields"]]
        print_table(("field", "type", "default", "range", "meaning"), rows)
    declared = [f"{name.replace('_', ' ')}: {_words(value)}" for name, value in found["declares"].items()]
    fitting = [
        f"fits {registry.kinds[kind].plural.replace('_', ' ')}: {', '.join(ids) or 'none installed'}"
        for kind, ids in found["fits"].items()
    ]
    if declared or fitting:
        click.echo("\n" + "\n".join(declared + fitting))
    click.echo(f"\nexample:\n{found['example']}")


def _default(field: dict[str, Any]) -> str:
    if field["required"]:
        return "(required)"
    return field["default"] if isinstance(field["default"], str) else json.dumps(field["default"], default=str)


def _meaning(field: dict[str, Any]) -> str:
    return field["doc"] + (f" [{field['unit']}]" if field["unit"] else "")


def _words(value: Any) -> str:
    if isinstance(value, (frozenset, set)):
        return ", ".join(sorted(value))
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return "yes" if value is True else str(value)

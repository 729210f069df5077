"""`diffcore new plugin`. No torch, no network."""

from __future__ import annotations

from pathlib import Path

import click

from diffcore.cli.catalogue import kind_of
from diffcore.cli.completing import complete_kinds
from diffcore.cli.group import LazyGroup, command, json_option
from diffcore.cli.output import print_json
from diffcore.declare.hookspecs import ALL_KINDS
from diffcore.run.scaffold import PREFIX, places, write_plugin
from diffcore.specs.registry import Registry

TABLE = {"plugin": ("new:plugin", "A distribution with one working component.")}


@click.group("new", cls=LazyGroup, package="diffcore.cli", table=TABLE)
def new() -> None:
    """Write something new."""


@command("plugin")
@click.argument("name")
@click.option(
    "--kind", required=True, metavar="KIND", shell_complete=complete_kinds, help=f"What it provides: {', '.join(ALL_KINDS)}."
)
@click.option("--dir", "folder", default=".", type=click.Path(file_okay=False, path_type=Path), help="Where its folder is made.")
@json_option
def plugin(name: str, kind: str, folder: Path, as_json: bool) -> None:
    """Write the distribution diffcore-NAME with one component NAME.

    It holds a real method of that kind to replace by yours, and passes its conformance tests as it is.
    """
    made = write_plugin(name, kind_of(kind), folder, Registry.load())
    short = name.removeprefix(PREFIX)
    if as_json:
        return print_json({"folder": made, "id": short, "kind": kind_of(kind), "replace": dict(places(short, kind_of(kind)))})
    click.echo(f"wrote {made}\n\nto be replaced by yours:")
    rows = [(str(made / path), what) for path, what in places(short, kind_of(kind))]
    for path, what in rows:
        click.echo(f"  {path:{max(len(p) for p, _ in rows)}}   {what}")
    click.echo(f"\nthen, in {made}:\n  pip install -e .\n  pytest\n  diffcore conform {short}")
    return click.echo("\nto publish: the version and your name in pyproject.toml, a licence")

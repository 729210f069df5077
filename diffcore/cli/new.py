"""`diffcore new plugin`. No torch, no network."""

from __future__ import annotations

from pathlib import Path

import click

from diffcore.cli.catalogue import kind_of
from diffcore.cli.completing import complete_kinds
from diffcore.cli.group import LazyGroup, command, json_option
from diffcore.cli.output import print_json
from diffcore.cli.table import COMMANDS
from diffcore.run.scaffold import PREFIX, places, write_command, write_plugin
from diffcore.specs.registry import Registry

TABLE = {
    "plugin": ("new:plugin", "A distribution with one working component."),
    "command": ("new:new_command", "A distribution with one working command."),
}
folder_option = click.option(
    "--dir", "folder", default=".", type=click.Path(file_okay=False, path_type=Path), help="Where its folder is made."
)


@click.group("new", cls=LazyGroup, package="diffcore.cli", table=TABLE)
def new() -> None:
    """Write something new."""


@command("plugin")
@click.argument("name")
@click.option(
    "--kind", required=True, metavar="KIND", shell_complete=complete_kinds, help="What it provides: one of diffcore list kinds."
)
@folder_option
@json_option
def plugin(name: str, kind: str, folder: Path, as_json: bool) -> None:
    """Write the distribution diffcore-NAME with one component NAME.

    It holds a real method of that kind to replace by yours, and passes its conformance tests as it is. Where the
    distribution of the kind brings no such method, it is an empty class.
    """
    registry = Registry.load()
    of = registry.kinds[kind_of(registry, kind)]
    made = write_plugin(name, of, folder, registry)
    short = name.removeprefix(PREFIX)
    if as_json:
        return print_json({"folder": made, "id": short, "kind": of.name, "replace": dict(places(short, of))})
    click.echo(f"wrote {made}\n\nto be replaced by yours:")
    rows = [(str(made / path), what) for path, what in places(short, of)]
    for path, what in rows:
        click.echo(f"  {path:{max(len(p) for p, _ in rows)}}   {what}")
    click.echo(f"\nthen, in {made}:\n  pip install -e .\n  pytest\n  diffcore conform {short}")
    return click.echo("\nto publish: the version and your name in pyproject.toml, a licence")


@command("command")
@click.argument("name")
@folder_option
@json_option
def new_command(name: str, folder: Path, as_json: bool) -> None:
    """Write the distribution diffcore-NAME with one command NAME, to replace by yours. It passes its tests as it is."""
    registry = Registry.load()
    made = write_command(name, folder, registry, [*COMMANDS, *(c.name for p in registry.plugins for c in p.commands)])
    short = name.removeprefix(PREFIX)
    if as_json:
        return print_json({"folder": made, "command": short})
    return click.echo(f"wrote {made}\n\nthen, in {made}:\n  pip install -e .\n  pytest\n  diffcore {short} --help")

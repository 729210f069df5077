"""`diffcore plugins` and `diffcore list`. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from diffcore.cli.completing import complete_kinds
from diffcore.cli.group import command, is_verbose, json_option, unknown
from diffcore.cli.output import print_json, print_table
from diffcore.cli.table import COMMANDS
from diffcore.declare.discovery import misnamed
from diffcore.declare.entry import Entry, Plugin
from diffcore.declare.errors import SpecError, UnknownComponentError, shorten
from diffcore.declare.offered import commands_of
from diffcore.declare.suggesting import homes, meant, nearest
from diffcore.specs.registry import Registry


def kind_of(registry: Registry, word: str) -> str:
    """The kind meant by a singular or plural, with - or _. Raises `SpecError` naming the nearest word."""
    words = {**{kind.plural: kind.name for kind in registry.kinds.values()}, **{name: name for name in registry.kinds}}
    key = word.lower().replace("-", "_")
    if key not in words:
        raise SpecError(unknown("kind of component", word, [kind.plural for kind in registry.kinds.values()]))
    return words[key]


def entry_json(entry: Entry) -> dict[str, Any]:
    """One component for machines."""
    return {
        "id": entry.id,
        "kind": entry.kind,
        "full_id": entry.full_id,
        "summary": entry.summary,
        "distribution": entry.dist,
        "version": entry.version,
        "target": entry.target,
        "aliases": [{"tool": a.tool, "name": a.name, "spec": a.spec(entry.id)} for a in entry.aliases],
    }


def _plugin_json(plugin: Plugin) -> dict[str, Any]:
    found = {
        "name": plugin.name,
        "distribution": plugin.dist,
        "version": plugin.version,
        "api": plugin.api,
        "status": plugin.status,
        "cause": plugin.cause,
        "note": plugin.note,
        "module": plugin.module,
        "components": [entry_json(e) for e in plugin.components],
        "kinds": [kind.name for kind in plugin.kinds],
        "commands": [command.name for command in plugin.commands],
    }
    return {**found, "traceback": plugin.trace} if is_verbose() else found


def _contents(plugin: Plugin) -> str:
    if plugin.status != "ok":
        return plugin.cause
    found = f"{len(plugin.components)}: " + ", ".join(e.id for e in plugin.components)
    for what, items in (("kinds", plugin.kinds), ("commands", plugin.commands)):
        found += f"; {what}: {', '.join(item.name for item in items)}" if items else ""
    return f"{found} ({plugin.note})" if plugin.note else found


@command("plugins")
@json_option
def plugins(as_json: bool) -> None:
    """Installed plugins and what became of them. Nothing but the plugins' own declarations is imported.

    A plugin is named by its entry point or by its distribution, also in DIFFCORE_DISABLE_PLUGINS=a,b and DIFFCORE_PLUGINS=a,b.
    """
    registry = Registry.load()
    found = registry.plugins
    if as_json:
        print_json([_plugin_json(p) for p in found])
        warn_of_misnamed(found)
        return
    rows = [(p.dist, p.version, p.api or "-", p.status, _contents(p)) for p in found]
    print_table(("distribution", "version", "api", "status", "components, or why there are none"), rows)
    for plugin in found:
        if plugin.trace and is_verbose():
            click.echo(f"\n{plugin.dist} {plugin.version} ({plugin.module}):\n{plugin.trace.rstrip()}")
    warn_of_broken(registry)
    warn_of_misnamed(found)


def warn_of_misnamed(plugins: tuple[Plugin, ...]) -> None:
    """One line on stderr for each name in the environment that selects nothing."""
    for line in misnamed(plugins):
        click.echo(line, err=True)


def warn_of_broken(registry: Registry) -> None:
    """One line on stderr for each plugin that cannot be used or changes what is global, and for what plugins declare in vain."""
    for line in (*registry.faults, *commands_of(registry.plugins, COMMANDS)[1].values()):
        click.echo(line, err=True)
    for p in registry.plugins:
        if p.status in ("broken", "incompatible"):
            remove = "" if p.dist == "unknown" else f" or remove it with: pip uninstall {p.dist}"
            name = p.dist if p.name == "?" else p.name
            click.echo(
                f"{p.dist} {p.version} is {p.status}: {p.cause}; disable it with DIFFCORE_DISABLE_PLUGINS={name}{remove}",
                err=True,
            )
        elif p.note:
            click.echo(f"{p.dist} {p.version}: {p.note}", err=True)


@command("list")
@click.argument("kind", required=False, shell_complete=complete_kinds)
@click.option("--alias", "aliases", is_flag=True, help="Their names in other tools, and how a spec names the same thing.")
@click.option("--available", is_flag=True, help="Those of diffcore's own that are not installed, and what brings them.")
@json_option
def list_components(kind: str | None, aliases: bool, available: bool, as_json: bool) -> None:
    """Installed components. KIND is solvers, processes, networks, losses, ...; singular is fine; all where it is left out.

    `diffcore list kinds` has the kinds themselves.
    """
    registry = Registry.load()
    if (kind or "").lower() == "kinds":
        return _print_kinds(registry, as_json)
    only = kind_of(registry, kind) if kind else None
    entries = registry.list(only)
    if available:
        _print_available(registry, only, as_json)
    elif as_json:
        print_json([entry_json(e) for e in entries if e.aliases or not aliases])
    elif aliases:
        _print_aliases(entries)
    else:
        _print_entries(entries, _several(registry, only))
        warn_of_broken(registry)
    return None


def _print_kinds(registry: Registry, as_json: bool) -> None:
    if as_json:
        return print_json(
            [
                {"kind": k.name, "plural": k.plural, "distribution": k.dist, "summary": k.summary, "target": k.target}
                for k in registry.kinds.values()
            ]
        )
    print_table(("kind", "distribution", "summary"), [(k.name, k.dist, k.summary) for k in registry.kinds.values()])
    return warn_of_broken(registry)


def _several(registry: Registry, kind: str | None) -> str:
    return registry.kinds[kind].plural if kind else "components"


def _print_entries(entries: Sequence[Entry], several: str) -> None:
    shared = {(e.kind, e.id) for i, e in enumerate(entries) if i and (e.kind, e.id) == (entries[i - 1].kind, entries[i - 1].id)}
    rows = [(e.kind, e.full_id if (e.kind, e.id) in shared else e.id, e.dist, e.summary) for e in entries]
    if rows:
        print_table(("kind", "id", "distribution", "summary"), rows)
    else:
        click.echo(f"no {several} installed")


def _print_available(registry: Registry, kind: str | None, as_json: bool) -> None:
    missing = [
        (k, id, dist, registry.remedy(k, id)) for k, ids in homes().items() for id, dist in ids.items() if kind in (None, k)
    ]
    missing = [row for row in missing if row[-1]]
    if as_json:
        print_json([dict(zip(("kind", "id", "distribution", "remedy"), row, strict=True)) for row in missing])
    elif missing:
        print_table(("kind", "id", "distribution", "what brings it"), missing)
    else:
        click.echo(f"all {_several(registry, kind)} of diffcore's own distributions are installed")


def _print_aliases(entries: Sequence[Entry]) -> None:
    names = sorted((a.tool, a.name, e.kind, a.spec(e.id)) for e in entries for a in e.aliases)
    if names:
        print_table(("tool", "name", "kind", "spec"), names)
    else:
        click.echo("no names in other tools are known of these")


def find(registry: Registry, name: str, kind: str | None) -> Entry:
    """The component called `id` or `dist/id`, of any kind. Raises `UnknownComponentError`."""
    if kind is not None:
        return registry.find(kind_of(registry, kind), name)
    kinds = list(dict.fromkeys(e.kind for e in registry.list() if name in (e.id, e.full_id)))
    if len(kinds) == 1:
        return registry.find(kinds[0], name)
    if kinds:
        raise UnknownComponentError(f"'{name}' is a {' and a '.join(kinds)}; add {' or '.join(f'--kind {k}' for k in kinds)}")
    raise UnknownComponentError(_unknown(registry, name))


def _unknown(registry: Registry, name: str) -> str:
    homeless = f"no component '{shorten(name)}' is installed"
    for kind in registry.kinds:
        if remedy := registry.remedy(kind, name):
            return f"{homeless}; the {kind} of that name: {remedy}"
    parts = [homeless + meant(nearest(name, registry.list())), *filter(None, [registry.failed()]), "see: diffcore list"]
    return "; ".join(parts).replace("?; ", "? ")

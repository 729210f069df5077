"""`diffcore conform`: the conformance kit on what is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import click

from diffcore.cli.completing import complete_targets
from diffcore.cli.group import command, json_option
from diffcore.cli.output import print_json
from diffcore.declare.errors import PluginError, UnknownComponentError, did_you_mean
from diffcore.specs.registry import Registry


@command("conform")
@click.argument("target", shell_complete=complete_targets)
@json_option
def conform(target: str, as_json: bool) -> None:
    """Check TARGET, a component ID, DISTRIBUTION/ID, or a whole DISTRIBUTION or plugin, against the mathematics of its kind.

    Prints every check with what it found; exit code 1 where one failed or none ran.
    """
    registry = Registry.load()
    target = _known(registry, target)
    from diffcore.testing import run_checks

    report = run_checks(registry, target, None if as_json else lambda outcome: click.echo(outcome.line()))
    if report.cause:
        raise PluginError(report.cause)
    if as_json:
        print_json(_json(report))
    else:
        click.echo(f"\n{report.summary()}")
    if not report.ok:
        click.get_current_context().exit(1)


def _known(registry: Registry, target: str) -> str:
    """The component or distribution meant; a misspelt name is refused before the kit, and torch with it, is imported."""
    words = {plugin.name: plugin.dist for plugin in registry.plugins}
    words |= {p.dist: p.dist for p in registry.plugins}
    words |= {name: name for e in registry.list() for name in (e.id, e.full_id, e.dist)}
    if target not in words:
        folder = next((name for name in (target, f"diffcore-{target}") if (Path(name) / "pyproject.toml").exists()), None)
        hint = f" the folder {folder} is not installed: pip install -e {folder};" if folder else ""
        near = did_you_mean(target, words) or ";"
        raise UnknownComponentError(f"no component or distribution '{target}' is installed{near}{hint} see: diffcore list")
    return words[target]


def _json(report: Any) -> dict[str, Any]:
    counts = {status: report.count(status) for status in ("passed", "failed", "skipped", "xfailed")}
    outcomes = [attrs.asdict(outcome) for outcome in report.outcomes]
    return {"target": report.target, "ok": report.ok, "ran": report.ran, **counts, "outcomes": outcomes}

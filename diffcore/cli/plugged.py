"""The group of all commands: those of the core, and those that plugins declare, which are imported when they are called."""

from __future__ import annotations

from typing import Any

import click

from diffcore.cli.group import LazyGroup
from diffcore.declare.errors import DiffcoreError, PluginError, shorten
from diffcore.declare.kinds import Command
from diffcore.declare.offered import commands_of
from diffcore.specs.registry import Registry

THEIRS = "diffcore.commands"


class PluggedGroup(LazyGroup):
    """Commands of the table, and of plugins where the table has none of that name. They are discovered when needed."""

    def theirs(self, ctx: click.Context) -> tuple[dict[str, Command], dict[str, str], Registry]:
        """Name -> command of a plugin; name -> why it cannot be used; and what is installed."""
        if THEIRS not in ctx.meta:
            registry = Registry.load()
            ctx.meta[THEIRS] = (*commands_of(registry.plugins, self.table), registry)
        return ctx.meta[THEIRS]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Those of the core, then those of plugins."""
        return [*super().list_commands(ctx), *self.theirs(ctx)[0]]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command. Raises `PluginError` for one of a plugin that cannot be had."""
        if cmd_name in self.table:
            return super().get_command(ctx, cmd_name)
        commands, faults, _ = self.theirs(ctx)
        if cmd_name in faults:
            raise PluginError(faults[cmd_name])
        return _loaded(commands[cmd_name]) if cmd_name in commands else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """The command called; none while a shell completes the words of one that cannot be imported."""
        try:
            made = self.get_command(ctx, args[0])
            return (args[0], made, args[1:]) if made is not None else super().resolve_command(ctx, args)
        except DiffcoreError:
            if ctx.resilient_parsing:
                return None, None, args
            raise

    def no_command(self, ctx: click.Context, name: str) -> str:
        """With the distribution of diffcore's own that has it, where one has."""
        remedy = self.theirs(ctx)[2].remedy("command", name)
        return f"no command '{shorten(name)}' is installed; {remedy}" if remedy else super().no_command(ctx, name)

    def lines(self, ctx: click.Context) -> dict[str, str]:
        """Name -> its line of help."""
        return {**super().lines(ctx), **{name: command.summary for name, command in self.theirs(ctx)[0].items()}}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, then the commands of each distribution; what cannot be used is said on stderr."""
        super().format_commands(ctx, formatter)
        commands, faults, _ = self.theirs(ctx)
        for dist in sorted({command.dist for command in commands.values()}):
            with formatter.section(f"Commands of {dist}"):
                formatter.write_dl([(c.name, c.summary) for c in commands.values() if c.dist == dist])
        for line in faults.values():
            click.echo(line, err=True)


def _loaded(command: Command) -> click.Command:
    made: Any = command.load()
    if not isinstance(made, click.Command):
        raise PluginError(
            f"{command} is {command.target}, which is no click command: decorate it with @diffcore.commands.command"
        )
    return made

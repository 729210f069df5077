"""A click group that imports a command when it is called, and turns errors into one message and an exit code."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import click

from diffcore.errors import DataWarning, DiffcoreError, did_you_mean

VERBOSE = "diffcore.verbose"
RESUME = "diffcore.resume"


class LazyGroup(click.Group):
    """Commands from a table name -> ("module:attribute", one line of help)."""

    def __init__(self, *args: Any, package: str, table: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.package, self.table = package, table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self.table:
            return None
        module, _, name = self.table[cmd_name][0].partition(":")
        return getattr(importlib.import_module(f"{self.package}.{module}"), name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """The command called, or a usage error that names the nearest one."""
        name = args[0]
        if name not in self.table and not name.startswith("-"):
            ctx.fail(unknown("command", name, self.table))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a user's mistake or a failed run ends with one message, a bug with its traceback."""
        _replace_unprintable()
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _note
                return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            _stop(ctx, "interrupted" + _how_to_resume(ctx), 128 + getattr(stop, "number", signal.SIGINT))
        except DiffcoreError as error:
            # the faults of a spec begin with file:line:column, which editors and terminals make clickable
            _stop(ctx, str(error) if hasattr(error, "faults") else f"Error: {error}", error.exit_code)
        except OSError as error:
            where = f"{error.filename}: " if error.filename is not None else ""
            _stop(ctx, f"Error: {where}{error.strerror or error}", 1)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a word that means nothing here: the nearest one, then all."""
    words = list(known)
    return f"no {what} '{name}'{did_you_mean(name, words) or ';'} there are: {', '.join(words)}"


def _stop(ctx: click.Context, message: str, code: int) -> NoReturn:
    if ctx.meta.get(VERBOSE) or os.environ.get("DIFFCORE_DEBUG", "") not in ("", "0"):
        traceback.print_exc()
    click.echo(message, err=True)
    ctx.exit(code)


def _note(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    """A warning in one line, without the place in our code where it is about the user's data."""
    where = "note" if issubclass(category, DataWarning) else f"{filename}:{lineno}: {category.__name__}"
    click.echo(f"{where}: {message}", err=True)


def _how_to_resume(ctx: click.Context) -> str:
    return f"; resume with: {ctx.meta[RESUME]}" if RESUME in ctx.meta else ""


def _replace_unprintable() -> None:
    """A terminal that cannot show a character gets a question mark, not an exception."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _remember_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.meta[VERBOSE] = value or ctx.meta.get(VERBOSE, False)
    return value


verbose_option = click.option(
    "-v", "--verbose", is_flag=True, expose_value=False, callback=_remember_verbose, help="Show tracebacks of errors."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one value of the spec: --set solver.steps=20."
)


def is_verbose() -> bool:
    """Whether -v was given, to the group or to the command."""
    return bool(click.get_current_context().meta.get(VERBOSE))


def command(name: str, **kwargs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """A click command whose last option is -v."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        made = click.command(name, **kwargs)(verbose_option(function))
        made.params.append(made.params.pop(0))
        return made

    return decorate

"""A click group that imports a command when it is called, and turns errors into one message and an exit code."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, cast

import click
from click.shell_completion import CompletionItem

from diffcore.cli.completing import complete_overrides, complete_runs, complete_specs
from diffcore.declare.errors import DataWarning, DiffcoreError, did_you_mean

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
        if name not in self.list_commands(ctx) and not name.startswith("-"):
            ctx.fail(self.no_command(ctx, name))
        return super().resolve_command(ctx, args)

    def no_command(self, ctx: click.Context, name: str) -> str:
        """The message for a word that is no command."""
        return unknown("command", name, self.list_commands(ctx))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names with their lines, and the options, without importing a command."""
        names = [CompletionItem(name, help=line) for name, line in self.lines(ctx).items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def lines(self, ctx: click.Context) -> dict[str, str]:
        """Name -> its line of help."""
        return {name: line for name, (_, line) in self.table.items()}

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
        except Exception as error:
            if not _out_of_memory(error):
                raise
            _stop(ctx, f"Error: not enough memory; lower batch, n, or the size of the network ({_first_line(error)})", 1)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a word that means nothing here: the nearest one, then all."""
    words = list(known)
    return f"no {what} '{name}'{did_you_mean(name, words) or ';'} there are: {', '.join(words)}"


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, the CPU's or the GPU's allocator had no memory. By name: torch may not be imported."""
    said = "can't allocate memory" in str(error) or "not enough memory" in str(error)
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or (isinstance(error, RuntimeError) and said)
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


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
MOST_SAMPLES = 100_000_000


class Count(click.IntRange):
    """An integer of a range, in the digits 0 to 9 (Python would read those of every script)."""

    def __init__(self, least: int, most: int = 2**63 - 1) -> None:
        super().__init__(least, most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The integer."""
        if isinstance(value, str) and not re.fullmatch("[+-]?[0-9]{1,30}", value):
            self.fail(f"{value[:50]!r} is not a valid integer.", param, ctx)
        return super().convert(cast(int, value), param, ctx)


def _no_spec(ctx: click.Context, parameter: click.Parameter, path: str) -> str:
    if path.endswith((".yaml", ".yml")) and ctx.info_name in ("sample", "evaluate", "calibrate"):
        wanted = f"'diffcore {ctx.info_name}' takes a run directory or a weights file"
        raise click.BadParameter(f"'{path}' is a spec; {wanted}, which this makes: diffcore run {shlex.quote(path)}")
    return path


run_argument = click.argument("run", callback=_no_spec, shell_complete=complete_runs)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_overrides,
    help="Override one value of the spec: --set solver.steps=20.",
)
spec_argument = click.argument("spec", shell_complete=complete_specs)


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

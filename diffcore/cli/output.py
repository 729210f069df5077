"""What the commands print: aligned tables, JSON, wrapped text. Plain text everywhere."""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from diffcore.run.report.escaping import terminal

GAP = 2


def print_table(head: Sequence[str], rows: Iterable[Sequence[Any]], indent: str = "") -> None:
    """Aligned columns under a head line; on a terminal the last column wraps, in a file no line is broken."""
    text = [[terminal(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *text]) for i in range(len(head) - 1)]
    for row in [[h.upper() for h in head], *text]:
        left = indent + "".join(cell.ljust(width + GAP) for cell, width in zip(row, widths, strict=False))
        click.echo("\n".join(_hang(left, row[-1])).rstrip())


def _hang(left: str, text: str) -> list[str]:
    room = shutil.get_terminal_size().columns - len(left) if sys.stdout and sys.stdout.isatty() else 0
    lines = textwrap.wrap(text, room, break_on_hyphens=False) if room >= 24 else [text]
    return [(left if i == 0 else " " * len(left)) + line for i, line in enumerate(lines or [""])]


def print_json(value: Any) -> None:
    """Strict JSON: what is not a finite number is null."""
    click.echo(json.dumps(plain(value), indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """Mappings, lists, strings and finite numbers; anything else by its text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v) for v in value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def number(value: Any) -> str:
    """A number in six digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)

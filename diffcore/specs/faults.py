"""Faults of a spec: where, what, what was expected. All of them are collected and raised at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import attrs

from diffcore.declare.errors import SpecError

MAX_FAULTS = 100
LISTED = " fields: "
"""What stands before the list of fields, at the end of a message."""


@attrs.frozen(eq=False)
class Source:
    """A text that values come from. An inline one is an argument of the command line: one line, known by its own text."""

    name: str
    text: str = attrs.field(default="", repr=False)
    inline: bool = False


@attrs.frozen
class Mark:
    """A place in a source; line and column count from 1."""

    source: Source
    line: int
    column: int

    def __str__(self) -> str:
        return self.source.name if self.source.inline else f"{self.source.name}:{self.line}:{self.column}"


@attrs.frozen
class Fault:
    """One mistake. `file`, `line` and `column` are None where a value comes from Python; `excerpt` is the line of the source."""

    path: str
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    excerpt: str = attrs.field(default="", eq=False, repr=False)

    @classmethod
    def at(cls, mark: Mark | None, path: str, message: str) -> Fault:
        """A fault at a place. What cannot be printed in path and message is escaped, so that a fault is one line of text."""
        path, message = one_line(path), one_line(message)
        if mark is None or mark.source.inline:
            return cls(path, message, mark.source.name if mark else None)
        lines = mark.source.text.split("\n", mark.line)
        line = lines[mark.line - 1].rstrip("\r") if mark.line <= len(lines) else ""
        excerpt = "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in line)
        return cls(path, message, mark.source.name, mark.line, mark.column, excerpt)

    def __str__(self) -> str:
        where = ":".join(one_line(str(part)) for part in (self.file, self.line, self.column) if part is not None)
        return ": ".join(part for part in (where, self.path, self.message) if part)

    def pretty(self) -> str:
        """The fault, and below it the line of the source with a caret."""
        if not self.excerpt.strip() or self.line is None or self.column is None or len(self.excerpt) > 200:
            return str(self)
        lead = "".join("\t" if char == "\t" else " " for char in self.excerpt[: self.column - 1])
        return f"{self}\n{self.line:>6} | {self.excerpt}\n{'':>6} | {lead}^"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"file": self.file, "line": self.line, "column": self.column, "path": self.path, "message": self.message}


def one_line(text: str) -> str:
    """The text with everything that is not printable (ends of lines, control and direction characters) written as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class SpecErrors(SpecError):  # noqa: N818  several of them
    """All faults of a spec, in the order of the files they are in.

    `standing`: what stands of it all the same, and the names of the sections that do not; None where it could not be read.
    `unseen`: what was not looked at, a line for the end; empty where everything was.
    """

    standing: tuple[Any, frozenset[str]] | None = None

    def __init__(self, faults: Iterable[Fault], unseen: str = "") -> None:
        self.faults = tuple(sorted(faults, key=lambda f: (f.file or "", f.line or 0, f.column or 0)))
        self.unseen = unseen
        super().__init__("\n".join([*(fault.pretty() for fault in self.faults), *self._count(), *filter(None, [unseen])]))

    def _count(self) -> list[str]:
        if len(self.faults) < 2:
            return []
        more = " or more; the first of them are shown" if len(self.faults) >= MAX_FAULTS else ""
        return [f"{len(self.faults)} faults{more}"]

    def as_dicts(self) -> list[dict[str, Any]]:
        """Plain data, for JSON."""
        return [fault.as_dict() for fault in self.faults]


class Faults:
    """Collects faults while a spec is read; stops at `MAX_FAULTS`. `notes` are lines worth saying of a spec without fault."""

    def __init__(self) -> None:
        self.found: list[Fault] = []
        self.notes: list[str] = []
        self._listed = set[str]()

    def add(self, mark: Mark | None, path: str, message: str) -> None:
        """Note a fault and go on. A list of fields at its end is there once, however many faults have it."""
        said, listed, fields = message.partition(LISTED)
        if listed and fields in self._listed:
            message = said.rstrip(";")
        self._listed |= {fields} if listed else set()
        self.found.append(Fault.at(mark, path, message))
        if len(self.found) >= MAX_FAULTS:
            self.check()

    def stop(self, mark: Mark | None, path: str, message: str) -> NoReturn:
        """Note a fault after which nothing can be read."""
        raise SpecErrors([*self.found, Fault.at(mark, path, message)])

    def check(self) -> None:
        """Raise `SpecErrors` if there is any fault."""
        if self.found:
            raise SpecErrors(self.found)

"""Every error diffcore raises on purpose.

A user's mistake is a `DiffcoreError` (exit code 2); a run that failed is a `RunError` (exit code 1).
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable


class DiffcoreError(Exception):
    """Something the user can mend. The message says what, where, what was expected and what to do."""

    exit_code = 2


class SpecError(DiffcoreError, ValueError):
    """A value, key or file of a spec is wrong."""


class UnknownComponentError(SpecError, KeyError):
    """No installed component of this kind has this id, or several have."""

    __str__ = Exception.__str__  # KeyError would print the repr of the message


class PluginError(DiffcoreError):
    """A plugin is broken, incompatible, disabled or missing."""


class IncompatibleError(DiffcoreError):
    """Two components do not fit together: one requires what the other does not provide."""


class DataError(DiffcoreError):
    """Data is missing, unreadable, of the wrong shape or outside its declared range."""


class DataWarning(UserWarning):
    """A part of the user's data is left out or read in a way that may surprise: said in one line, and the work goes on."""


def note(text: str) -> None:
    """Say something about the user's data in one line (a `DataWarning`; the command line prints it as a note)."""
    warnings.warn(text, DataWarning, stacklevel=3)


class CheckpointError(DiffcoreError):
    """A checkpoint or weights file is missing, damaged or belongs to another spec."""


class RunError(DiffcoreError):
    """A run that was set up correctly failed."""

    exit_code = 1


class NumericsError(RunError):
    """NaN or Inf appeared, or a quantity was asked for where it is singular."""


def shorten(text: str, width: int = 50) -> str:
    """One line of at most `width` characters, in which nothing acts on a terminal: control and bidi characters are escaped."""
    text = text if text.isprintable() else text.encode("unicode_escape").decode()
    return text if len(text) <= width else text[: width - 3] + "..."


def said(error: BaseException, width: int = 200) -> str:
    """What an exception says, in one line: its type (where it is not ours) and its message, also where its `str` fails."""
    name = "" if isinstance(error, DiffcoreError) else type(error).__name__
    try:
        text = " ".join(str(error).split())
    except BaseException as other:
        text = f"its message cannot be shown, {type(other).__name__}"
    return shorten(f"{name}: {text}" if name and text else name or text, width)


def shown(value: object, width: int = 60) -> str:
    """The repr of anything, in one short line, also where it fails."""
    if isinstance(value, int) and value.bit_length() > 10_000:  # Python writes no such number
        return f"an integer of {value.bit_length()} bits"
    try:
        return shorten(repr(value), width)
    except BaseException as error:
        return f"an object of the class {shorten(type(value).__name__)} whose repr raises {type(error).__name__}"


def listed(words: Iterable[str], width: int = 90, more: str = "") -> str:
    """`a, b, c`, or as many as fit `width` and `and 41 more: diffcore list solvers`, where `more` tells how to see them all."""
    every = list(words)
    length = [sum(len(word) + 2 for word in every[: n + 1]) for n in range(len(every))]
    fitting = sum(total <= width + 2 for total in length)
    if fitting == len(every):
        return ", ".join(every) or "none"
    return f"{', '.join(every[: max(fitting, 1)])} and {len(every) - max(fitting, 1)} more{f': {more}' if more else ''}"


def counted(n: int, thing: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{n} {thing}{'' if n == 1 else 's'}"


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`"; did you mean 'heun'?"`, or an empty string where nothing known is near (from 0 to 1, 1 for equal)."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean '{near[0]}'?" if near else ""

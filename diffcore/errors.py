"""Every error diffcore raises on purpose.

A user's mistake is a `DiffcoreError` (exit code 2); a run that failed is a `RunError` (exit code 1).
"""

from __future__ import annotations

import difflib
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


class CheckpointError(DiffcoreError):
    """A checkpoint or weights file is missing, damaged or belongs to another spec."""


class RunError(DiffcoreError):
    """A run that was set up correctly failed."""

    exit_code = 1


class NumericsError(RunError):
    """NaN or Inf appeared, or a quantity was asked for where it is singular."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'heun'?"`, or an empty string where nothing known is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""

"""Arguments of Python calls, refused as clearly as the values of a spec. No torch here."""

from __future__ import annotations

import operator
from typing import Any

from diffcore.declare import errors
from diffcore.declare.errors import SpecError


def shown(value: Any) -> str:
    """A wrong argument in a message: numbers and text as they are written, another by its type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return errors.shown(value)
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """The argument as an integer (numpy's and torch's too). Raises `SpecError` for any other value, or one out of bounds."""
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or (least is not None and found < least) or (most is not None and found > most):
        low, high = "" if least is None else f" of at least {least}", "" if most is None else f" and at most {most}"
        raise SpecError(f"{name} must be an integer{low}{high}; got {shown(value)}")
    return found


def real(name: str, value: Any) -> float:
    """The argument as a finite number. Raises `SpecError` for any other value."""
    try:
        found = float("nan") if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = float("nan")
    if not abs(found) < float("inf"):
        raise SpecError(f"{name} must be a finite number; got {shown(value)}")
    return found

"""Importing what a declaration names, contained. No torch here."""

from __future__ import annotations

import importlib
import sys
from contextlib import nullcontext
from typing import Any

from diffcore.declare.containing import Found, contained
from diffcore.declare.errors import PluginError, said
from diffcore.declare.state import DRAWN


def load(target: str, what: str) -> Any:
    """What `module:name` is. Raises `PluginError` that begins with `what` and names the cause."""
    module, _, name = target.partition(":")
    try:
        with nullcontext(Found()) if module in sys.modules else contained(what) as found:
            value: Any = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise PluginError(f"{what} cannot be imported from {target}: {said(error)}") from error
    if changed := [name for name in found.changed if name not in DRAWN]:
        _log(f"importing the {what.removeprefix('the ')} changed: {', '.join(changed)}; put back")
    return value


def _log(line: str) -> None:
    import logging

    logging.getLogger("diffcore").warning("%s", line)

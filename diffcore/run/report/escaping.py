"""A user's text in another language: matplotlib's mathematics, terminals, shells, file names. Templates escape their own (HTML).

Names of runs, classes and files may hold anything. One function per medium; each is the identity for plain text.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import unicodedata
from functools import lru_cache
from pathlib import Path

_NO_PICTURE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of characters that have no picture, or that move the text around them."""


def terminal(text: str) -> str:
    """One line for a terminal: control, direction and line characters as `\\x1b`, so that no text moves or fakes another."""
    return "".join(c if unicodedata.category(c) not in _NO_PICTURE else ascii(c)[1:-1] for c in text)


def block(text: str) -> str:
    """Several lines for a terminal or a page, each as `terminal` has it."""
    return "\n".join(map(terminal, text.expandtabs().split("\n")))


def word(path: str | Path) -> str:
    """The name of a file as one word of a shell's command, which no command takes for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def setting(field: str, path: str | Path) -> str:
    """The option of a command that sets a field of a spec to the name of a file, which may look like anything in YAML."""
    text = str(path) if "/" in str(path) else f"./{path}"
    plain = re.fullmatch(r"[\w/.-]+", text)
    return f"--set {shlex.quote(f'{field}={text if plain else json.dumps(text, ensure_ascii=False)}')}"


def figure_text(text: str) -> str:
    """A text in a matplotlib figure, as it stands: no mathematics, in the legend too, without what the font has not."""
    drawn = "".join(c if ord(c) in _glyphs() else "\N{WHITE SQUARE}" for c in terminal(text))
    return (" " if drawn.startswith("_") else "") + drawn.replace("$", r"\$")


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    """The characters of matplotlib's font."""
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(font_file()).get_charmap())


def font_file() -> str:
    """The font that figures are drawn with."""
    from matplotlib import font_manager

    return font_manager.findfont("DejaVu Sans")


def file_name(text: str) -> str:
    """A text as the name of a file, of at most 87 bytes; where characters are lost, a digest keeps it apart from other texts."""
    plain = re.sub(r"[^\w.=,+-]+", "_", text).encode()[:80].decode(errors="ignore").strip("_")
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:6]}"

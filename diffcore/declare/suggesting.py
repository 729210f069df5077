"""What may be meant by a word that names nothing installed, and where it would come from. No torch here."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from diffcore.declare.errors import listed, shorten

if TYPE_CHECKING:
    from diffcore.declare.entry import Entry, Plugin

INDEX = "first_party.json"
"""Kind -> id -> distribution, of diffcore's own, and "command" -> name -> distribution; written by docs/generate_index.py."""


@cache
def homes() -> dict[str, dict[str, str]]:
    """The index of diffcore's own components: kind -> id -> distribution."""
    return json.loads(files("diffcore").joinpath(INDEX).read_text(encoding="utf-8"))


def home_of(kind: str, id: str) -> str | None:
    """The distribution of diffcore's own that has this component; None where none has."""
    return homes().get(kind, {}).get(id)


def nearest(name: str, entries: Iterable[Entry], count: int = 3) -> list[str]:
    """The ids that may be meant, the likeliest first.

    Equal but for case and signs (`dpm++` is `dpmpp`), as an id or as a name in another tool; then what begins so; then what
    is near in letters; then what has the word in its id or summary (`fid`).
    """
    known, wanted = list(entries), _plain(name.rpartition("/")[2])
    ids = [(_plain(e.id), e.id) for e in known]
    names = ids + [(_plain(alias.name), e.id) for e in known for alias in e.aliases]
    found = [id for word, id in ids if word == wanted] or [id for word, id in names if word == wanted]
    found = found or [id for word, id in names if len(wanted) > 2 and word.startswith(wanted)]
    near = [] if found else difflib.get_close_matches(wanted, [word for word, _ in names], n=1, cutoff=0.6)
    found = found or [id for word, id in ids if word in near] or [id for word, id in names if word in near]
    found = found or [e.id for e in known if len(wanted) > 2 and wanted in _words(f"{e.id} {e.summary}")]
    return list(dict.fromkeys(found))[:count]


def _plain(name: str) -> str:
    """Lower case, `+` as p, and nothing but letters and digits."""
    return "".join(c for c in name[:200].lower().replace("+", "p") if c.isalnum())


def _words(text: str) -> set[str]:
    return {_plain(word) for word in text.replace("-", " ").split()}


def meant(ids: Sequence[str]) -> str:
    """`; did you mean 'a', 'b' or 'c'?`, or an empty string."""
    words = [f"'{id}'" for id in ids]
    return f"; did you mean {' or '.join(filter(None, [', '.join(words[:-1]), words[-1]]))}?" if words else ""


def said_elsewhere(name: str, entries: Iterable[Entry]) -> Iterator[str]:
    """`ComfyUI calls {type: dpmpp-2m} so`, for every component that another tool calls by this name."""
    for entry in entries:
        for alias in entry.aliases:
            if alias.name.lower() == name.lower():
                yield f"{shorten(alias.tool)} calls {shorten(alias.spec(entry.id), 100)} so"


def some(ids: Sequence[str], near: str, more: str) -> str:
    """As many ids as fit a line, those near to a word first where not all fit."""
    if listed(ids, more=more) == ", ".join(ids):
        return listed(ids)
    first = difflib.get_close_matches(near, ids, n=8, cutoff=0.5) if near else []
    return listed([*first, *(id for id in ids if id not in first)], more=more)


def failed(plugins: Iterable[Plugin]) -> str:
    """`not loaded: dist (broken: why)`, the broken ones first; those that were turned off are counted."""
    bad = [p for p in plugins if p.status in ("broken", "incompatible")]
    off = [p for p in plugins if p.status == "disabled"]
    parts = [f"{p.dist} ({p.status}: {shorten(p.cause, 100)})" for p in bad[:2]]
    parts += [f"{len(bad) - 2} more, see: diffcore plugins"] if len(bad) > 2 else []
    parts += (
        [f"{p.dist} (disabled: {p.cause})" for p in off] if len(off) < 3 else [f"{len(off)} plugins (disabled: {off[0].cause})"]
    )
    return f"not loaded: {', '.join(parts)}" if parts else ""

"""The installed components, found by kind and id, and named again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Self, TypeVar

from diffcore.declare import suggesting
from diffcore.declare.component import Base
from diffcore.declare.declarations import is_base
from diffcore.declare.discovery import discover
from diffcore.declare.entry import Entry, Plugin, is_component
from diffcore.declare.errors import PluginError, SpecError, UnknownComponentError, shorten
from diffcore.declare.kinds import Kind
from diffcore.declare.offered import is_of, kinds_of, no_kind

B = TypeVar("B", bound=Base)


class Installed:
    """What is installed, found by kind and id and named again; `Registry` also makes components from their fields.

    plugins: what became of each. kinds: name -> `Kind`, those of the core first.
    """

    def __init__(self, plugins: Iterable[Plugin] = ()) -> None:
        self.plugins = tuple(plugins)
        self.kinds, self._faults = kinds_of(self.plugins)
        self._entries: dict[tuple[str, str], list[Entry]] = {}
        self._classes: dict[Entry, type[Base]] = {}
        for plugin in self.plugins:
            for entry in (e for e in plugin.components if e.kind in self.kinds):
                known = self._entries.setdefault((entry.kind, entry.id), [])
                if entry not in known:  # two entry points of one distribution may name one module
                    known.append(entry)

    @classmethod
    def load(cls, group: str = "diffcore", disable: Iterable[str] = ()) -> Self:
        """Discover every plugin of the entry-point group. Never raises for a plugin's fault.

        A plugin is named by its entry point or its distribution. `disable` and the environment select:
        `DIFFCORE_DISABLE_PLUGINS=a,b`, `DIFFCORE_PLUGINS=a,b` (only these), `DIFFCORE_NO_PLUGINS=1`. Importing changes
        nothing that is global (`Plugin.note` says what it tried), and ends after `DIFFCORE_PLUGIN_SECONDS` (20).
        """
        return cls(discover(group, disable))

    def list(self, kind: str | None = None) -> list[Entry]:
        """All components (of one kind), by kind and id. Imports nothing."""
        if kind is not None and kind not in self.kinds:
            raise UnknownComponentError(self.no_kind(kind))
        order = {k: i for i, k in enumerate(self.kinds)}
        found = [e for entries in self._entries.values() for e in entries if kind in (None, e.kind)]
        return sorted(found, key=lambda e: (order[e.kind], e.id, e.dist))

    def find(self, kind: str, name: str) -> Entry:
        """The one component of this kind called `id` or `dist/id`. Raises `UnknownComponentError`."""
        dist, _, short = name.rpartition("/")
        entries = [e for e in self._entries.get((kind, short), []) if dist in ("", e.dist)]
        if len(entries) == 1:
            return entries[0]
        if entries:
            raise UnknownComponentError(
                f"{kind} '{name}' is provided by {' and '.join(e.dist for e in entries)}; "
                f"write one of {', '.join(e.full_id for e in entries)}"
            )
        raise UnknownComponentError(self._unknown(kind, name))

    def no_kind(self, kind: str) -> str:
        """Why there is no kind of this name, and which there are."""
        return self._faults.get(kind) or no_kind(kind, self.kinds)

    @property
    def faults(self) -> tuple[str, ...]:
        """A line for every kind that several distributions declare, and for every component of a kind that none declares."""
        return tuple(self._faults.values())

    def remedy(self, kind: str, name: str) -> str:
        """What brings a component (or "command") of diffcore's own distributions that is not there: the end of a sentence, or "".

        >>> registry.remedy("network", "mlp")
        'it is in diffcore-nets: pip install diffcore-nets'
        """
        owner, _, short = name.rpartition("/")
        dist = suggesting.home_of(kind, short)
        there = {e.dist for e in self._entries.get((kind, short), [])}
        there |= {p.dist for p in self.plugins if kind == "command" and short in {command.name for command in p.commands}}
        if dist is None or owner not in ("", dist) or dist in there:
            return ""
        known = next((p for p in self.plugins if p.dist == dist and p.status != "ok"), None)
        return f"it is in {dist}, which is {known.status}: {known.cause}" if known else f"it is in {dist}: pip install {dist}"

    def nearest(self, kind: str, name: str) -> list[str]:
        """The ids of the installed components of a kind that may be meant by a word, the likeliest first, at most three."""
        return suggesting.nearest(name, self.list(kind))

    def installed(self, kind: str, near: str = "") -> str:
        """`installed: a, b, c and 41 more: diffcore list solvers`: what there is of a kind, what is near to a word first."""
        ids = list(dict.fromkeys(e.id for e in self.list(kind)))
        return f"installed: {suggesting.some(ids, near, f'diffcore list {self.kinds[kind].plural}')}"

    def failed(self) -> str:
        """`not loaded: dist (broken: why)` for the plugins that cannot be used, as far as a line allows; "" where all can."""
        return suggesting.failed(self.plugins)

    def _unknown(self, kind: str, name: str) -> str:
        if kind not in self.kinds:
            return self.no_kind(kind)
        what = f"no {kind} '{shorten(name)}'"
        if remedy := self.remedy(kind, name):
            return f"{what} installed; {remedy}"
        entries, short = self.list(kind), name.rpartition("/")[2]
        parts = [what + suggesting.meant(self.nearest(kind, name)), *suggesting.said_elsewhere(name, entries)]
        if elsewhere := sorted({e.kind for e in self.list() if e.id == short} - {kind}):
            parts.append(f"'{shorten(short)}' is a {' and a '.join(elsewhere)}")
        parts += [*filter(None, [self.failed()]), self.installed(kind, name)]
        return "; ".join(parts).replace("?; ", "? ")

    def get(self, kind: str, name: str) -> type[Base]:
        """The class of a component, imported on first use."""
        entry = self.find(kind, name)
        if entry not in self._classes:
            cls = entry.load()
            if not is_of(cls, self.kinds[kind]):
                what = f"{kind} '{entry.id}' of {entry.dist} {entry.version}"
                raise PluginError(f"{what} has another base than {self.kinds[kind]}, which is {self.kinds[kind].target}")
            self._classes[entry] = cls
        return self._classes[entry]

    def entry_of(self, cls: type) -> Entry:
        """The entry of a class (the reverse of `get`). Raises `UnknownComponentError` for a class that is not installed."""
        for entry, known in self._classes.items():
            if known is cls:
                return entry
        target = f"{cls.__module__}:{cls.__qualname__}"
        same_kind = self.list(getattr(cls, "kind", None) or None)
        entry = next((e for e in same_kind if e.target == target), None) or next((e for e in same_kind if _loads(e, cls)), None)
        if entry is not None:
            self._classes[entry] = cls
            return entry
        raise UnknownComponentError(f"{target} is not a registered component; registry.add({cls.__name__}) makes it one")

    def id_of(self, cls: type) -> str:
        """The id a spec uses for this class: short where that is unambiguous, else `dist/id`."""
        entry = self.entry_of(cls)
        return entry.id if len(self._entries[entry.kind, entry.id]) == 1 else entry.full_id

    def add(self, cls: type[B], id: str | None = None) -> type[B]:
        """Add a class to this registry without packaging it; usable as a decorator. The id defaults to kebab-case of the name.

        The kind of the class is added with it where no distribution declares one of that name.
        """
        if not is_component(cls):
            raise SpecError(f"{cls!r} is not a component: decorate it with @diffcore.component and derive it from a base class")
        self._add_kind(cls)
        name = id or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()
        entry = Entry(name, cls.kind, f"{cls.__module__}:{cls.__qualname__}", _first_line(cls.__doc__), "local", "0")
        entries = self._entries.setdefault((cls.kind, name), [])
        entries[:] = [e for e in entries if e.dist != "local"] + [entry]
        self._classes[entry] = cls
        return cls

    def _add_kind(self, cls: type[Base]) -> None:
        base = next(base for base in cls.__mro__ if is_base(base))
        local = Kind(cls.kind, f"{base.__module__}:{base.__qualname__}", _first_line(base.__doc__), dist="local", version="0")
        if self.kinds.setdefault(cls.kind, local).dist == "local":
            self.kinds[cls.kind] = local
        elif not is_of(cls, self.kinds[cls.kind]):
            raise SpecError(f"{cls.__name__} is of another kind than {self.kinds[cls.kind]}; give it another name")


def _loads(entry: Entry, cls: type) -> bool:
    """Whether the entry's target is this class under another name; a class that cannot be imported is not."""
    try:
        return entry.load() is cls
    except PluginError:
        return False


def _first_line(doc: str | None) -> str:
    line = (doc or "").strip().partition("\n")[0]
    return line if line.isprintable() else shorten(line, 200)

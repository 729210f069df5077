"""Discovery: which components are installed, and which plugins could not be loaded and why. No torch here.

pluggy defines and validates the hooks; the loading is ours, because one broken plugin must cost one line of
`diffcore plugins`, not the tool.
"""

from __future__ import annotations

import importlib
import os
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import attrs
import importlib_metadata
import pluggy

from diffcore import hookspecs
from diffcore.component import Alias, Base, Component
from diffcore.errors import PluginError, SpecError, UnknownComponentError, did_you_mean
from diffcore.hookspecs import API_VERSION, KINDS

B = TypeVar("B", bound=Base)
ALL_KINDS = tuple(kind for kinds in KINDS.values() for kind in kinds)


@attrs.frozen
class Entry:
    """One installed component: its declaration and the distribution that provides it."""

    id: str
    kind: str
    target: str
    summary: str
    dist: str
    version: str
    aliases: tuple[Alias, ...] = ()

    @property
    def full_id(self) -> str:
        """`dist/id`, unambiguous whatever else is installed."""
        return f"{self.dist}/{self.id}"

    def load(self) -> type[Base]:
        """Import the class. Raises `PluginError` naming distribution and cause."""
        module, _, name = self.target.partition(":")
        try:
            cls: Any = getattr(importlib.import_module(module), name)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{self.kind} '{self.id}' of {self.dist} {self.version} cannot be imported from {self.target}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not (_is_component(cls) and cls.kind == self.kind):
            raise PluginError(
                f"{self.target} of {self.dist} {self.version} is declared as a {self.kind}, but is not a class made "
                f"with @diffcore.component that derives from the base class of that kind"
            )
        return cls


@attrs.frozen
class Plugin:
    """What became of one installed plugin: status is ok, disabled, incompatible or broken; cause says why not ok."""

    name: str
    dist: str
    version: str
    module: str
    status: str
    api: int | None = None
    cause: str = ""
    trace: str = attrs.field(default="", repr=False)
    components: tuple[Entry, ...] = ()


class Registry:
    """The installed components, as a value: build one, pass it on.

    `Registry.load()` discovers; `Registry()` is empty. `add` puts a class of a notebook into this registry only.
    """

    def __init__(self, plugins: Iterable[Plugin] = ()) -> None:
        self.plugins = tuple(plugins)
        self._entries: dict[tuple[str, str], list[Entry]] = {}
        self._classes: dict[Entry, type[Base]] = {}
        for plugin in self.plugins:
            for entry in plugin.components:
                known = self._entries.setdefault((entry.kind, entry.id), [])
                if entry not in known:  # two entry points of one distribution may name one module
                    known.append(entry)

    @classmethod
    def load(cls, group: str = "diffcore", disable: Iterable[str] = ()) -> Registry:
        """Discover every plugin of the entry-point group. Never raises for a plugin's fault.

        A plugin is named by its entry point or its distribution. `disable` and the environment select:
        `DIFFCORE_DISABLE_PLUGINS=a,b`, `DIFFCORE_PLUGINS=a,b` (only these), `DIFFCORE_NO_PLUGINS=1`.
        """
        wanted = _Selection.read(disable)
        found = [(*_provider(point), point) for point in importlib_metadata.entry_points(group=group)]
        ordered = sorted(found, key=lambda f: (f[0], f[-1].name))
        return cls(_discover(point, dist, version, damage, wanted) for dist, version, damage, point in ordered)

    def list(self, kind: str | None = None) -> list[Entry]:
        """All components (of one kind), by kind and id. Imports nothing."""
        if kind is not None and kind not in ALL_KINDS:
            raise SpecError(f"no kind '{kind}'{did_you_mean(kind, ALL_KINDS) or ';'} kinds: {', '.join(ALL_KINDS)}")
        order = {k: i for i, k in enumerate(ALL_KINDS)}
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

    def _unknown(self, kind: str, name: str) -> str:
        known = [e.id for e in self.list(kind)]
        elsewhere = sorted({e.kind for e in self.list() if e.id == name})
        parts = [f"no {kind} '{name}'{did_you_mean(name, known)}"]
        named = [(a, e.id) for e in self.list(kind) for a in e.aliases if a.name.lower() == name.lower()]
        parts += [f"{alias.tool} calls {alias.spec(id)} so" for alias, id in named]
        if elsewhere:
            parts.append(f"'{name}' is a {' and a '.join(elsewhere)}")
        parts.append(f"installed: {', '.join(known) or 'none'}")
        failed = [f"{p.dist} ({p.status}: {p.cause})" for p in self.plugins if p.status != "ok"]
        if failed:
            parts.append(f"not loaded: {', '.join(failed)}")
        return "; ".join(parts).replace("?; ", "? ")

    def get(self, kind: str, name: str) -> type[Base]:
        """The class of a component, imported on first use."""
        entry = self.find(kind, name)
        if entry not in self._classes:
            self._classes[entry] = entry.load()
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

    def make(self, kind: str, spec: str | Mapping[str, Any], /, **fields: Any) -> Any:
        """Make a component from its id and fields, or from a mapping with `type`.

        >>> registry.make("solver", "euler", steps=20)
        >>> registry.make("solver", {"type": "euler", "steps": 20})

        Fields are checked strictly (types, bounds, unknown names); all faults come in one `SpecError`.
        """
        from diffcore.specs import structure

        raw = {"type": spec, **fields} if isinstance(spec, str) else {**spec, **fields}
        return structure(self, kind, raw)

    def add(self, cls: type[B], id: str | None = None) -> type[B]:
        """Add a class to this registry without packaging it; usable as a decorator. The id defaults to kebab-case of the name."""
        if not _is_component(cls):
            raise SpecError(f"{cls!r} is not a component: decorate it with @diffcore.component and derive it from a base class")
        name = id or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()
        entry = Entry(name, cls.kind, f"{cls.__module__}:{cls.__qualname__}", _first_line(cls.__doc__), "local", "0")
        entries = self._entries.setdefault((cls.kind, name), [])
        entries[:] = [e for e in entries if e.dist != "local"] + [entry]
        self._classes[entry] = cls
        return cls


@attrs.frozen
class _Selection:
    disabled: frozenset[str]
    only: frozenset[str] | None
    none: bool

    @classmethod
    def read(cls, disable: Iterable[str]) -> _Selection:
        env = os.environ
        only = env.get("DIFFCORE_PLUGINS")
        return cls(
            frozenset(disable) | _names(env.get("DIFFCORE_DISABLE_PLUGINS", "")),
            None if only is None else _names(only),
            env.get("DIFFCORE_NO_PLUGINS", "") not in ("", "0"),
        )

    def refuses(self, name: str, dist: str) -> str:
        """Why this plugin is disabled, or an empty string. The core's own components are always there."""
        if dist == "diffcore":
            return ""
        if self.none:
            return "DIFFCORE_NO_PLUGINS is set"
        if {name, dist} & self.disabled:
            return "disabled by name"
        if self.only is not None and not {name, dist} & self.only:
            return "not in DIFFCORE_PLUGINS"
        return ""


def misnamed(plugins: Iterable[Plugin]) -> Iterator[str]:
    """A line for every name in the environment that selects plugins and is neither an entry point nor a distribution."""
    known = {name for plugin in plugins for name in (plugin.name, plugin.dist)}
    for variable in ("DIFFCORE_DISABLE_PLUGINS", "DIFFCORE_PLUGINS"):
        for name in sorted(_names(os.environ.get(variable, "")) - known):
            yield f"{variable}: no plugin or distribution '{name}'{did_you_mean(name, known) or ';'} see: diffcore plugins"


def _loads(entry: Entry, cls: type) -> bool:
    """Whether the entry's target is this class under another name; a class that cannot be imported is not."""
    try:
        return entry.load() is cls
    except PluginError:
        return False


def _is_component(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, Base) and cls.kind in ALL_KINDS and attrs.has(cls)


def _names(text: str) -> frozenset[str]:
    return frozenset(n.strip() for n in text.split(",") if n.strip())


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().partition("\n")[0]


def _provider(point: importlib_metadata.EntryPoint) -> tuple[str, str, str]:
    """Name and version of the distribution of an entry point, and what is damaged where they cannot be read."""
    if point.dist is None:
        return "unknown", "0", ""
    try:
        name, version = point.dist.name, point.dist.version
    except Exception as error:
        name, version = None, type(error).__name__
    if isinstance(name, str) and name and isinstance(version, str):
        return name, version, ""
    where = point.dist.locate_file("")
    return "unknown", "0", f"the METADATA of its installation in {where} is missing or damaged; reinstall it or remove its folder"


def _discover(point: importlib_metadata.EntryPoint, dist: str, version: str, damage: str, wanted: _Selection) -> Plugin:
    record = Plugin(point.name, dist, version, point.value, "ok")
    if why := wanted.refuses(point.name, dist):
        return attrs.evolve(record, status="disabled", cause=why)
    if damage:
        return attrs.evolve(record, status="broken", cause=damage)
    try:
        module = point.load()
        api = getattr(module, "API_VERSION", None)
        if api != API_VERSION:
            cause = f"written for api {api}, this diffcore has api {API_VERSION}" if api else "states no API_VERSION"
            return attrs.evolve(record, status="incompatible", api=api, cause=cause)
        return attrs.evolve(record, api=api, components=tuple(_components(module, dist, version)))
    except (Exception, SystemExit) as error:
        cause = f"{type(error).__name__}: {error}" if not isinstance(error, PluginError) else str(error)
        return attrs.evolve(record, status="broken", cause=cause, trace=traceback.format_exc())


def _components(module: Any, dist: str, version: str) -> Iterator[Entry]:
    manager = pluggy.PluginManager("diffcore")
    manager.add_hookspecs(hookspecs)
    _refuse_unknown_hooks(module)
    manager.register(module)
    seen: set[tuple[str, str]] = set()
    for hook, kinds in KINDS.items():
        for declared in getattr(manager.hook, hook)():
            for item in declared:
                entry = _entry(item, hook, kinds, dist, version)
                if (entry.kind, entry.id) in seen:
                    raise PluginError(f"{hook} yields the {entry.kind} '{entry.id}' twice")
                seen.add((entry.kind, entry.id))
                yield entry


def _entry(item: Any, hook: str, kinds: tuple[str, ...], dist: str, version: str) -> Entry:
    if not isinstance(item, Component):
        raise PluginError(f"{hook} must yield diffcore.Component(...), got {item!r}")
    kind = item.kind or kinds[0]
    if kind not in kinds:
        raise PluginError(f"{hook} cannot yield a {kind} ('{item.id}'); it carries: {', '.join(kinds)}")
    return Entry(item.id, kind, item.target, item.summary, dist, version, item.aliases)


def _refuse_unknown_hooks(module: Any) -> None:
    for name, value in vars(module).items():
        marked = getattr(value, "diffcore_impl", None) is not None
        if (marked or (name.startswith("diffcore_") and callable(value))) and name not in KINDS:
            raise PluginError(f"'{name}' is not a hook of diffcore{did_you_mean(name, KINDS) or ';'} hooks: {', '.join(KINDS)}")
        if name in KINDS and not marked:
            raise PluginError(f"'{name}' lacks the @diffcore.hookimpl decorator")
